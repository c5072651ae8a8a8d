"""The video of a run: both cameras side by side over a caption, written while the run goes on."""
from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import SpecpruneError

PANEL = 448  # pixels: the cameras' 256 are enlarged to this
GAP = 8
STRIP = 92  # height of the caption
QUEUE_FRAMES = 64  # of about 400 kB each
HOLD_S = 0.8  # the last picture of an episode stays this long
_BACKGROUND, _TEXT, _DIM = (32, 28, 26), (240, 240, 240), (165, 165, 165)  # BGR
_GREEN, _RED, _AMBER = (110, 200, 90), (90, 90, 230), (60, 180, 240)


@dataclass(frozen=True)
class Caption:
    """What the strip below the pictures says. outcome: of an episode that has ended, else None."""

    instruction: str = ""
    episode: int = 0
    step: int = 0
    mode: str = ""
    kept: int | None = None
    dense: int | None = None
    successes: int = 0
    episodes: int = 0
    outcome: bool | None = None


class VideoFile:
    """An MP4 that grows frame by frame in a thread of its own.

    Frames wait in a bounded queue; when the disk or the encoder is too slow, frames are left out
    (``dropped``) rather than memory filled. ``written`` counts the frames in the file.
    """

    def __init__(self, path: Path, frames_per_second: float) -> None:
        import cv2

        self.path = path
        self.written = 0
        self.dropped = 0
        self._last: tuple[np.ndarray, np.ndarray] | None = None
        self._hold = round(HOLD_S * frames_per_second)
        self._error: Exception | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"),
                                       frames_per_second, (2 * PANEL + GAP, PANEL + STRIP))
        if not self._writer.isOpened():
            raise SpecpruneError(f"{path} cannot be written as a video; check the folder and that "
                                 "OpenCV was built with FFmpeg")
        self._queue: queue.Queue = queue.Queue(QUEUE_FRAMES)
        self._thread = threading.Thread(target=self._run, name="video", daemon=True)
        self._thread.start()

    def add(self, primary: np.ndarray, wrist: np.ndarray, caption: Caption) -> None:
        """Add a frame of two pictures, uint8 [H, W, 3] RGB; returns at once."""
        try:
            self._queue.put_nowait((primary, wrist, caption))
        except queue.Full:
            self.dropped += 1
        self._last = (primary, wrist)

    def end_episode(self, caption: Caption) -> None:
        """Show the last pictures for a moment longer, with the outcome."""
        if self._last is None:
            return
        for _ in range(self._hold):
            self.add(*self._last, caption)
        self._last = None

    def close(self) -> None:
        """Write what waits and finish the file. SpecpruneError if a frame could not be written."""
        self._queue.put(None)
        self._thread.join()
        self._writer.release()
        if self._error is not None:
            raise SpecpruneError(f"{self.path}: {self._error}") from self._error

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue
            try:
                self._writer.write(compose(*item))
                self.written += 1
            except Exception as error:  # reported by close()
                self._error = error


def compose(primary: np.ndarray, wrist: np.ndarray, caption: Caption) -> np.ndarray:
    """One frame: uint8 [PANEL + STRIP, 2 * PANEL + GAP, 3], BGR."""
    import cv2

    frame = np.empty((PANEL + STRIP, 2 * PANEL + GAP, 3), np.uint8)
    frame[:] = _BACKGROUND
    for left, picture, label in ((0, primary, "primary"), (PANEL + GAP, wrist, "wrist")):
        panel = cv2.resize(picture, (PANEL, PANEL), interpolation=cv2.INTER_CUBIC)
        frame[:PANEL, left:left + PANEL] = panel[:, :, ::-1]
        _write(frame, label, (left + 10, PANEL - 12), 0.45, _TEXT, shadowed=True)
    _write(frame, caption.instruction, (14, PANEL + 32), 0.68, _TEXT)
    x = _write(frame, f"episode {caption.episode}  step {caption.step}", (14, PANEL + 70), 0.52,
               _DIM)
    if caption.mode:
        color = _AMBER if caption.mode == "fine" else _GREEN
        x = _write(frame, caption.mode, (x + 26, PANEL + 70), 0.52, color)
    if caption.kept is not None:
        _token_bar(frame, (x + 26, PANEL + 58), caption)
    score = f"{caption.successes}/{caption.episodes} solved"
    _write(frame, score, (frame.shape[1] - 14 - _width(score, 0.52), PANEL + 70), 0.52, _DIM)
    if caption.outcome is not None:
        text, color = ("SUCCESS", _GREEN) if caption.outcome else ("NOT SOLVED", _RED)
        _write(frame, text, (frame.shape[1] - 14 - _width(text, 0.68), PANEL + 32), 0.68, color)
    return frame


def _token_bar(frame: np.ndarray, corner: tuple[int, int], caption: Caption) -> None:
    """How many of the visual tokens were kept, as a bar and in figures."""
    import cv2

    x, y = corner
    width, height = 150, 12
    filled = round(width * caption.kept / caption.dense) if caption.dense else 0
    cv2.rectangle(frame, (x, y), (x + width, y + height), (75, 70, 66), -1)
    cv2.rectangle(frame, (x, y), (x + filled, y + height), (200, 160, 80), -1)
    _write(frame, f"{caption.kept} of {caption.dense} visual tokens", (x + width + 12, y + 12),
           0.52, _DIM)


def _write(frame: np.ndarray, text: str, origin: tuple[int, int], scale: float,
           color: tuple[int, int, int], shadowed: bool = False) -> int:
    """Write a line with its baseline at ``origin``; returns the x where it ends."""
    import cv2

    # OpenCV's fonts know ASCII only.
    text = text.encode("ascii", "replace").decode()
    font = cv2.FONT_HERSHEY_SIMPLEX
    if shadowed:
        shadow = (origin[0] + 1, origin[1] + 1)
        cv2.putText(frame, text, shadow, font, scale, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(frame, text, origin, font, scale, color, 1, cv2.LINE_AA)
    return origin[0] + _width(text, scale)


def _width(text: str, scale: float) -> int:
    import cv2

    return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0]
