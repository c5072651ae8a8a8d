"""DDS: middleware, profile, shared memory, domain. What is wrong here loses pictures silently."""
from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

from ..bringup import FASTDDS_PROFILES, fastdds_variable
from ..preflight.findings import Finding, fail, ok, warn
from ..share import share_dir

_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
_SEGMENT = 4 * 2**20  # bytes: a few pictures of 1 MB
_DEFAULT_SEGMENT = 512 * 2**10
_SHIPPED_SEGMENT = 32 * 2**20
_PARTICIPANTS = 4  # two nodes, a recorder, a tool
_RANGES = ("", "SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT")
_LAST_SAFE = 101  # ports of higher domains lie among Linux's ephemeral ones
_LAST = 232


def check_rmw(environment: Mapping[str, str] = os.environ) -> Finding:
    """The profile and the tests are for Fast DDS."""
    chosen = environment.get("RMW_IMPLEMENTATION", "")
    if chosen in ("", "rmw_fastrtps_cpp"):
        return ok("rmw", chosen or "RMW_IMPLEMENTATION is not set: rmw_fastrtps_cpp")
    return warn("rmw", f"RMW_IMPLEMENTATION={chosen}: the package was tested with "
                       "rmw_fastrtps_cpp, and its DDS profile is for that",
                "See that pictures larger than 512 KB arrive, and raise its buffers if not")


def check_profile(environment: Mapping[str, str] = os.environ) -> Finding:
    """A profile with room for pictures is in force."""
    name = "dds profile"
    shipped = share_dir() / FASTDDS_PROFILES
    wanted = fastdds_variable()
    remedy = f"export {wanted}={shipped} (ros2 launch and specprune demo do it themselves)"
    value = environment.get(wanted)
    if not value:
        other = next((v for v in _VARIABLES if v != wanted and environment.get(v)), None)
        return warn(name, f"{other} is set, but this ROS reads {wanted}" if other else
                    f"{wanted} is not set: pictures larger than 512 KB get lost", remedy)
    path = Path(value)
    try:
        root = ET.parse(path).getroot()
    except (OSError, ET.ParseError) as error:
        return fail(name, f"{wanted}={value} cannot be read ({error}): Fast DDS goes on without "
                          "it", remedy)
    sizes = [int(e.text) for e in root.iter() if e.tag.endswith("segment_size")
             and (e.text or "").strip().isdigit()]
    if not sizes:
        return warn(name, f"{path} sets no segment_size: pictures larger than "
                          f"{_DEFAULT_SEGMENT // 1024} KB get lost unless it uses another "
                          "transport", remedy)
    if max(sizes) < _SEGMENT:
        return warn(name, f"{path} has a segment_size of {max(sizes)} bytes, too small for "
                          "pictures of 1 MB", remedy)
    return ok(name, f"{path}, segments of {max(sizes) / 2**20:.0f} MiB")


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    """Room for the segments of a few participants; a container has 64 MB unless told otherwise."""
    name = "shared memory"
    if not folder.is_dir():
        return warn(name, f"no {folder}: pictures go through UDP, where large ones get lost",
                    "In a container, mount one: docker run --shm-size=1g")
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    files = len(list(folder.glob("fastdds_*")) + list(folder.glob("fastrtps_*")))
    text = f"{free / 2**20:.0f} MiB free in {folder}, {files} files of Fast DDS"
    remedy = ("fastdds shm clean removes what killed processes left behind; in a container: "
              "docker run --shm-size=1g")
    if free < _SHIPPED_SEGMENT:
        return fail(name, f"{text}: not even one segment of the shipped profile fits", remedy)
    if free < _PARTICIPANTS * _SHIPPED_SEGMENT:
        return warn(name, f"{text}: the segments of {_PARTICIPANTS} participants do not fit",
                    remedy)
    return ok(name, text)


def check_domain(environment: Mapping[str, str] = os.environ) -> Finding:
    """ROS_DOMAIN_ID and how far discovery reaches."""
    name = "ros domain"
    text = environment.get("ROS_DOMAIN_ID", "") or "0"
    if not text.isdecimal() or int(text) > _LAST:
        return fail(name, f"ROS_DOMAIN_ID={text} is no number from 0 to {_LAST}: no node starts",
                    "export ROS_DOMAIN_ID=0, or another from 0 to 101")
    reach = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "")
    if reach.upper() not in _RANGES:
        return fail(name, f"ROS_AUTOMATIC_DISCOVERY_RANGE={reach} is none of "
                          f"{', '.join(filter(None, _RANGES))}", "Set one of these, or unset it")
    if reach.upper() == "OFF":
        return warn(name, "ROS_AUTOMATIC_DISCOVERY_RANGE=OFF: nodes do not find one another",
                    "Unset it, or name peers in ROS_STATIC_PEERS")
    if int(text) > _LAST_SAFE:
        return warn(name, f"ROS_DOMAIN_ID={text}: its ports may be taken by other programs",
                    "Use a domain from 0 to 101")
    local = environment.get("ROS_LOCALHOST_ONLY") == "1" or reach.upper() == "LOCALHOST"
    return ok(name, f"{text}, discovery " + ("on this machine" if local else "in the subnet"))
