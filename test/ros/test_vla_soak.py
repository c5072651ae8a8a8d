"""Half an hour of simulated time: memory stays flat, every observation is answered."""
from pathlib import Path

import pytest
from specprune_ros.msg import VlaStatus
from vla_rig import VLA_NODE, Rig

from specprune_ros.ros.conversions import stamp_to_ns

FAKE = (Path(__file__).with_name("fake_vla_process.py"), "--ros-args", "-p", "use_sim_time:=true")
QUERIES = 30 * 60 * 20 // 8  # of 8 control periods of 0.05 s


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("node", [
    pytest.param(FAKE, id="fake_policy"), pytest.param(VLA_NODE, id="shipped_policy")])
def test_memory_is_flat_over_30_minutes_of_simulated_time(ros, processes, node, record_property):
    rig = Rig(ros)
    process = processes.start(*node)
    rig.await_state(VlaStatus.WAITING)
    rig.start()
    rig.query()  # from here on one is due every eight periods
    sizes = []
    for number in range(QUERIES):
        for _ in range(7):
            rig.observe(periods=1)
            ros.executor.spin_once(timeout_sec=0.0)
        stamp = rig.observe(periods=1)
        assert ros.spin_until(
            lambda s=stamp: rig.chunks and stamp_to_ns(rig.chunks[-1].header.stamp) == s
            and rig.stats and stamp_to_ns(rig.stats[-1].header.stamp) == s,
            again=rig.again, period=0.2), rig._story()
        del rig.chunks[:-1], rig.stats[:-1], rig.statuses[:-1]
        if number % 100 == 99:
            sizes.append(resident(process.pid))
    record_property("resident MiB, every 100 queries", [size >> 20 for size in sizes])
    assert process.poll() is None
    assert rig.status.failures == rig.status.rejected == 0
    # A tenth of the time is allowed for caches to fill.
    start, end = sizes[len(sizes) // 10], sizes[-1]
    assert end < 1.02 * start, " ".join(f"{size / 2**20:.1f}" for size in sizes)


def resident(pid):
    """Bytes of a process that are in RAM."""
    return 4096 * int(Path(f"/proc/{pid}/statm").read_text().split()[1])
