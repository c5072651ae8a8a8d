"""The compiled messages: those of this checkout, and they survive the wire."""
from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from rclpy.serialization import deserialize_message, serialize_message

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "msg").glob("*.msg"))
FIELD = re.compile(r"^([\w/]+(?:\[\w*\])?)\s+(\w+)$")
CONSTANT = re.compile(r"^(\w+)\s+([A-Z][A-Z0-9_]*)\s*=\s*(\S+)$")
EXAMPLES = {"float64": -1.5, "uint8": 200, "uint16": 60_000, "uint32": 4_000_000_000,
            "uint64": 2**64 - 1, "int64": -(2**63), "string": "ünïcode", "bool": True}


def fields_of(path: Path) -> dict[str, str]:
    found = (FIELD.match(line) for line in path.read_text().splitlines())
    return {match[2]: match[1] for match in found if match}


def message_type(path: Path):
    return getattr(importlib.import_module("specprune_ros.msg"), path.stem)


def filled(path: Path):
    message = message_type(path)()
    for name, kind in fields_of(path).items():
        if kind == "std_msgs/Header":
            message.header.frame_id = "base"
            message.header.stamp.sec, message.header.stamp.nanosec = 12, 999_999_999
        elif kind.endswith("[]"):
            setattr(message, name, [EXAMPLES[kind[:-2]]] * 3)
        else:
            setattr(message, name, EXAMPLES[kind])
    return message


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_compiled_message_is_the_one_in_the_checkout(path):
    compiled = message_type(path)
    assert list(compiled.get_fields_and_field_types()) == list(fields_of(path)), \
        "the compiled messages are old: run `make -B venv`"
    for line in path.read_text().splitlines():
        if match := CONSTANT.match(line):
            assert getattr(compiled, match[2]) == int(match[3])


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_round_trip(path):
    message = filled(path)
    assert deserialize_message(serialize_message(message), message_type(path)) == message


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_comments_specify_every_block_of_fields(path):
    """The comments of a message are its specification: a blank line ends what they speak of."""
    text = path.read_text()
    assert text.startswith("# ")
    for block in re.split(r"\n\s*\n", text.strip()):
        assert block.startswith("#"), f"{path.name}: no comment above\n{block}"
