"""What the cameras show, checked against the scene by projecting it with a pinhole model."""
import colorsys

import numpy as np
import pytest
from helpers import action, solve

from specprune_ros.sim.tabletop.spec import Camera


def pixel(camera: Camera, point, size=256):
    """Column and row of a point in the image of a fixed camera (x right, y down)."""
    back = np.subtract(camera.position, camera.target)
    back = back / np.linalg.norm(back)
    right = np.cross([0, 0, 1], back)
    right /= np.linalg.norm(right)
    up = np.cross(back, right)
    offset = np.subtract(point, camera.position)
    focal = 0.5 * size / np.tan(np.radians(camera.fovy) / 2)
    depth = -offset @ back
    return np.array([
        size / 2 + focal * (offset @ right) / depth, size / 2 - focal * (offset @ up) / depth
    ])


def hue(colour):
    """Hue in turns and saturation of an RGB colour in [0, 1]."""
    h, s, _ = colorsys.rgb_to_hsv(*colour)
    return h, s


def pixels_of(image, colour):
    """Mask of the saturated pixels whose hue is that of a colour."""
    rgb = image.astype(float) / 255
    high, low = rgb.max(-1), rgb.min(-1)
    spread = np.maximum(high - low, 1e-9)
    r, g, b = np.moveaxis(rgb, -1, 0)
    h = np.where(high == r, ((g - b) / spread) % 6,
                 np.where(high == g, (b - r) / spread + 2, (r - g) / spread + 4)) / 6
    near = np.abs((h - hue(colour)[0] + 0.5) % 1 - 0.5) < 0.03
    return near & (spread > 0.7 * high) & (high > 0.2)


@pytest.mark.parametrize("seed", range(6))
def test_primary_image_shows_each_cube_where_it_is_and_in_its_colour(world, seed):
    image = world.reset(None, seed).images["primary"]
    shown = 0
    for task, instruction in enumerate(world.tasks[:4]):
        colour = instruction.split()[3]
        mask = pixels_of(image, world.spec.colours[colour])
        if task not in world.possible_tasks():
            assert mask.sum() < 5  # the fourth colour is nowhere
            continue
        shown += 1
        world.set_task(task)
        column, row = pixel(world.spec.agentview, world.scene().cube_position)
        rows, columns = np.nonzero(mask)
        assert mask.sum() > 60
        assert abs(columns.mean() - column) < 3 and abs(rows.mean() - row) < 3
    assert shown == 3


def test_images_are_upright(world):
    observation = world.reset(None, 0)
    top, bottom = observation.images["primary"][:20], observation.images["primary"][-20:]
    assert top[..., 2].mean() > top[..., 0].mean()  # sky, bluish
    assert bottom[..., 0].mean() > 1.2 * bottom[..., 2].mean()  # wood
    # The wrist camera has the fingers at its lower edge.
    wrist = observation.images["wrist"].mean(-1)
    assert wrist[-40:, :40].mean() < 60 and wrist[-40:, -40:].mean() < 60
    assert wrist[:40].mean() > 80


def test_wrist_camera_sees_the_cube_between_the_fingers(world):
    for seed in range(3):
        world.reset(None, seed, render=False)
        solve(world, until="grasp")
        colour = world.spec.colours[world.task.colour]
        rows, columns = np.nonzero(pixels_of(world.observe().images["wrist"], colour))
        assert len(rows) > 1500
        assert abs(columns.mean() - 128) < 12
        assert rows.mean() > 170


def test_wrist_camera_turns_with_the_hand_and_primary_does_not(world):
    before = world.reset(None, 0).images
    for _ in range(6):
        world.step(action(rz=1.0))
    after = world.observe().images
    changed = {name: (before[name] != after[name]).any(-1).mean() for name in before}
    assert changed["wrist"] > 0.5 and changed["primary"] < 0.2


def test_no_shadows_and_no_flicker(world):
    """Pixels away from the arm do not change when the arm moves: nothing casts a shadow."""
    before = world.reset(None, 0).images["primary"]
    for _ in range(10):
        world.step(action(y=1.0))
    after = world.observe().images["primary"]
    assert np.array_equal(before[150:], after[150:])


def test_images_are_fresh_arrays(world):
    first = world.reset(None, 0).images["primary"]
    kept = first.copy()
    for _ in range(5):
        world.step(action(z=-1.0))
    world.observe()
    assert np.array_equal(first, kept)
