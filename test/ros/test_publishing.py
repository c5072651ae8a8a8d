"""Publishing from the inference thread while ROS is shut down (SIGINT in a query)."""
from __future__ import annotations

import pytest

pytest.importorskip("rclpy")

from specprune_ros.ros.publishing import publish_while_up  # noqa: E402


class _Context:
    def __init__(self, states):
        self._states = list(states)

    def ok(self):
        return self._states.pop(0)


class _Publisher:
    def __init__(self, error=None):
        self.sent, self._error = [], error

    def publish(self, message):
        if self._error:
            raise self._error
        self.sent.append(message)


def test_nothing_is_published_after_the_shutdown():
    publisher = _Publisher()
    publish_while_up(publisher, "late", _Context([False]))
    assert publisher.sent == []


def test_a_shutdown_in_between_is_no_error():
    publish_while_up(_Publisher(RuntimeError("context is gone")), "late", _Context([True, False]))


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="broken"):
        publish_while_up(_Publisher(RuntimeError("broken")), "now", _Context([True, True]))


def test_messages_go_out_while_ros_is_up():
    publisher = _Publisher()
    publish_while_up(publisher, "now", _Context([True]))
    assert publisher.sent == ["now"]
