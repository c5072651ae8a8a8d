"""Writes a world as MJCF, MuJoCo's model format."""
from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree as xml

import numpy as np

from .panda import ARM_JOINTS, FINGER_JOINTS, HAND_LINK, LINKS, TOOL_FRAME, Link
from .shapes import Box, Colour, Cylinder, Shape
from .spec import Camera, Light, Look, TabletopSpec

TIMESTEP = 0.005  # s
AGENTVIEW = "agentview"
WRIST_CAMERA = "robot0_eye_in_hand"
TOOL_SITE = "tool"

# robosuite's wrist camera of the Panda, a centimetre further out to clear our hand.
WRIST_CAMERA_POSE = {"pos": "0.06 0 0", "quat": "0 0.70710678 0.70710678 0", "fovy": "75"}


def cube_body(index: int) -> str:
    return f"cube{index}"


def cube_geom(index: int) -> str:
    return f"cube{index}_box"


def clutter_body(index: int) -> str:
    return f"clutter{index}"


def free_joint(body: str) -> str:
    return f"{body}_free"


def _text(values: Iterable[float]) -> str:
    return " ".join(repr(float(value)) for value in values)


def _rgba(colour: Colour) -> str:
    return _text((*colour, 1.0))


def _geom(body: xml.Element, shape: Shape, **attributes: str) -> xml.Element:
    if isinstance(shape, Box):
        geometry = {"type": "box", "size": _text(shape.half_size), "pos": _text(shape.position)}
    elif isinstance(shape, Cylinder):
        size = (shape.radius, shape.half_length)
        geometry = {"type": "cylinder", "size": _text(size), "pos": _text(shape.position)}
    else:
        geometry = {
            "type": "capsule", "size": repr(shape.radius),
            "fromto": _text((*shape.start, *shape.end)),
        }
    if not shape.collides:
        geometry |= {"contype": "0", "conaffinity": "0"}
    return xml.SubElement(body, "geom", geometry | {"rgba": _rgba(shape.colour)} | attributes)


def _look(root: xml.Element, look: Look, render_size: int) -> None:
    visual = xml.SubElement(root, "visual")
    size = str(render_size)
    xml.SubElement(visual, "global", offwidth=size, offheight=size)
    # Shadows cost 25 ms a frame on a software renderer; no shadow map, so none can be drawn.
    xml.SubElement(visual, "quality", shadowsize="0")
    xml.SubElement(
        visual, "headlight", ambient=_text([look.ambient] * 3),
        diffuse=_text([look.headlight] * 3), specular="0 0 0",
    )
    # The default near plane (1 % of the extent) would cut the fingers off the wrist image.
    xml.SubElement(visual, "map", znear="0.005")
    asset = xml.SubElement(root, "asset")
    rgb1, rgb2 = look.table_colours
    xml.SubElement(
        asset, "texture", name="table", type="2d", builtin=look.table_texture,
        width="64", height="64", rgb1=_text(rgb1), rgb2=_text(rgb2),
    )
    repeat = f"{look.table_repeat} {look.table_repeat}"
    xml.SubElement(asset, "material", name="table", texture="table", texrepeat=repeat,
                   specular="0.1")
    rgb1, rgb2 = look.sky_colours
    xml.SubElement(
        asset, "texture", name="sky", type="skybox", builtin="gradient",
        width="64", height="64", rgb1=_text(rgb1), rgb2=_text(rgb2),
    )


def _light(world: xml.Element, light: Light) -> None:
    xml.SubElement(
        world, "light", pos=_text(light.position), dir=_text(light.direction),
        diffuse=_text(light.diffuse), castshadow="false",
    )


def _camera(world: xml.Element, camera: Camera) -> None:
    """MuJoCo's cameras look along -z with y up."""
    back = np.subtract(camera.position, camera.target)
    right = np.cross((0.0, 0.0, 1.0), back)
    up = np.cross(back, right)
    xml.SubElement(
        world, "camera", name=AGENTVIEW, pos=_text(camera.position),
        xyaxes=_text((*right, *up)), fovy=repr(camera.fovy),
    )


def _arm(world: xml.Element) -> None:
    bodies: dict[str | None, xml.Element] = {None: world}
    for link in LINKS:
        body = _arm_link(bodies[link.parent], link)
        bodies[link.name] = body
    xml.SubElement(bodies[HAND_LINK], "camera", {"name": WRIST_CAMERA} | WRIST_CAMERA_POSE)
    xml.SubElement(bodies[TOOL_FRAME], "site", name=TOOL_SITE, size="0.003", rgba="0 0 0 0")


def _arm_link(parent: xml.Element, link: Link) -> xml.Element:
    body = xml.SubElement(
        parent, "body", name=link.name, pos=_text(link.xyz), euler=_text(link.rpy), gravcomp="1"
    )
    joint = link.joint
    if joint:
        xml.SubElement(
            body, "joint", name=joint.name, axis=_text(joint.axis),
            type="hinge" if joint.kind == "revolute" else "slide",
            range=_text((joint.lower, joint.upper)), armature=repr(joint.armature),
        )
    for shape in link.shapes:
        grip = {"friction": "2 0.05 0.001", "condim": "4"} if shape.collides else {}
        _geom(body, shape, mass=repr(link.mass / len(link.shapes)), **grip)
    return body


def _objects(world: xml.Element, spec: TabletopSpec) -> None:
    for destination in spec.destinations:
        body = xml.SubElement(world, "body", name=destination.name, mocap="true")
        for shape in destination.shapes:
            _geom(body, shape)
    contact = {"friction": "1.5 0.02 0.001", "condim": "4"}
    half = spec.cube_half_size
    for index in range(spec.visible):
        body = xml.SubElement(world, "body", name=cube_body(index), pos=_text((0, 0, half)))
        xml.SubElement(body, "freejoint", name=free_joint(cube_body(index)))
        cube = Box((half, half, half), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), collides=True)
        _geom(body, cube, name=cube_geom(index), mass="0.05", **contact)
    for index, clutter in enumerate(spec.clutter):
        body = xml.SubElement(world, "body", name=clutter_body(index))
        xml.SubElement(body, "freejoint", name=free_joint(clutter_body(index)))
        for shape in clutter.shapes:
            _geom(body, shape, mass=repr(clutter.mass / len(clutter.shapes)), **contact)


def _drives(root: xml.Element) -> None:
    """Position servos; control.py sets the gains of the arm's."""
    equality = xml.SubElement(root, "equality")
    xml.SubElement(equality, "joint", joint1=FINGER_JOINTS[0], joint2=FINGER_JOINTS[1])
    contact = xml.SubElement(root, "contact")
    xml.SubElement(contact, "exclude", body1="panda_leftfinger", body2="panda_rightfinger")
    actuator = xml.SubElement(root, "actuator")
    for name in ARM_JOINTS:
        xml.SubElement(actuator, "position", name=name, joint=name, kp="1", kv="1")
    for name in FINGER_JOINTS:
        xml.SubElement(actuator, "position", name=name, joint=name, kp="600", kv="30",
                       forcerange="-15 15")


def world_mjcf(spec: TabletopSpec, render_size: int) -> str:
    """MJCF of a suite. Colours of cubes and places of all objects are set at reset."""
    root = xml.Element("mujoco", model=spec.suite)
    # eulerseq XYZ: about fixed axes, as URDF's rpy
    xml.SubElement(root, "compiler", angle="radian", eulerseq="XYZ")
    xml.SubElement(
        root, "option", timestep=repr(TIMESTEP), integrator="implicitfast", cone="elliptic",
        impratio="5",
    )
    _look(root, spec.look, render_size)
    world = xml.SubElement(root, "worldbody")
    for light in spec.look.lights:
        _light(world, light)
    _camera(world, spec.agentview)
    xml.SubElement(
        world, "geom", name="table", type="box", pos="0.40 0 -0.05", size="0.62 0.60 0.05",
        material="table", friction="1 0.01 0.001",
    )
    _objects(world, spec)
    _arm(world)
    _drives(root)
    xml.indent(root)
    return xml.tostring(root, encoding="unicode")
