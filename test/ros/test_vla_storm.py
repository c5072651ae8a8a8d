"""vla_node while everything is asked of it at the wrong moment."""
import random
import threading
from itertools import count

import numpy as np
import pytest
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from specprune_ros.msg import ActionChunk, VlaStatus
from std_srvs.srv import Trigger
from vla_bench import Bench
from vla_rig import INSTRUCTION, PERIOD

from specprune_ros.errors import CheckpointError
from specprune_ros.ros.vla_outputs import VlaOutputs

GOOD = np.arange(56, dtype=np.float64).reshape(8, 7) / 100
#: Every transition that ends in a state from which the node can go on.
TRANSITIONS = (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE,
               Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
NO_TRANSITIONS = (Transition.TRANSITION_CREATE, Transition.TRANSITION_DESTROY, 10, 30, 60, 97, 255)
FAULTS = (*[None] * 16, RuntimeError("out of memory"), np.full((8, 7), np.nan), GOOD * 100,
          np.zeros((3, 7)), np.full((8, 7), 1e-3, dtype=object))
PARAMETERS = (("replan_steps", 4), ("replan_steps", 8), ("replan_steps", 99), ("dry_run", True),
              ("dry_run", False), ("pruning", "off"), ("pruning", "paper_v1"), ("pruning", ""),
              ("guard.axis_limit", [0.6]), ("guard.axis_limit", [1.0]), ("checkpoint", "x"),
              ("base_frame", "nowhere"), ("instruction", "push"), ("instruction", INSTRUCTION),
              ("controller.exit_translation", 0.0), ("shadow.every", 2), ("shadow.every", 0),
              ("watchdog.latch_after", 2.0), ("watchdog.latch_after", 10.0), ("device", 3))


@pytest.mark.parametrize("events", [
    400, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_everything_at_the_wrong_moment(ros, events, monkeypatch):
    """Transitions, services, parameters, jumps of the clock and faults, in any order."""
    bench, rng = Bench(ros), random.Random(events)
    rig, node, loader = bench.rig, bench.node, bench.loader
    published_while = []
    real = VlaOutputs.publish

    def publish(self, result):
        published_while.append(node._reporter.lifecycle)
        real(self, result)

    monkeypatch.setattr(VlaOutputs, "publish", publish)
    storm = Storm(bench, rng)
    rig.start()
    for _ in range(events):
        storm.event()
    assert set(published_while) == {VlaStatus.RUNNING}
    # And now everything as it should be.
    loader.error = None
    for policy in loader.policies:
        policy.gate.set()
        policy.fail(None)
    if storm.state() == State.PRIMARY_STATE_ACTIVE:
        assert storm.change(Transition.TRANSITION_DEACTIVATE)
    if storm.state() == State.PRIMARY_STATE_INACTIVE:
        assert storm.change(Transition.TRANSITION_CLEANUP)
    assert storm.state() == State.PRIMARY_STATE_UNCONFIGURED
    for name, value in (("dry_run", False), ("replan_steps", 8), ("guard.axis_limit", [1.0]),
                        ("watchdog.latch_after", 10.0), ("base_frame", "panda_link0"),
                        ("pruning", "specprune"), ("shadow.every", 0)):
        assert rig.set_parameter(name, value).successful, name
    rig.now += 400 * PERIOD
    bench.up()
    rig.instruct(INSTRUCTION)
    rig.clear_fault()
    chunk, _ = rig.query()
    assert chunk.source == ActionChunk.POLICY
    assert len(published_while) > events / 40 and len(loader.policies) >= 2


class Storm:
    """Random events; services are called without waiting for the answer."""

    def __init__(self, bench, rng):
        self.bench, self.rng = bench, rng
        self.rig, self.ros = bench.rig, bench.ros
        make = self.rig.node.create_client
        self._change = make(ChangeState, "vla_node/change_state")
        self._state = make(GetState, "vla_node/get_state")
        self._set = make(SetParameters, "vla_node/set_parameters")
        self._services = [make(Trigger, f"vla_node/{name}")
                          for name in ("reset_episode", "clear_fault", "settle")]
        self._events = [
            (30, self._observe), (5, self._transition), (1, self._no_transition),
            (3, self._parameter), (3, self._service), (2, self._fault), (0.5, self._jump),
            (1, self._hold_up), (20, self._spin)]
        assert self.ros.spin_until(self._change.service_is_ready)

    def event(self):
        weights, events = zip(*self._events)
        self.rng.choices(events, weights)[0]()
        self.ros.executor.spin_once(timeout_sec=0.002)

    def state(self):
        future = self._state.call_async(GetState.Request())
        assert self.ros.spin_until(future.done)
        return future.result().current_state.id

    def change(self, transition):
        future = self._change.call_async(ChangeState.Request(transition=Transition(id=transition)))
        assert self.ros.spin_until(future.done)
        return future.result().success

    def _observe(self):
        self.rig.observe(periods=self.rng.choice([1, 1, 4, 8]))

    def _transition(self):
        state = self.bench.node._reporter.lifecycle
        likely = {VlaStatus.UNCONFIGURED: 0, VlaStatus.INACTIVE: 1}.get(state)
        transition = self.rng.choice(TRANSITIONS)
        if likely is not None and self.rng.random() < 0.8:
            transition = TRANSITIONS[likely]
        self.bench.loader.error = self.rng.choice([None] * 4 + [CheckpointError("cut short")])
        if transition == Transition.TRANSITION_CLEANUP:
            self._release()  # it waits for the running query
        self._call(self._change, ChangeState.Request(transition=Transition(id=transition)))

    def _no_transition(self):
        choice = self.rng.choice(NO_TRANSITIONS)
        label = self.rng.choice(["", "", "nonsense"])
        self._call(self._change, ChangeState.Request(
            transition=Transition(id=choice, label=label)))

    def _parameter(self):
        name, value = self.rng.choice(PARAMETERS)
        self._call(self._set, SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]))

    def _service(self):
        self._call(self.rng.choice(self._services), Trigger.Request())

    def _fault(self):
        for policy in self.bench.loader.policies[-1:]:
            policy.fault = self.rng.choice(FAULTS)
            policy.dense_fault = self.rng.choice(FAULTS)

    def _jump(self):
        self.rig.now = max(100 * PERIOD, self.rig.now + self.rng.choice(
            [-4000, -100, 100, 4000]) * PERIOD)

    def _hold_up(self):
        """Let a query take a while, so that whatever comes next comes during it."""
        for policy in self.bench.loader.policies[-1:]:
            policy.gate.clear()
            threading.Timer(self.rng.choice([0.02, 0.1, 0.3]), policy.gate.set).start()

    def _release(self):
        for policy in self.bench.loader.policies:
            policy.gate.set()

    def _spin(self):
        self.ros.spin_until(lambda: False, timeout=self.rng.choice([0.01, 0.05]))

    def _call(self, client, request):
        client.call_async(request)


@pytest.mark.parametrize("moment", ["query", "idle"])
def test_shutdown_is_the_end(ros, moment):
    bench = Bench(ros).up()
    bench.rig.query()
    if moment == "query":
        bench.policy.gate.clear()
        bench.policy.entered.clear()
        bench.rig.observe()
        bench.rig.until(bench.policy.entered.is_set)
        threading.Timer(0.2, bench.policy.gate.set).start()
    assert bench.node.trigger_shutdown() == TransitionCallbackReturn.SUCCESS
    bench.rig.until(lambda: bench.rig.holds, again=lambda: None)
    sent = len(bench.rig.chunks)
    for _ in range(5):
        bench.rig.observe()
        ros.spin_until(lambda: False, timeout=0.05)
    assert len(bench.rig.chunks) == sent == 1


def test_use_sim_time_that_is_switched_while_it_runs(ros):
    """From a simulated clock to that of the machine and back: a new episode, a hold in between."""
    bench = Bench(ros).up()
    rig = bench.rig
    first, _ = rig.query()
    assert rig.set_parameter("use_sim_time", False).successful
    rig.until(lambda: rig.holds)
    asked = len(bench.policy.observations)
    rig.observe()
    ros.spin_until(lambda: False, timeout=0.5)
    assert len(bench.policy.observations) == asked  # of 1970: stamps of another clock
    assert rig.set_parameter("use_sim_time", True).successful
    rig.observe(periods=8)
    numbers = count()
    rig.until(lambda: len(rig.chunks) > 1,
              again=lambda: rig.observe(periods=8) if next(numbers) else None)
    assert rig.chunks[-1].episode > first.episode


def test_nothing_is_asked_before_simulated_time_has_begun(ros):
    """Stamps of 0 are those of a driver without stamps: not new because the clock stands at 0."""
    bench = Bench(ros).up()
    rig = bench.rig
    rig.now = 0
    rig._clock = rig.node.create_publisher(ActionChunk, "nowhere", 1)  # no clock at all
    for _ in range(5):
        for publisher, message in [(rig._joints, rig.joints()), *(
                (rig._cameras[name], rig.picture(name)) for name in rig._cameras)]:
            publisher.publish(message)
        ros.spin_until(lambda: False, timeout=0.1)
    assert bench.policy.observations == [] and rig.chunks == []
    rig.until(lambda: "clock" in rig.status.fault_text, again=lambda: None)
