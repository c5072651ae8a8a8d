"""VlaStatus: the state of vla_node, its faults and inputs, published and logged at the edges."""
from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rclpy.node import Node

from specprune_ros.msg import VlaStatus

from . import qos
from .engine import Engine
from .faults import Fault, FaultBook, FaultCode
from .messages import header
from .publishing import publish_while_up
from .vla_parameters import VlaSettings

PERIOD = 0.5  # s of wall time between two messages at most
# Good and bad messages may alternate: of a fault that comes and goes with them, not every edge is
# told. Wall seconds between two that are; the next regular status has the final state.
_LOG_PAUSE = 5.0
_STATUS_PAUSE = 0.1
_FLAPPING = (FaultCode.IMAGE, FaultCode.JOINT_STATE, FaultCode.INFERENCE, FaultCode.GUARD,
             FaultCode.TIMEOUT)
_NAMES = ("UNCONFIGURED", "INACTIVE", "WAITING", "RUNNING", "FAULT")  # of the states, by value


class StatusReporter:
    """Publishes the status at each change, and whenever it is asked to.

    ``lifecycle`` and ``engine`` are set by the node; ``faults`` is written by whoever finds one,
    with ``lock`` held. Any thread may call the methods.
    """

    def __init__(self, node: Node, lock: threading.Condition,
                 settings: Callable[[], VlaSettings]) -> None:
        """``settings`` returns those in force."""
        self.lifecycle = VlaStatus.UNCONFIGURED  # then INACTIVE, RUNNING
        self.engine: Engine | None = None
        self.faults = FaultBook(self._on_begin, self._on_end)
        self._lock = lock
        self._settings = settings
        self._clock = node.get_clock()
        self._context = node.context
        self._log = node.get_logger()
        self._publisher = node.create_publisher(VlaStatus, "vla_status", qos.latched())
        self._last: VlaStatus | None = None
        self._told: dict[tuple, float] = {}  # when an edge of a fault was told last
        self._logged_state: int | None = None
        self._logged: set[tuple] = set()  # faults whose beginning is in the log, but not their end

    def enter(self, lifecycle: int) -> None:
        """Note and publish a new state of the life cycle."""
        self.lifecycle = lifecycle
        self.publish()

    def publish_changes(self) -> None:
        """Publish the status if more than counters and ages has changed."""
        self.publish(only_changes=True)

    def publish(self, only_changes: bool = False) -> None:
        """Publish the status now."""
        with self._lock:
            status, last = self._status(), self._last
            if only_changes and last is not None and _edge(status) == _edge(last):
                return
            self._last = status
            # Faults have lines of their own in the log.
            if status.state not in (VlaStatus.FAULT, self._logged_state):
                self._logged_state = status.state
                waiting = status.state == VlaStatus.WAITING
                self._log.info(_NAMES[status.state] + (
                    f": {status.fault_text}" if waiting else ""))
            publish_while_up(self._publisher, status, self._context)

    @contextmanager
    def meanwhile(self) -> Iterator[None]:
        """Publish the status although the body keeps the executor's thread busy."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(PERIOD):
                self.publish()

        thread = threading.Thread(target=beat, name="status", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _status(self) -> VlaStatus:
        now = self._clock.now().nanoseconds
        faults, settings = self.faults.present(), self._settings()
        msg = VlaStatus(header=header(now, settings), state=self.lifecycle,
                        faults=self.faults.count, parameter_revision=settings.revision,
                        dry_run=settings["dry_run"])
        if self.engine is not None:
            self._add_inputs(msg, now)
        if faults:
            msg.state = VlaStatus.FAULT
            msg.fault_code = int(faults[0].code)
            msg.fault_text = "; ".join(map(str, faults))
        return msg

    def _add_inputs(self, msg: VlaStatus, now: int) -> None:
        planner = self.engine.planner
        missing = planner.missing(now) if self.lifecycle == VlaStatus.RUNNING else []
        if missing:
            msg.state, msg.fault_text = VlaStatus.WAITING, "; ".join(missing)
        msg.instruction, msg.episode = planner.instruction, planner.episode
        msg.unsynchronised = planner.unsynchronised
        msg.inputs = list(planner.inputs)
        msg.input_ages = [math.nan if age is None else age for age in planner.ages(now)]
        responder = self.engine.responder
        msg.latched = bool(responder.safety.latch.reason)
        msg.chunks = responder.chunks
        msg.last_rejection = responder.safety.last_rejection
        for counters in (self.engine.counters, responder.safety.counters):
            for name, count in vars(counters).items():
                setattr(msg, name, count)

    def _on_begin(self, fault: Fault) -> None:
        key = (fault.code, fault.source)
        if self._may_tell(("log", *key), fault, _LOG_PAUSE):
            self._logged.add(key)
            self._log.error(f"{fault.code.name}: {fault}")
        if self._may_tell(("status", *key), fault, _STATUS_PAUSE):
            self.publish()

    def _on_end(self, fault: Fault) -> None:
        key = (fault.code, fault.source)
        if key in self._logged:
            self._logged.remove(key)
            self._log.info(f"{fault.code.name} is over: {fault.source}")
        if self._may_tell(("status", *key), fault, _STATUS_PAUSE):
            self.publish()

    def _may_tell(self, what: tuple, fault: Fault, pause: float) -> bool:
        """Whether a fault's edge is told now, and if so, note that it is."""
        now = time.monotonic()
        if fault.code in _FLAPPING and now - self._told.get(what, -math.inf) < pause:
            return False
        self._told[what] = now
        return True


def _edge(msg: VlaStatus) -> tuple:
    return (msg.state, msg.fault_code, msg.fault_text, msg.latched, msg.dry_run, msg.instruction,
            msg.episode, msg.parameter_revision)
