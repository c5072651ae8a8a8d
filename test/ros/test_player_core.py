"""The player without ROS: whatever comes when, it never moves when it should not."""
import math

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from player_rig import PERIOD, action_chunk
from specprune_ros.msg import ActionChunk, VlaStatus

from specprune_ros.robot.joint_motion import ArmAstray, MotionRefused
from specprune_ros.ros.player_core import Output, PlayerCore, State
from specprune_ros.ros.player_parameters import PlayerSettings

LIMIT = np.array([0.05] * 3 + [0.15] * 3)  # max_speed 1 m/s, 3 rad/s for one period


class Recorder(Output):
    """An output that notes what it is told, with faults on demand."""

    def __init__(self):
        self.said = []
        self.trouble_text = ""
        self.refuse = None

    def trouble(self, now):
        return self.trouble_text

    def move(self, motion, now):
        if self.refuse is not None:
            raise self.refuse
        self.said.append(("move", motion, now))

    def hold(self, motion, now):
        self.said.append(("hold", motion, now))

    def stop(self, now):
        self.said.append(("stop", None, now))


def core(**values):
    output = Recorder()
    return PlayerCore(PlayerSettings(values), output, lambda text: None), output


def rows(seed, count, size):
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-size, size, (count, 7))
    actions[:, 3:6] *= 0.1
    actions[:, 6] = rng.random(count)
    return actions.ravel().tolist()


EVENTS = st.lists(st.one_of(
    st.tuples(st.just("tick"), st.floats(0.0, 3.0)),
    st.tuples(st.just("chunk"), st.integers(0, 2**32 - 1), st.floats(-12, 4),
              st.sampled_from([0.3, 0.5, 3.0]), st.sampled_from([
                  {}, {}, {}, {"source": ActionChunk.HOLD}, {"dt": 0.1}, {"frame_id": "world"},
                  {"data": [math.nan] * 56}, {"horizon": 7}, {"unit_scale": [9.0] * 7}])),
    st.tuples(st.just("status"), st.sampled_from(list(range(5))), st.booleans()),
    st.tuples(st.just("silence"), st.floats(0.0, 4.0)),
    st.tuples(st.just("trouble"), st.sampled_from(["", "", "no joint states"])),
    st.tuples(st.just("refuse"), st.sampled_from([None, None, "limit", "astray"])),
    st.tuples(st.just("stop")),
    st.tuples(st.just("clear")),
    st.tuples(st.just("set_clock"), st.floats(-100, 100)),
), min_size=5, max_size=60)


class World:
    """What is true, kept apart from the player: whether it may move at all."""

    def __init__(self):
        self.core, self.output = core()
        self.now, self.wall = 1000 * PERIOD, 100.0
        self.status, self.status_at = None, -math.inf
        self.covered = []  # (from, until) of accepted chunks, ns
        self.tell(VlaStatus.RUNNING, False)

    def tell(self, state, latched):
        self.status, self.status_at = (state, latched), self.wall
        self.core.on_status(VlaStatus(state=state, latched=latched), self.wall)

    def may_move(self):
        state, latched = self.status
        return (not latched and state not in (VlaStatus.UNCONFIGURED, VlaStatus.INACTIVE)
                and self.wall - self.status_at <= 2.0 and not self.output.trouble_text
                and not self.core.latch.reason)

    def chunk(self, seed, offset, size, changes):
        stamp = max(0, self.now + round(offset * PERIOD))
        message = action_chunk(stamp, **{"data": rows(seed, 8, size), **changes})
        before = self.core.counters.chunks
        self.core.on_chunk(message, self.now)
        if self.core.counters.chunks > before:
            assert size <= 0.5 and set(changes) <= {"source"}
            assert "source" not in changes  # its rows move
            assert -2 * PERIOD <= self.now - stamp < 8 * PERIOD
            self.covered.append((stamp, stamp + 8 * PERIOD))

    def tick(self, periods):
        self.now += round(periods * PERIOD)
        self.wall += periods * 0.05
        said = len(self.output.said)
        may, state = self.may_move(), self.core.state
        self.core.tick(self.now, self.wall)
        for kind, motion, _ in self.output.said[said:]:
            if kind == "stop":
                assert state in (State.MOVING, State.HOLDING)
                assert self.core.state is State.STOPPED
            elif kind == "hold":
                assert state in (State.MOVING, State.HOLDING)
            else:
                assert may and self.core.state is State.MOVING
                assert np.isfinite(motion.step).all()
                assert np.linalg.norm(motion.step[:3]) <= 1.5 * LIMIT[0] + 1e-9
                assert np.linalg.norm(motion.step[3:]) <= 1.5 * LIMIT[3] + 1e-9
                assert any(start - PERIOD < self.now < end for start, end in self.covered)
        if not may:
            assert self.core.state is State.STOPPED


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(EVENTS)
def test_it_moves_only_by_valid_rows_of_the_present_and_without_any_fault(events):
    world = World()
    for kind, *values in events:
        if kind == "tick":
            world.tick(*values)
        elif kind == "chunk":
            world.chunk(*values)
        elif kind == "status":
            world.tell(*values)
        elif kind == "silence":
            world.wall += values[0]
        elif kind == "trouble":
            world.output.trouble_text = values[0]
        elif kind == "refuse":
            world.output.refuse = {None: None, "limit": MotionRefused("joint limit"),
                                   "astray": ArmAstray("blocked")}[values[0]]
        elif kind == "stop":
            world.core.stop("somebody", world.now)
            assert world.core.state is State.STOPPED
        elif kind == "clear":
            world.core.clear_fault()
            world.covered.clear()
        else:
            world.now = max(0, world.now + round(values[0] * PERIOD))
            world.core.reset()
            world.covered.clear()
        world.tick(1.0)


def play(player, output, count):
    now = 1000 * PERIOD
    player.on_status(VlaStatus(state=VlaStatus.RUNNING), 0.0)
    player.on_chunk(action_chunk(now), now)
    for k in range(count):
        player.tick(now + k * PERIOD, 0.0)
    return [kind for kind, _, _ in output.said]


def test_a_chunk_is_played_then_held_then_nothing():
    player, output = core()
    assert play(player, output, 60) == ["move"] * 8 + ["hold"] * 21
    assert player.state is State.IDLE


def test_commands_that_the_arm_cannot_follow_are_latched_in_the_end():
    player, output = core(latch_after=3)
    output.refuse = MotionRefused("joint limit")
    said = play(player, output, 8)
    assert player.state is State.STOPPED and "joint limit" in player.latch.reason
    assert "move" not in said
    assert player.counters.refused == 3


def test_no_time_at_all_is_no_reason_to_move():
    player, output = core()
    player.on_status(VlaStatus(state=VlaStatus.RUNNING), 0.0)
    player.on_chunk(action_chunk(1000 * PERIOD), 0)  # a clock that has not begun
    player.tick(0, 0.0)
    assert output.said == []
