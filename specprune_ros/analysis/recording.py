"""One episode in one ``.npz`` file: what the cameras and the arm reported, and what was done."""
from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from specprune_ros.analysis.writing import naming_failures
from specprune_ros.errors import RecordingError
from specprune_ros.types import Observation

FORMAT = 1
_REQUIRED = ("format", "cameras", "frames", "stamps", "instruction", "control_period")
_ARRAYS = ("proprio", "ee_twists", "joint_positions", "joint_velocities", "actions")
_ROUNDING = 1e-6  # of a control period; stamps are sums of floats
_TEXTS = ("suite", "source")


@dataclass(frozen=True, eq=False)
class Recording:
    """An episode at control rate: row t of every array belongs to the period that starts at t.

    cameras: ``primary`` first, then wrist cameras. frames: uint8 [T, n_cam, H, W, 3], RGB,
        upright. stamps: float64 [T], seconds, strictly ascending. control_period: seconds,
        within half of itself of the stamps' median spacing.
    proprio: float64 [T, P] in the units of Observation. ee_twists: float64 [T, 6], m/s and rad/s
        in the axes of the base frame. joint_positions, joint_velocities: float64 [T, J].
    actions: float64 [T, A] as executed, in the environment's convention (sim/base.py).
    success: whether the episode ended in success. None stands for what is not known.
    source: who acted, or where the data come from.
    """

    cameras: tuple[str, ...]
    frames: np.ndarray
    stamps: np.ndarray
    instruction: str
    control_period: float
    proprio: np.ndarray | None = None
    ee_twists: np.ndarray | None = None
    joint_names: tuple[str, ...] = ()
    joint_positions: np.ndarray | None = None
    joint_velocities: np.ndarray | None = None
    actions: np.ndarray | None = None
    success: bool | None = None
    suite: str = ""
    seed: int | None = None
    source: str = ""

    def __post_init__(self) -> None:
        _check_frames(self.frames, self.cameras)
        steps = len(self.frames)
        _check_array("stamps", self.stamps, steps, ())
        if steps > 1 and not (np.diff(self.stamps) > 0).all():
            at = int(np.argmax(np.diff(self.stamps) <= 0))
            raise RecordingError(
                f"stamps must ascend, but stamp {at + 1} ({self.stamps[at + 1]} s) is not after "
                f"stamp {at} ({self.stamps[at]} s): split the recording there"
            )
        if not (math.isfinite(self.control_period) and self.control_period > 0):
            raise RecordingError(
                f"control_period is {self.control_period}; it must be a positive number of seconds"
            )
        if steps > 1:
            _check_spacing(self.stamps, self.control_period)
        if not self.instruction.strip():
            raise RecordingError("the instruction is empty: a policy needs the task in words")
        joints = (len(self.joint_names),)
        widths = {"ee_twists": (6,), "joint_positions": joints, "joint_velocities": joints}
        for name in _ARRAYS:
            values = getattr(self, name)
            if values is not None:
                _check_array(name, values, steps, widths.get(name))

    @property
    def steps(self) -> int:
        """T, the number of control periods."""
        return len(self.frames)

    def images(self, step: int) -> dict[str, np.ndarray]:
        """Camera name -> uint8 [H, W, 3] at a step."""
        return dict(zip(self.cameras, self.frames[step]))

    def twist(self, step: int) -> np.ndarray | None:
        """[6] at a step, None if not known."""
        return None if self.ee_twists is None else self.ee_twists[step]

    def observation(self, step: int, with_proprio: bool = True) -> Observation:
        """What a policy is given at a step; without ``with_proprio`` the proprio is left out."""
        known = with_proprio and self.proprio is not None
        return Observation(
            images=self.images(step),
            instruction=self.instruction,
            proprio=self.proprio[step] if known else None,
            stamp=float(self.stamps[step]),
            ee_twist=self.twist(step),
        )

    def save(self, path: str | Path) -> Path:
        """Write the file (``.npz``, compressed); missing folders are made. Returns the path.

        Raises ConfigurationError where it cannot be written.
        """
        path = Path(path)
        fields: dict[str, object] = {
            "format": FORMAT,
            "cameras": np.array(self.cameras),
            "frames": self.frames,
            "stamps": self.stamps,
            "instruction": self.instruction,
            "control_period": self.control_period,
            "joint_names": np.array(self.joint_names, dtype=str),
        }
        optional = (*_ARRAYS, *_TEXTS, "success", "seed")
        fields |= {n: getattr(self, n) for n in optional if getattr(self, n) is not None}
        with naming_failures(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:  # savez would append .npz to another suffix
                np.savez_compressed(file, **fields)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Recording:
        """Read a file. Raises RecordingError naming the file, what is wrong and the remedy."""
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as archive:
                found = {name: archive[name] for name in archive.files}
        except FileNotFoundError:
            raise RecordingError(
                f"recording '{path}' does not exist: `specprune record-sim` makes one"
            ) from None
        except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:
            raise RecordingError(
                f"'{path}' is no recording (.npz archive of plain arrays): {error}"
            ) from error
        missing = [name for name in _REQUIRED if name not in found]
        if missing:
            raise RecordingError(f"recording '{path}' lacks {', '.join(missing)}: record it anew")
        _check_format(path, found["format"])
        try:
            return cls(
                cameras=tuple(map(str, found["cameras"])),
                frames=found["frames"],
                stamps=found["stamps"],
                instruction=str(found["instruction"]),
                control_period=float(found["control_period"]),
                joint_names=tuple(map(str, found.get("joint_names", ()))),
                success=bool(found["success"]) if "success" in found else None,
                seed=int(found["seed"]) if "seed" in found else None,
                **{name: found.get(name) for name in _ARRAYS},
                **{name: str(found.get(name, "")) for name in _TEXTS},
            )
        except (RecordingError, TypeError, ValueError) as error:
            raise RecordingError(f"recording '{path}': {error}") from error


def load_recordings(path: str | Path) -> list[Recording]:
    """The recording of a file, or all ``*.npz`` of a folder in the order of their names.

    Raises RecordingError where there is none, or one that is broken.
    """
    return [Recording.load(file) for file in recording_files(path)]


def recording_files(path: str | Path) -> list[Path]:
    """The file itself, or all ``*.npz`` of a folder by name. RecordingError if it has none."""
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.npz"))
    if not files:
        raise RecordingError(
            f"folder '{path}' holds no .npz recording: `specprune record-sim --out {path}` or "
            "`specprune bag-to-npz` makes some"
        )
    return files


def load_pooled(path: str | Path) -> list[Recording]:
    """As :func:`load_recordings`, for figures over all of them: their cameras must be the same.

    Raises RecordingError naming two files that differ.
    """
    files = recording_files(path)
    recordings = [Recording.load(file) for file in files]
    first = recordings[0].cameras
    for file, recording in zip(files, recordings):
        if recording.cameras != first:
            raise RecordingError(
                f"'{files[0]}' has the cameras {', '.join(first)}, '{file}' has "
                f"{', '.join(recording.cameras)}: put recordings of the same cameras, in the same "
                "order, into a folder of their own"
            )
    return recordings


def _check_format(path: Path, value: np.ndarray) -> None:
    if value.shape != () or not np.issubdtype(value.dtype, np.integer):
        raise RecordingError(
            f"recording '{path}': format is {value.dtype} {list(value.shape)}, expected the whole "
            f"number {FORMAT}: record it anew"
        )
    if int(value) != FORMAT:
        raise RecordingError(
            f"recording '{path}' has format {int(value)}, this version reads {FORMAT}: record it "
            "anew"
        )


def _check_spacing(stamps: np.ndarray, control_period: float) -> None:
    """A step is a control period: thresholds, intervals and chunks count on it."""
    spacing = float(np.median(np.diff(stamps)))
    if abs(spacing - control_period) > (0.5 + _ROUNDING) * control_period:
        raise RecordingError(
            f"the stamps are {spacing:.6g} s apart (median), which is not the control_period of "
            f"{control_period:.6g} s: both are in seconds, one step per control period"
        )


def _check_frames(frames: np.ndarray, cameras: Sequence[str]) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise RecordingError(
            f"frames are {frames.dtype} {list(frames.shape)}, expected uint8 [T, n_cam, H, W, 3] "
            "with T >= 1"
        )
    if len(cameras) != frames.shape[1]:
        raise RecordingError(
            f"{len(cameras)} camera names ({', '.join(cameras)}) for frames of {frames.shape[1]}"
        )
    if len(set(cameras)) != len(cameras):
        raise RecordingError(f"camera names are not unique: {', '.join(cameras)}")


def _check_array(name: str, values: np.ndarray, steps: int, width: tuple[int, ...] | None) -> None:
    """``width`` None allows any one."""
    expected = (steps, *width) if width is not None else (steps, *values.shape[1:2])
    if values.ndim != len(expected) or values.shape != expected or (width is None
                                                                    and values.ndim != 2):
        raise RecordingError(f"{name} has shape {list(values.shape)}, expected {list(expected)}")
    if not np.issubdtype(values.dtype, np.number):
        raise RecordingError(f"{name} is {values.dtype}, expected numbers")
    if not np.isfinite(values).all():
        step = int(np.argwhere(~np.isfinite(values))[0][0])
        raise RecordingError(f"{name} is not finite at step {step}: cut the recording before it")
