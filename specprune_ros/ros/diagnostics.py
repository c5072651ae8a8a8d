"""/diagnostics by the conventions of diagnostic_updater, which has no Python package on PyPI."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from .publishing import publish_while_up

PERIOD = 1.0  # s of wall time
OK, WARN, ERROR, STALE = (DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR,
                          DiagnosticStatus.STALE)


@dataclass(frozen=True)
class Report:
    """One status: level, a short message, values as they are to be read."""

    level: bytes
    message: str
    values: Mapping[str, object] = field(default_factory=dict)


class Diagnostics:
    """Publishes a status per task, once a second, named "<node>: <task>"."""

    def __init__(self, node: Node, hardware_id: str,
                 tasks: Mapping[str, Callable[[], Report]]) -> None:
        self._node = node
        self._hardware_id = hardware_id
        self._tasks = dict(tasks)
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._timer = node.create_timer(
            PERIOD, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def publish(self) -> None:
        """Publish every status now."""
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        name = self._node.get_fully_qualified_name().lstrip("/")
        for task, report in self._tasks.items():
            try:
                result = report()
            except Exception as error:  # what is watched must not end with what watches it
                result = Report(ERROR, f"cannot be told: {type(error).__name__}: {error}")
            message.status.append(DiagnosticStatus(
                level=result.level, name=f"{name}: {task}", message=result.message,
                hardware_id=self._hardware_id,
                values=[KeyValue(key=key, value=_text(value))
                        for key, value in result.values.items()]))
        publish_while_up(self._publisher, message, self._node.context)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
