"""What a run says of the device it ran on."""
from __future__ import annotations

import subprocess
from typing import Any

import torch

from specprune_ros.analysis.devices import Device
from specprune_ros.vla.openvla_oft.elementwise import elementwise


def facts(device: torch.device, measured: Device) -> dict[str, Any]:
    """Name, driver, clocks and ceilings; of a CPU what its ceilings were."""
    found: dict[str, Any] = {
        "name": measured.name, "peak_tflops": measured.peak / 1e12,
        "bandwidth_gbs": measured.bandwidth / 1e9, "ridge": measured.ridge,
        "measured_by": measured.source, "elementwise": elementwise(device).name,
    }
    if device.type != "cuda":
        return found
    properties = torch.cuda.get_device_properties(device)
    return found | {
        "memory_gib": properties.total_memory / 2**30,
        "multiprocessors": properties.multi_processor_count,
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
        "cuda": torch.version.cuda,
        **_nvidia_smi(device.index or 0),
    }


def _nvidia_smi(index: int) -> dict[str, Any]:
    """Driver, clocks and power; empty where the tool is not there."""
    names = ("driver_version", "clocks.sm", "clocks.mem", "power.draw")
    try:
        found = subprocess.run(
            ["nvidia-smi", f"--id={index}", f"--query-gpu={','.join(names)}",
             "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(names, (value.strip() for value in found.stdout.split(","))))
