"""URDF of the arm from the same constants as the MJCF, visual shapes included."""
from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree import ElementTree as xml

from .panda import LINKS, Link
from .shapes import Box, Capsule, Colour, Cylinder, Shape, Vector


def _text(values: tuple[float, ...]) -> str:
    return " ".join(repr(float(value)) for value in values)


def _visual(
    link: xml.Element, tag: str, size: dict[str, str], xyz: Vector, rpy: Vector, colour: Colour
) -> None:
    visual = xml.SubElement(link, "visual")
    xml.SubElement(visual, "origin", xyz=_text(xyz), rpy=_text(rpy))
    xml.SubElement(xml.SubElement(visual, "geometry"), tag, size)
    material = xml.SubElement(visual, "material", name="rgb_" + "_".join(map(str, colour)))
    xml.SubElement(material, "color", rgba=_text((*colour, 1.0)))


def _add_shape(link: xml.Element, shape: Shape) -> None:
    level = (0.0, 0.0, 0.0)
    if isinstance(shape, Box):
        size = {"size": _text(tuple(2 * half for half in shape.half_size))}
        _visual(link, "box", size, shape.position, level, shape.colour)
    elif isinstance(shape, Cylinder):
        size = {"radius": repr(shape.radius), "length": repr(2 * shape.half_length)}
        _visual(link, "cylinder", size, shape.position, level, shape.colour)
    else:
        _add_capsule(link, shape)


def _add_capsule(link: xml.Element, shape: Capsule) -> None:
    """URDF has no capsule: a cylinder and two spheres."""
    way = tuple(end - start for start, end in zip(shape.start, shape.end))
    middle = tuple(0.5 * (start + end) for start, end in zip(shape.start, shape.end))
    # pitch, then yaw, take z into the direction of the capsule
    rpy = (0.0, math.atan2(math.hypot(way[0], way[1]), way[2]), math.atan2(way[1], way[0]))
    size = {"radius": repr(shape.radius), "length": repr(math.dist(shape.start, shape.end))}
    _visual(link, "cylinder", size, middle, rpy, shape.colour)
    for end in (shape.start, shape.end):
        _visual(link, "sphere", {"radius": repr(shape.radius)}, end, (0.0, 0.0, 0.0), shape.colour)


def _add_joint(robot: xml.Element, link: Link) -> None:
    joint = link.joint
    name = joint.name if joint else f"{link.name}_mount"
    element = xml.SubElement(robot, "joint", name=name, type=joint.kind if joint else "fixed")
    xml.SubElement(element, "origin", xyz=_text(link.xyz), rpy=_text(link.rpy))
    xml.SubElement(element, "parent", link=link.parent)
    xml.SubElement(element, "child", link=link.name)
    if joint:
        xml.SubElement(element, "axis", xyz=_text(joint.axis))
        xml.SubElement(
            element, "limit",
            lower=repr(joint.lower), upper=repr(joint.upper),
            effort=repr(joint.effort), velocity=repr(joint.velocity),
        )


def robot_description(links: Sequence[Link] = LINKS) -> str:
    """The URDF document. It has no inertias: it serves kinematics and display, not dynamics."""
    robot = xml.Element("robot", name="panda")
    for link in links:
        element = xml.SubElement(robot, "link", name=link.name)
        for shape in link.shapes:
            _add_shape(element, shape)
    for link in links:
        if link.parent is not None:
            _add_joint(robot, link)
    xml.indent(robot)
    return '<?xml version="1.0"?>\n' + xml.tostring(robot, encoding="unicode") + "\n"
