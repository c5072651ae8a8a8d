import numpy as np
import pinocchio as pin
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specprune_ros.errors import SimulatorError
from specprune_ros.sim.tabletop import layout as layout_module
from specprune_ros.sim.tabletop.layout import sample_layout
from specprune_ros.sim.tabletop.panda import HOME_POSITIONS
from specprune_ros.sim.tabletop.spec import PUSH, TabletopSpec
from specprune_ros.sim.tabletop.suites import SUITES, TABLETOP
from specprune_ros.sim.tabletop.urdf import robot_description

suites = st.sampled_from(list(SUITES.values()))
seeds = st.integers(0, 2**31)


def pairs(points, others=None):
    """Distances of all pairs within a set, or between two."""
    distances = np.linalg.norm(points[:, None] - (points if others is None else others), axis=-1)
    return distances[np.triu_indices(len(points), 1)] if others is None else distances.ravel()


@settings(max_examples=60, deadline=None)
@given(suites, seeds)
def test_nothing_overlaps_and_everything_lies_in_its_area(spec, seed):
    layout = sample_layout(spec, None, seed)
    assert len(set(layout.colours)) == spec.visible == len(layout.cube_xy)
    assert pairs(layout.cube_xy).min() >= spec.cube_gap
    assert pairs(layout.destination_xy).min() >= spec.destination_gap
    assert pairs(layout.cube_xy, layout.destination_xy).min() >= spec.cube_destination_gap
    for points, area in ((layout.cube_xy, spec.cube_area),
                         (layout.destination_xy, spec.destination_area),
                         (layout.clutter_xy, spec.clutter_area)):
        assert (points >= area[0]).all() and (points <= area[1]).all()
    radii = [spec.cube_half_size * 2**0.5] * spec.visible
    for xy, clutter in zip(layout.clutter_xy, spec.clutter):
        clear = np.linalg.norm(layout.cube_xy - xy, axis=1) - radii - clutter.radius
        assert clear.min() >= spec.clutter_gap - 1e-9
    assert np.abs(layout.cube_yaw).max() <= spec.cube_yaw


def reach_of(destination):
    """Radius of the circle around everything a destination is made of."""
    reach = 0.0
    for shape in destination.shapes:
        size = np.hypot(*shape.half_size[:2]) if hasattr(shape, "half_size") else shape.radius
        if hasattr(shape, "half_size") and np.any(shape.position[:2]):
            # a wall of the tray: its far corner
            size = np.hypot(*(np.abs(shape.position[:2]) + shape.half_size[:2]))
            reach = max(reach, size)
        else:
            reach = max(reach, size + np.hypot(*shape.position[:2]))
    return reach


@pytest.mark.parametrize("spec", SUITES.values(), ids=str)
def test_gaps_of_the_suites_are_wide_enough_for_their_shapes(spec):
    corner = spec.cube_half_size * (2**0.5 if spec.cube_yaw else 1)
    reach = [reach_of(destination) for destination in spec.destinations]
    assert spec.cube_destination_gap > max(reach) + corner
    assert spec.destination_gap > sum(sorted(reach)[-2:])
    assert spec.cube_destination_gap > spec.tolerance  # so no episode starts solved


@settings(max_examples=40, deadline=None)
@given(suites, seeds, st.data())
def test_places_depend_on_the_seed_and_not_on_the_task(spec, seed, data):
    task = data.draw(st.integers(0, len(spec.tasks) - 1))
    free, fixed = sample_layout(spec, None, seed), sample_layout(spec, task, seed)
    for name in ("cube_xy", "cube_yaw", "destination_xy", "clutter_xy", "arm_positions"):
        assert np.array_equal(getattr(free, name), getattr(fixed, name))
    assert fixed.task == task and spec.tasks[task].colour in fixed.colours
    assert len(set(fixed.colours)) == spec.visible
    assert spec.tasks[free.task].colour in free.colours


def test_seeds_mean_what_they_meant():
    """Published seeds must not change under our hands: evaluation depends on them."""
    layout = sample_layout(TABLETOP, None, 12345)
    assert layout.colours == GOLDEN["colours"]
    assert TABLETOP.tasks[layout.task].instruction == GOLDEN["instruction"]
    assert np.allclose(layout.cube_xy, GOLDEN["cube_xy"], atol=1e-6)
    assert np.allclose(layout.destination_xy, GOLDEN["destination_xy"], atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_pushing_has_free_way(seed):
    spec = SUITES["tabletop_shift"]
    layout = sample_layout(spec, None, seed)
    mat = next(i for i, d in enumerate(spec.destinations) if d.verb == PUSH)
    goal = layout.destination_xy[mat]
    for index, cube in enumerate(layout.cube_xy):
        way = np.linspace(0, 1, 50)[:, None] * (goal - cube) + cube
        others = np.delete(layout.cube_xy, index, axis=0)
        assert pairs(others, way).min() > 2 * spec.cube_half_size
        assert pairs(np.delete(layout.destination_xy, mat, axis=0), way).min() > 0.09


def test_areas_too_small_are_reported(monkeypatch):
    monkeypatch.setattr(layout_module, "_RESTARTS", 20)
    crowded = TabletopSpec(
        "crowded", TABLETOP.colours, TABLETOP.destinations, visible=4,
        cube_area=((0.5, 0.0), (0.51, 0.01)),
    )
    with pytest.raises(SimulatorError, match="'crowded': no free places"):
        sample_layout(crowded, None, 0)


@pytest.mark.parametrize("spec", SUITES.values(), ids=str)
def test_every_corner_of_the_areas_can_be_reached_with_the_tool_down(spec):
    model = pin.buildModelFromXML(robot_description())
    data = model.createData()
    tool = model.getFrameId("panda_hand_tcp")
    for area in (spec.cube_area, spec.destination_area):
        for x in (area[0][0], area[1][0]):
            for y in (area[0][1], area[1][1]):
                for z in (spec.cube_half_size, 0.13):
                    goal = pin.SE3(np.diag([1.0, -1.0, -1.0]), np.array([x, y, z]))
                    q = np.array([*HOME_POSITIONS, 0.0, 0.0])
                    for _ in range(100):
                        pin.framesForwardKinematics(model, data, q)
                        error = pin.log6(data.oMf[tool].actInv(goal)).vector
                        jacobian = pin.computeFrameJacobian(model, data, q, tool)[:, :7]
                        q[:7] += 0.5 * np.linalg.lstsq(jacobian, error, rcond=1e-6)[0]
                    assert np.abs(error).max() < 1e-6
                    assert (q > model.lowerPositionLimit - 1e-9).all()
                    assert (q < model.upperPositionLimit + 1e-9).all()


GOLDEN = {
    "colours": ("blue", "red", "yellow"),
    "instruction": "pick up the blue cube and place it on the plate",
    "cube_xy": [[0.439579, 0.1975077], [0.4019995, 0.0433699], [0.5888002, 0.2080451]],
    "destination_xy": [[0.5594731, 0.0775521], [0.4782219, -0.0735619]],
}
