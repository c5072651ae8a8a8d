"""sim_bridge_node in a process of its own, over DDS, with a scripted policy on the other side."""
import math
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
from rcl_interfaces.srv import SetParametersAtomically  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from specprune_ros.msg import ActionChunk  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from specprune_ros.ros.resets import reset_answer  # noqa: E402

sys.path.append(str(Path(__file__).parent))  # the helper modules beside this file

from sim_bridge_fakes import INSTRUCTIONS, URDF, PointWorld  # noqa: E402
from sim_bridge_harness import (  # noqa: E402
    PROCESS,
    ScriptedPolicy,
    every_eighth,
    nanoseconds,
)

STEPS = PointWorld.max_steps


class Bench:
    """A scripted policy in this process, the bridge in another."""

    def __init__(self, ros, processes):
        self._ros = ros
        self._processes = processes
        self.spin_until = ros.spin_until
        self.policy = ScriptedPolicy(ros.node("vla_node"))
        self.bridge = None

    def start(self, **parameters):
        arguments = [PROCESS, "--ros-args"]
        for name, value in {"render_size": 16, "episodes": 1, **parameters}.items():
            arguments += ["-p", f"{name}:={value}"]
        self.bridge = self._processes.start(*arguments)

    def finish(self):
        """Wait for the end of the bridge and for what it sent last; return its exit status."""
        policy = self.policy
        assert self.spin_until(lambda: self.bridge.poll() is not None), self.log()
        assert self.spin_until(lambda: policy.statuses and policy.statuses[-1].done), self.log()
        end = nanoseconds(policy.statuses[-1].header.stamp)
        assert self.spin_until(  # topics have no order among them
            lambda: stamps(policy.joints[-1:]) == [nanoseconds(c.clock) for c in policy.clocks[-1:]]
            == [end]), self.log()
        return self.bridge.returncode

    def log(self):
        return self.bridge.log.read_text()


@pytest.fixture
def bench(ros, processes):
    return Bench(ros, processes)


def stamps(messages):
    return [nanoseconds(message.header.stamp) for message in messages]


def test_lockstep_publishes_an_observation_per_period_and_ends_after_the_episodes(bench):
    bench.policy.on_image = every_eighth
    bench.start(episodes=3)
    assert bench.finish() == 0
    policy = bench.policy
    assert [(s.episode, s.step) for s in policy.statuses] == [
        (episode, step) for episode in range(3) for step in range(STEPS + 1)]
    # An image for every state that can still be acted on, joint states for the last one too.
    assert len(policy.images) == len(policy.wrists) == 3 * STEPS
    assert stamps(policy.joints) == stamps(policy.statuses)
    assert stamps(policy.images) == stamps(s for s in policy.statuses if not s.done)
    last = policy.statuses[-1]
    assert (last.episodes_done, last.successes, last.chunks, last.held_steps) == (3, 0, 9, 0)
    assert policy.descriptions[0].data == URDF


def test_time_grows_by_one_period_through_every_episode(bench):
    """Of /clock, which keeps the newest ten messages only, some may be lost on a busy machine."""
    bench.policy.on_image = every_eighth
    bench.start(episodes=2)
    assert bench.finish() == 0
    times = stamps(bench.policy.statuses)
    assert times[0] > 0
    assert np.diff(times).tolist() == [50_000_000] * (2 * STEPS + 1)
    clock = [nanoseconds(message.clock) for message in bench.policy.clocks]
    assert np.diff(clock).min() >= 0  # the time of a first observation is published ahead of it
    assert set(clock) <= set(times) and clock[-1] == times[-1]
    assert len(set(clock)) > STEPS


def test_episode_starts_with_reset_then_instruction_then_observation(bench):
    bench.policy.on_image = every_eighth
    bench.start(episodes=2, seed=5)
    assert bench.finish() == 0
    events = bench.policy.events
    order = {name: [k for k, event in enumerate(events) if event[0] == name]
             for name in ("instruction", "reset", "image")}
    assert [events[k][1] for k in order["instruction"]] == [INSTRUCTIONS[1], INSTRUCTIONS[0]]
    for episode in range(2):
        first_image = order["image"][episode * STEPS]
        assert order["reset"][episode] < order["instruction"][episode] < first_image
        if episode:
            assert order["image"][episode * STEPS - 1] < order["reset"][episode]
    assert [s.init_state for s in bench.policy.statuses if s.done] == [5, 6]


def test_no_observation_before_the_policy_accepts_the_reset(bench):
    policy = bench.policy
    policy.refuse = True
    policy.on_image = every_eighth
    bench.start()
    assert bench.spin_until(lambda: policy.resets >= 3), bench.log()
    assert not policy.images
    policy.refuse = False
    assert bench.finish() == 0
    assert bench.log().count("the script refuses") == 1  # logged at the edge, not at every call
    assert len(policy.images) == STEPS


def test_an_episode_waits_until_the_policy_has_its_time(bench):
    """What is left of the last episode would be taken for the new one's otherwise."""
    policy = bench.policy
    policy.on_image = every_eighth
    late = iter(range(3))

    def start():
        """The time that the script knows, at first one that is a little behind."""
        time = nanoseconds(policy.clocks[-1].clock) if policy.clocks else 0
        return reset_answer(policy.resets, max(0, time - (next(late, None) is not None)))

    policy.reset_message = start
    bench.start(episodes=2)
    assert bench.finish() == 0
    assert policy.resets >= 5  # three that did not count, and one for each episode
    # Once for each episode at most; that of the second may be behind by itself.
    assert bench.log().count("the clock of vla_node is at") in (1, 2)
    first_image = next(k for k, event in enumerate(policy.events) if event[0] == "image")
    assert [name for name, _ in policy.events[:first_image]].count("reset") >= 4


def test_rows_are_played_with_the_gripper_converted_and_motion_saturated(bench):
    rows = np.zeros((8, 7))
    rows[:, 1] = [0.25, -0.25, 0.5, 3.0, -3.0, 0.0, 0.0, 0.0]
    rows[:, 6] = [1, 1, 0, 0, 1, 1, 1, 1]  # data set: 1 open
    bench.policy.on_image = lambda policy, stamp, count: (
        policy.answer(stamp, data=rows.ravel()) if count == 1 else every_eighth(
            policy, stamp, count))
    bench.start()
    assert bench.finish() == 0
    played = np.array([message.position for message in bench.policy.joints])
    np.testing.assert_allclose(played[1:9, 1], [0.25, 0.0, 0.5, 1.5, 0.5, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(played[1:9, 3], [-1, -1, 1, 1, -1, -1, -1, -1])  # +1 closed


def test_success_ends_the_episode_at_once(bench):
    rows = np.zeros((8, 7))
    rows[:, 0] = 0.3
    bench.policy.on_image = lambda policy, stamp, count: policy.answer(stamp, data=rows.ravel())
    bench.start()
    assert bench.finish() == 0
    last = bench.policy.statuses[-1]
    assert (last.step, last.success, last.successes, last.episodes_done) == (4, True, 1, 1)


def test_chunks_for_another_observation_or_task_are_not_played(bench):
    def answer(policy, stamp, count):
        if (count - 1) % 8:
            return
        run_away = np.ones(56)
        stale = type(stamp)(sec=stamp.sec, nanosec=stamp.nanosec - 1)
        policy.answer(stale, data=run_away)
        policy.answer(stamp, data=run_away, instruction="another task")
        policy.answer(stamp)
        policy.answer(stamp, data=run_away)  # a second answer for the same observation

    bench.policy.on_image = answer
    bench.start()
    assert bench.finish() == 0
    assert all(message.position[0] == 0.0 for message in bench.policy.joints)
    assert bench.policy.statuses[-1].chunks == 3


def test_a_rejected_chunk_is_named_once_and_the_next_good_one_played(bench):
    def answer(policy, stamp, count):
        if (count - 1) % 8:
            return
        bad = np.zeros(56)
        bad[3] = np.nan
        policy.answer(stamp, data=bad)
        policy.answer(stamp, data=bad)
        policy.answer(stamp)

    bench.policy.on_image = answer
    bench.start()
    assert bench.finish() == 0
    assert bench.log().count("chunk rejected") == 3  # once for each run of equal rejections
    assert "row 0, column 3" in bench.log()
    assert "3 chunks played, 6 rejected" in bench.log()


def test_a_hold_is_the_answer_to_its_observation_but_no_chunk_of_the_policy(bench):
    """And the hold that ends an episode is not: it has the stamp with which the next begins."""
    moving = np.zeros((8, 7))
    moving[:, 1] = 0.125
    policy = bench.policy
    policy.reset_message = lambda: reset_answer(
        10 + policy.resets, nanoseconds(policy.clocks[-1].clock) if policy.clocks else 0)

    def answer(policy, stamp, count):
        if count == 1:
            policy.answer(stamp, source=ActionChunk.HOLD, episode=9 + policy.resets)
            policy.answer(stamp, data=moving.ravel(), episode=10 + policy.resets)
        elif count == 9:
            policy.answer(stamp, source=ActionChunk.HOLD, episode=10 + policy.resets)
        elif count == 17:
            policy.answer(stamp, data=moving.ravel(), episode=10 + policy.resets)

    bench.policy.on_image = answer
    bench.start(episodes=2)
    assert bench.finish() == 0
    for episode in range(2):
        y = [joints.position[1] for joints, status in zip(policy.joints, policy.statuses)
             if status.episode == episode]
        steps = [*[0.125] * 8, *[0.0] * 8, *[0.125] * 4]
        np.testing.assert_allclose(np.diff(y), steps)
    last = policy.statuses[-1]
    assert (last.chunks, last.held_steps) == (4, 16)


def test_a_hold_whose_rows_move_is_rejected(bench):
    def answer(policy, stamp, count):
        if (count - 1) % 8 == 0:
            policy.answer(stamp, source=ActionChunk.HOLD, data=np.ones(56))
            policy.answer(stamp)

    bench.policy.on_image = answer
    bench.start()
    assert bench.finish() == 0
    assert "source is HOLD, but the rows move" in bench.log()
    assert all(message.position[0] == 0.0 for message in bench.policy.joints)


def test_a_lost_answer_is_asked_for_again_with_the_same_observation(bench):
    asked = []

    def answer(policy, stamp, count):
        asked.append(nanoseconds(stamp))
        again = asked.count(asked[-1])
        if again == 3 or (again == 1 and len(set(asked)) > 1 and (len(set(asked)) - 1) % 8 == 0):
            policy.answer(stamp)

    bench.policy.on_image = answer
    bench.start(chunk_timeout=0.3)
    assert bench.finish() == 0
    assert asked.count(asked[0]) >= 3
    assert bench.log().count("no chunk for the observation at 0.050 s") == 1
    assert "chunks arrive again" in bench.log()
    assert bench.policy.statuses[-1].chunks == 3


def test_a_policy_that_is_out_of_step_is_asked_to_start_anew(bench):
    """It has answered an observation in between, and will not be asked before eight after it."""
    asked = []

    def answer(policy, stamp, count):
        first = policy.resets == 1 and len(asked) < 9
        if nanoseconds(stamp) not in asked:
            asked.append(nanoseconds(stamp))
        if first and len(asked) in (1, 3):
            policy.answer(stamp)  # the third as if an episode had begun with it
        elif policy.resets == 2 and (len(asked) - 1) % 8 == 0:
            policy.answer(stamp)

    bench.policy.on_image = answer
    bench.start(chunk_timeout=0.5)
    assert bench.finish() == 0
    assert bench.policy.resets == 2
    assert bench.policy.statuses[-1].chunks == 3


def test_an_episode_that_somebody_else_starts_stops_nothing(bench):
    """As by a button: what is waited for is forgotten there, and asked for again at once."""
    policy = bench.policy
    policy.reset_message = lambda: reset_answer(policy.resets + (policy.resets > 1), 10**12)

    def answer(policy, stamp, count):
        if policy.resets == 1 and count == 9:
            policy.report(episode=2)
        elif (count - 1) % 8 == 0:
            policy.answer(stamp)

    policy.on_image = answer
    bench.start(chunk_timeout=30.0)
    assert bench.finish() == 0
    assert policy.resets == 2 and policy.statuses[-1].chunks == 3
    assert "another episode" in bench.log()
    assert "no chunk for the observation" not in bench.log()


def test_age_of_an_observation_is_from_its_publication_to_its_chunk(bench):
    def answer(policy, stamp, count):
        if (count - 1) % 8 == 0:
            time.sleep(0.2)
            policy.answer(stamp)

    bench.policy.on_image = answer
    bench.start(episodes=2)
    assert bench.finish() == 0
    for status in bench.policy.statuses:
        if status.step == 0:
            assert math.isnan(status.observation_age)  # no chunk yet
        else:
            assert status.observation_age >= 0.2


def test_max_steps_ends_an_episode(bench):
    bench.policy.on_image = every_eighth
    bench.start(max_steps=11)
    assert bench.finish() == 0
    assert [s.step for s in bench.policy.statuses if s.done] == [11]
    assert {s.max_steps for s in bench.policy.statuses} == {11}


def test_on_request_an_episode_is_played_for_each_call(bench):
    policy = bench.policy
    policy.on_image = every_eighth
    bench.start(episodes=4, on_request=True, seed=3)
    bridge = BridgeCalls(bench)
    assert not bridge.set(task=2).successful and "2 tasks" in bridge.set(task=2).reason
    assert not bridge.set(seed=-1).successful
    assert not bridge.set(suite="other").successful
    assert policy.resets == 0  # nothing is played yet
    assert bridge.play().message == "episode 0: initial state 3, task by the initial state"
    bridge.await_end(0)
    resets = policy.resets
    assert bridge.set(task=1, seed=40).successful
    assert not bench.spin_until(lambda: policy.resets > resets, 1.0)
    policy.refuse = True  # so that the episode does not go on meanwhile
    assert bridge.play().success
    refused = bridge.play()
    assert not refused.success and refused.message == "episode 1 is not over"
    policy.refuse = False
    bridge.await_end(1)
    assert bridge.play().message == "episode 2: initial state 41, task 1"
    bridge.await_end(2)
    assert bridge.set(seed=7).successful
    assert bridge.play().success
    assert bench.finish() == 0
    ends = [s for s in policy.statuses if s.done]
    assert [(s.episode, s.init_state) for s in ends] == [(0, 3), (1, 40), (2, 41), (3, 7)]
    assert [s.instruction for s in ends] == [INSTRUCTIONS[1]] * 4


class BridgeCalls:
    """Services of the bridge, as a client of it calls them."""

    def __init__(self, bench):
        self._bench = bench
        node = bench.policy.node
        self._play = node.create_client(Trigger, "sim_bridge_node/play_episode")
        self._set = node.create_client(
            SetParametersAtomically, "sim_bridge_node/set_parameters_atomically")

    def _call(self, client, request):
        assert self._bench.spin_until(client.service_is_ready), self._bench.log()
        future = client.call_async(request)
        assert self._bench.spin_until(future.done), self._bench.log()
        return future.result()

    def play(self):
        return self._call(self._play, Trigger.Request())

    def set(self, **values):
        parameters = [Parameter(n, value=v).to_parameter_msg() for n, v in values.items()]
        return self._call(
            self._set, SetParametersAtomically.Request(parameters=parameters)).result

    def await_end(self, episode):
        statuses = self._bench.policy.statuses
        assert self._bench.spin_until(
            lambda: statuses and statuses[-1].done and statuses[-1].episode == episode)


def test_realtime_holds_with_the_last_gripper_command_where_there_is_no_chunk(bench):
    rows = np.zeros((4, 7))
    rows[:, 1] = 0.125
    rows[:, 6] = 0.0  # close
    answered = []

    def answer(policy, stamp, count):
        # Until something has been played:
        if not policy.joints or policy.joints[-1].position[1] == 0.0:
            answered.append(nanoseconds(stamp))
            policy.answer(stamp, horizon=4, data=rows.ravel())

    bench.policy.on_image = answer
    bench.start(pacing="realtime", real_time_factor=0.5)
    assert bench.finish() == 0
    joints, last = bench.policy.joints, bench.policy.statuses[-1]
    times = stamps(joints)
    played = [k for k in range(STEPS) if joints[k + 1].position[1] > joints[k].position[1]]
    assert last.step == STEPS
    assert played
    assert last.held_steps == STEPS - len(played)
    for k in played:  # row r of a chunk is for period r after its stamp, whenever it arrives
        assert any((times[k] - stamp) // 50_000_000 in range(4) for stamp in answered)
    assert played[-1] < STEPS - 1
    assert all(message.position[3] == 1.0 for message in joints[played[0] + 1:])


def test_a_hold_ends_the_motion_at_once_in_realtime(bench):
    rows = np.zeros((8, 7))
    rows[:, 1], rows[:, 6] = 0.125, 0.0  # close
    policy = bench.policy
    held = []

    def answer(policy, stamp, count):
        moves = policy.joints and policy.joints[-1].position[1] > 0.0
        if not moves:
            policy.answer(stamp, data=rows.ravel())
        elif not held:
            held.append(nanoseconds(stamp))
            policy.answer(stamp, source=ActionChunk.HOLD, data=(rows * ([0] * 6 + [1])).ravel())

    bench.policy.on_image = answer
    bench.start(pacing="realtime", real_time_factor=0.25)
    assert bench.finish() == 0
    y = {nanoseconds(m.header.stamp): m.position[1] for m in policy.joints}
    after = [at for at in y if at >= held[0]]
    # What was on its way when the hold came: the row of its time, and hardly another.
    moved = sum(y[b] > y[a] for a, b in zip(after, after[1:]))
    assert moved <= 4 and len({y[at] for at in after[6:]}) == 1
    assert policy.statuses[-1].held_steps >= len(after) - 1 - moved
    assert policy.joints[-1].position[3] == 1.0


def test_realtime_runs_on_without_a_policy_that_agrees(bench):
    bench.policy.refuse = True
    bench.start(episodes=0, pacing="realtime", chunk_timeout=1.0, real_time_factor=5.0)
    statuses = bench.policy.statuses
    assert bench.spin_until(lambda: statuses and statuses[-1].episodes_done > 0), bench.log()
    assert all(s.held_steps == s.episodes_done * STEPS + s.step for s in statuses if not s.done)
    assert statuses[-1].chunks == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_node_cleanly(bench, signum):
    # A process maps the segments of those it hears, too: whatever was there before is not its own.
    before = set(Path("/dev/shm").iterdir())
    bench.start(episodes=0)  # the policy answers the reset and never sends a chunk
    assert bench.spin_until(lambda: bench.policy.images), bench.log()
    segments = shared_memory(bench.bridge.pid) - before
    bench.bridge.send_signal(signum)
    assert bench.bridge.wait(60) == 0, bench.log()
    assert "Traceback" not in bench.log()
    assert segments
    left = {path: users(path) for path in segments if path.exists()}
    assert left == {}, bench.log()


def shared_memory(pid):
    """Data segments of Fast DDS that a process has mapped (its ports are shared with peers)."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return set(map(Path, re.findall(r"/dev/shm/fastdds_[0-9a-f]{16}$", maps, re.MULTILINE)))


def users(path):
    """Command lines of the processes that have a file mapped."""
    found = []
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            if str(path) in maps.read_text():
                found.append(maps.with_name("cmdline").read_bytes())
        except OSError:  # it has ended, or is of another user
            continue
    return found
