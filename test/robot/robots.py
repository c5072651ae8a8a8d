"""Small robots for the tests, and a way to write them."""

LINK = '<link name="{}"/>'
JOINT = (
    '<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>'
    '<origin xyz="{xyz}" rpy="{rpy}"/><axis xyz="{axis}"/>'
    '<limit lower="-3" upper="3" effort="1" velocity="1"/></joint>'
)


def urdf(*joints, **defaults):
    """A URDF of (name, kind, parent, child, xyz, axis) tuples."""
    links = dict.fromkeys(link for _, _, parent, child, *_ in joints for link in (parent, child))
    text = [LINK.format(link) for link in links]
    for name, kind, parent, child, xyz, axis in joints:
        text.append(JOINT.format(
            name=name, kind=kind, parent=parent, child=child, xyz=xyz, axis=axis,
            rpy=defaults.get("rpy", "0 0 0"),
        ))
    return f'<robot name="test">{"".join(text)}</robot>'


# Two unit links in a plane, a torso below and a second arm beside.
TWO_ARMS = urdf(
    ("lift", "prismatic", "world", "torso", "0 0 0", "0 0 1"),
    ("left1", "revolute", "torso", "left_upper", "0 1 0", "0 0 1"),
    ("left2", "continuous", "left_upper", "left_lower", "1 0 0", "0 0 1"),
    ("left_mount", "fixed", "left_lower", "left_tool", "1 0 0", "0 0 1"),
    ("right1", "revolute", "torso", "right_upper", "0 -1 0", "0 0 1"),
    ("finger", "prismatic", "left_tool", "left_finger", "0 0 0", "0 1 0"),
)
