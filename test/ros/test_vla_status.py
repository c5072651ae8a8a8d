"""The status: a fault that comes and goes is not told each time."""
import threading

import pytest

from specprune_ros.ros import status
from specprune_ros.ros.faults import FaultCode
from specprune_ros.ros.status import StatusReporter
from specprune_ros.ros.vla_parameters import VlaSettings


class Wall:
    """Wall time that a test sets."""

    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def wall(monkeypatch):
    wall = Wall()
    monkeypatch.setattr(status, "time", wall)
    return wall


@pytest.fixture
def sent(monkeypatch):
    sent = []
    monkeypatch.setattr(status, "publish_while_up", lambda _publisher, msg, _context:
                        sent.append(msg))
    return sent


def flap(reporter, wall, code, times):
    """Let a fault begin and end every 10 ms."""
    for _ in range(times):
        reporter.faults.raise_fault(code, "camera/primary", "no pixels")
        reporter.faults.clear(code)
        wall.now += 0.01


def test_fault_that_comes_and_goes_with_messages_is_told_now_and_then(ros, wall, sent, capfd):
    reporter = StatusReporter(ros.node("reporter"), threading.Condition(threading.RLock()),
                              VlaSettings)
    flap(reporter, wall, FaultCode.IMAGE, 100)  # 200 edges in 1 s
    assert 9 <= len(sent) <= 11
    assert reporter.faults.count == 100
    log = capfd.readouterr().err
    assert log.count("IMAGE: camera/primary: no pixels") == 1
    assert log.count("IMAGE is over") == 1
    wall.now += 5.0
    flap(reporter, wall, FaultCode.IMAGE, 1)
    assert capfd.readouterr().err.count("IMAGE: camera/primary: no pixels") == 1


def test_every_other_fault_is_told_each_time(ros, wall, sent):
    reporter = StatusReporter(ros.node("reporter"), threading.Condition(threading.RLock()),
                              VlaSettings)
    flap(reporter, wall, FaultCode.CONFIGURATION, 3)
    assert len(sent) == 6
