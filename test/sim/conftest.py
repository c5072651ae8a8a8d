import pytest

from specprune_ros.sim import make_simulator
from specprune_ros.sim.tabletop.suites import SUITES


@pytest.fixture(scope="module")
def world():
    """The default suite; every test starts with its own reset."""
    simulator = make_simulator("tabletop")
    yield simulator
    simulator.close()


@pytest.fixture(scope="module", params=SUITES)
def any_world(request):
    """Each suite of the tabletop in turn."""
    simulator = make_simulator(request.param, render_size=64)
    yield simulator
    simulator.close()
