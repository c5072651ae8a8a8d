"""The URDF against the simulated arm: same kinematics, limits, shapes; robot/ against sim/."""
from xml.etree import ElementTree

import numpy as np
import pinocchio as pin
import pytest

from specprune_ros.robot.kinematics import ArmKinematics
from specprune_ros.robot.proprio import ProprioSpec, proprio_vector
from specprune_ros.robot.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from specprune_ros.robot.velocity import TwistEstimator
from specprune_ros.sim.tabletop.expert import ScriptedExpert
from specprune_ros.sim.tabletop.panda import ARM_JOINTS, JOINT_NAMES, LINKS

# Denavit-Hartenberg parameters that Franka publishes for the Panda (modified convention):
# a, d, alpha of each joint; the flange, then the hand, follow.
FRANKA_DH = [
    (0.0, 0.333, 0.0), (0.0, 0.0, -np.pi / 2), (0.0, 0.316, np.pi / 2),
    (0.0825, 0.0, np.pi / 2), (-0.0825, 0.384, -np.pi / 2), (0.0, 0.0, np.pi / 2),
    (0.088, 0.0, np.pi / 2),
]


@pytest.fixture(scope="module")
def kinematics(world):
    return ArmKinematics.from_urdf(world.robot_description(), world.base_frame, world.tool_frame)


def episode(world, seed, steps=70):
    """A moving episode with turns about all axes: (observation) per control period."""
    rng = np.random.default_rng(seed)
    observations = [world.reset(None, seed, render=False)]
    expert = ScriptedExpert()
    for k in range(steps):
        command = expert.act(world)
        if 10 <= k < 25:
            command[3:6] = 0.4 * rng.uniform(-1, 1, 3)
        world.step(command)
        observations.append(world.observe(render=False))
    return observations


def by_name(observation, values):
    return dict(zip(observation.joint_names, values))


def test_chain_has_the_seven_arm_joints_and_the_description_all_nine(world, kinematics):
    assert kinematics.joint_names == ARM_JOINTS
    model = pin.buildModelFromXML(world.robot_description())
    assert set(model.names) - {"universe"} == set(JOINT_NAMES)
    assert world.reset(None, 0, render=False).joint_names == JOINT_NAMES


@pytest.mark.parametrize("seed", range(4))
def test_forward_kinematics_is_frankas(kinematics, seed):
    q = np.random.default_rng(seed).uniform(-1.5, 1.5, 7)
    pose = np.eye(4)
    for (a, d, alpha), theta in zip(FRANKA_DH, q):
        ca, sa, ct, st = np.cos(alpha), np.sin(alpha), np.cos(theta), np.sin(theta)
        pose = pose @ [[ct, -st, 0, a], [st * ca, ct * ca, -sa, -d * sa],
                       [st * sa, ct * sa, ca, d * ca], [0, 0, 0, 1]]
    hand = np.eye(4)
    hand[:3, :3] = axis_angle_to_matrix([0, 0, -np.pi / 4])
    hand[2, 3] = 0.107 + 0.1034
    pose = pose @ hand
    ours = kinematics.pose(dict(zip(ARM_JOINTS, q)))
    assert np.allclose(ours.position, pose[:3, 3], atol=1e-9)
    turned = pin.Quaternion(*ours.quaternion_xyzw[[3, 0, 1, 2]]).toRotationMatrix()
    assert np.allclose(turned, pose[:3, :3], atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_proprio_from_joints_equals_the_simulators(world, kinematics, seed):
    for observation in episode(world, seed):
        positions = by_name(observation, observation.joint_positions)
        ours = proprio_vector(kinematics.pose(positions), positions, ProprioSpec())
        assert np.abs(ours - observation.proprio).max() < 1e-6


@pytest.mark.parametrize("seed", [0, 1])
def test_twist_from_joints_equals_the_simulators(world, kinematics, seed):
    fastest = 0.0
    for observation in episode(world, seed):
        twist = kinematics.twist(
            by_name(observation, observation.joint_positions),
            by_name(observation, observation.joint_velocities),
        )
        assert np.abs(twist - observation.ee_twist).max() < 1e-6
        fastest = max(fastest, np.linalg.norm(twist[:3]))
    assert fastest > 0.1


def test_twist_is_the_derivative_of_the_pose(world, kinematics):
    step = 1e-7
    for observation in episode(world, 2)[::7]:
        before = by_name(observation, observation.joint_positions)
        velocities = by_name(observation, observation.joint_velocities)
        after = {name: q + step * velocities[name] for name, q in before.items()}
        poses = [kinematics.pose(q) for q in (before, after)]
        rotations = [
            pin.Quaternion(*pose.quaternion_xyzw[[3, 0, 1, 2]]).toRotationMatrix()
            for pose in poses
        ]
        difference = np.concatenate([
            poses[1].position - poses[0].position,
            matrix_to_axis_angle(rotations[1] @ rotations[0].T),
        ]) / step
        assert np.abs(difference - observation.ee_twist).max() < 1e-5


def test_mean_velocity_agrees_with_the_way_made(world, kinematics):
    """Over a moving episode the differenced estimate integrates to the displacement."""
    estimator = TwistEstimator(kinematics, time_constant_s=0.0)
    observations = episode(world, 3)
    way = np.zeros(3)
    for observation in observations:
        sample = estimator.update(
            observation.stamp, observation.joint_names, observation.joint_positions
        )
        if sample.raw_twist is not None:
            way += sample.raw_twist[:3] * world.control_period
    moved = observations[-1].proprio[:3] - observations[0].proprio[:3]
    assert np.abs(way - moved).max() < 1e-3


def test_orientation_is_continuous_over_an_episode(world):
    vectors = np.array([observation.proprio[3:6] for observation in episode(world, 1)])
    assert np.linalg.norm(np.diff(vectors, axis=0), axis=1).max() < 0.3


def test_limits_are_those_of_the_simulation(world):
    model = pin.buildModelFromXML(world.robot_description())
    for name in JOINT_NAMES:
        index = model.idx_qs[model.getJointId(name)]
        limits = world._model.joint(name).range
        assert model.lowerPositionLimit[index] == pytest.approx(limits[0])
        assert model.upperPositionLimit[index] == pytest.approx(limits[1])


def test_visual_shapes_are_those_of_the_simulation(world):
    """Every primitive of a link, by centre and axis: capsules are a cylinder and two spheres."""
    root = ElementTree.fromstring(world.robot_description())
    for link in LINKS:
        visuals = root.findall(f"link[@name='{link.name}']/visual")
        bodies = [v for v in visuals if v.find("geometry/sphere") is None]
        assert len(visuals) - len(bodies) in (0, 2, 4)
        body = world._model.body(link.name)
        geoms = [world._model.geom(body.geomadr[0] + k) for k in range(body.geomnum[0])]
        assert len(bodies) == len(geoms) == len(link.shapes)
        for visual, geom in zip(bodies, geoms):
            origin = visual.find("origin")
            xyz = np.array(origin.get("xyz").split(), float)
            rpy = np.array(origin.get("rpy").split(), float)
            assert np.allclose(xyz, geom.pos, atol=1e-9)
            axis = pin.rpy.rpyToMatrix(*rpy)[:, 2]
            w, x, y, z = geom.quat
            theirs = np.array([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)])
            assert abs(axis @ theirs) == pytest.approx(1.0, abs=1e-9)
            box, cylinder = visual.find("geometry/box"), visual.find("geometry/cylinder")
            if box is not None:
                assert np.allclose(np.array(box.get("size").split(), float), 2 * geom.size)
            else:
                assert float(cylinder.get("radius")) == pytest.approx(geom.size[0])
                assert float(cylinder.get("length")) == pytest.approx(2 * geom.size[1])
