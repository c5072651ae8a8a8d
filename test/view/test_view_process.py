"""specprune view as a user runs it: nodes of a demo in processes, the page over HTTP."""
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

import specprune_ros

pytest.importorskip("aiohttp")
pytest.importorskip("rclpy")
pytest.importorskip("mujoco")
pytestmark = pytest.mark.slow

PATIENCE = 270.0  # s; a busy machine is slow


@pytest.fixture
def started(tmp_path):
    """(process, address) of ``specprune view --demo``; stopped by Ctrl-C."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment.pop("ROS_DOMAIN_ID", None)
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(specprune_ros.__file__).parents[1]), environment.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "specprune_ros.cli", "view", "--demo", "--port", "0",
         "--checkpoint", "specprune-tiny"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=tmp_path)
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    try:
        line = process.stdout.readline()
        found = re.match(r"(http://127\.0\.0\.1:\d+/) \(ROS domain \d+\)", line)
        assert found, line + process.stdout.read()
        yield process, found.group(1)
    finally:
        timer.cancel()
        if process.poll() is None:
            process.kill()
        process.wait()


def events(address):
    """What the page is told, until the caller stops."""
    with urllib.request.urlopen(f"{address}api/events", timeout=30) as response:
        for line in response:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])


def post(address, path, body):
    request = urllib.request.Request(
        f"{address}{path}", json.dumps(body).encode(),
        {"Content-Type": "application/json", "Origin": address.rstrip("/")})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def test_demo_is_shown_tuned_and_stopped(started, tmp_path):
    process, address = started
    queries, kinds, deadline = 0, [], time.monotonic() + PATIENCE
    for shown in events(address):
        kinds.append(shown["condition"]["kind"])
        queries += len(shown["points"])
        pictures = [facts for camera in shown["pictures"].values() for facts in camera.values()]
        if queries >= 2 and len(pictures) == 4 and all(pictures) and shown["sim"]:
            break
        assert time.monotonic() < deadline, shown
    assert kinds[0] == "absent" and kinds[-1] in ("running", "waiting")
    assert shown["sim"]["suite"] == "tabletop"
    for which in ("camera", "kept"):
        with urllib.request.urlopen(f"{address}picture/wrist/{which}.jpg", timeout=30) as response:
            assert response.read(2) == b"\xff\xd8"  # JPEG
    assert post(address, "api/parameters", {"pruning": "off"}) == {"ok": True, "reason": ""}
    assert next(s for s in events(address) if s["parameters"])["parameters"]["pruning"] == "off"
    veto = post(address, "api/parameters", {"dynamic.keep": 7.0})
    assert not veto["ok"] and "dynamic.keep" in veto["reason"]
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children")
                .read_text().split()]
    assert len(children) >= 2
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert not list(tmp_path.glob("specprune_view_*"))  # the logs of a run that went well
