"""What vla_node tells on /diagnostics: inputs, inference, pruning, safety, memory."""
from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

from ..robot.guard import MOTION
from ..types import Mode
from .conversions import NANOSECONDS
from .diagnostics import ERROR, OK, WARN, Report
from .engine import Engine
from .messages import Published
from .vla_parameters import VlaSettings

_WINDOW = 50  # queries that averages are taken over
LONG_FINE = 30.0  # s in fine mode that are worth a warning: nothing is grasped for so long
STALE_HISTORY = 3  # query intervals after which the scores of the previous query say little
_RECENT = 10.0  # s that something which happened once stays a warning
_FULL = 0.95  # share of the GPU's memory


class VlaDiagnostics:
    """Follows the queries of one engine. ``note`` is called by the inference thread."""

    def __init__(self, lock: threading.Condition, engine: Callable[[], Engine | None],
                 settings: Callable[[], VlaSettings], now: Callable[[], int]) -> None:
        """``engine``, ``settings`` and ``now`` (ns on the ROS clock) return those of the moment."""
        self._lock, self._engine, self._settings, self._now = lock, engine, settings, now
        self._received: Counter[str] = Counter()
        self._looked_at: int | None = None
        self.restart()

    def restart(self) -> None:
        """Forget what was seen of another engine."""
        self._times: deque[tuple[float, float]] = deque(maxlen=_WINDOW)  # inference, age (s)
        self._last: Published | None = None
        self._history_age = math.nan  # s, of the scores that the last query went by
        self._fine_since: int | None = None
        self._approach_missed = 0
        self._missed_at: int | None = None
        self._received.clear()
        self._looked_at = None
        self._rejected = 0

    def tasks(self) -> dict[str, Callable[[], Report]]:
        """The statuses by name."""
        tasks = {"inputs": self._inputs, "inference": self._inference, "pruning": self._pruning,
                 "safety": self._safety, "memory": self._memory}
        return {name: self._locked(task) for name, task in tasks.items()}

    def note(self, published: Published) -> None:
        """Take note of a chunk that was published."""
        with self._lock:
            self._note(published)

    def _note(self, published: Published) -> None:
        result, last = published.result, self._last
        job, report = result.job, result.chunk.report
        self._times.append((result.inference_time,
                            (published.time - job.query.stamp) / NANOSECONDS))
        same = last is not None and last.result.job.episode == job.episode
        self._history_age = (
            (job.query.stamp - last.result.job.query.stamp) / NANOSECONDS if same else math.nan)
        if report.mode is not Mode.FINE:
            self._fine_since = None
        elif self._fine_since is None or not same:
            self._fine_since = job.query.stamp
        self._look_for_grasp(published, last if same else None)
        self._last = published

    def _look_for_grasp(self, published: Published, last: Published | None) -> None:
        """A gripper that begins to close in coarse mode: the controller missed the approach."""
        commands = published.result.chunk.actions[:, MOTION].tolist()
        before = last.result.chunk.actions[-1, MOTION] if last else commands[0]
        closes = any(a > 0.5 > b for a, b in zip([before, *commands], commands))
        if closes and published.result.chunk.report.mode is Mode.COARSE:
            self._approach_missed += 1
            self._missed_at = published.time

    # --- reports, each with the lock held -------------------------------------------------------

    def _locked(self, task: Callable[[Engine], Report]) -> Callable[[], Report]:
        def report() -> Report:
            with self._lock:
                engine = self._engine()
                return Report(OK, "not configured") if engine is None else task(engine)

        return report

    def _inputs(self, engine: Engine) -> Report:
        planner, now, settings = engine.planner, self._now(), self._settings()
        values: dict[str, object] = {}
        slow = []
        elapsed = (now - self._looked_at) / NANOSECONDS if self._looked_at is not None else 0.0
        due = 1.0 / (settings["replan_steps"] * settings["control_period"])
        for name, age in zip(planner.inputs, planner.ages(now)):
            count = planner.received[name] - self._received[name]
            rate = count / elapsed if elapsed > 0 else math.nan
            values[f"{name} rate (Hz)"] = rate
            values[f"{name} age (s)"] = math.nan if age is None else age
            if rate < 0.9 * due and age is not None:
                slow.append(name)
        self._received, self._looked_at = Counter(planner.received), now
        values["sets of pictures that did not match"] = planner.unsynchronised
        missing = planner.missing(now) if engine.active else []
        if missing:
            return Report(WARN, "; ".join(missing), values)
        if slow and engine.active:
            return Report(WARN, f"{', '.join(slow)}: slower than queries are due ({due:.3g} Hz)",
                          values)
        return Report(OK, "inputs come", values)

    def _inference(self, engine: Engine) -> Report:
        counters, settings = engine.responder.safety.counters, self._settings()
        values: dict[str, object] = {
            "queries": engine.counters.queries, "chunks": engine.responder.chunks,
            "failures": counters.failures, "deadline (s)": settings["watchdog.inference_deadline"]}
        since = engine.responder.query_since
        if since is not None:
            values["running query (s)"] = running = (self._now() - since) / NANOSECONDS
            if running > settings["watchdog.inference_deadline"]:
                return Report(ERROR, "a query takes longer than its deadline", values)
        if not self._times:
            return Report(OK, "no query yet", values)
        times, ages = zip(*self._times)
        values |= {"inference time mean (s)": sum(times) / len(times),
                   "inference time max (s)": max(times),
                   "observation age mean (s)": sum(ages) / len(ages),
                   "observation age max (s)": max(ages)}
        values |= {f"stage {name} (ms)": float(ms)
                   for name, ms in self._last.result.chunk.report.stage_ms.items()}
        chunk = settings["chunk_length"] * settings["control_period"]
        if max(ages) > 0.5 * chunk:
            return Report(WARN, f"chunks come when half of them is over ({max(ages):.3g} of "
                          f"{chunk:.3g} s)", values)
        return Report(OK, "in time", values)

    def _pruning(self, engine: Engine) -> Report:
        now, settings, shadow = self._now(), self._settings(), engine.shadow
        values: dict[str, object] = {
            "method": settings["pruning"], "parameter revision": settings.revision,
            "approaches missed": self._approach_missed, "shadow distance": shadow.distance,
            "shadow comparisons": shadow.comparisons, "dense queries left": shadow.dense_left}
        problems = []
        if self._last is not None:
            report = self._last.result.chunk.report
            kept, total = report.visual_tokens_kept, report.visual_tokens_in
            values |= {"mode": report.mode.name.lower(), "dense refresh": report.dense_refresh,
                       "visual tokens kept": f"{kept} of {total}",
                       "scores age (s)": self._history_age}
        interval = settings["replan_steps"] * settings["control_period"]
        if self._fine_since is not None and now - self._fine_since > LONG_FINE * NANOSECONDS:
            problems.append(f"in fine mode for {(now - self._fine_since) / NANOSECONDS:.0f} s")
        if self._history_age > STALE_HISTORY * interval:
            problems.append(f"the scores of the previous query were {self._history_age:.2g} s old")
        if self._missed_at is not None and 0 <= now - self._missed_at < _RECENT * NANOSECONDS:
            problems.append("the gripper closed in coarse mode: the approach was missed")
        if shadow.dense_left:
            problems.append("dense for a while: pruned actions were beyond shadow.limit")
        return Report(WARN if problems else OK, "; ".join(problems) or "as set", values)

    def _safety(self, engine: Engine) -> Report:
        safety = engine.responder.safety
        values: dict[str, object] = {**vars(safety.counters),
                                     "last rejection": safety.last_rejection,
                                     "failures in a row": safety.latch.in_a_row,
                                     "dry run": self._settings()["dry_run"]}
        new, self._rejected = safety.counters.rejected - self._rejected, safety.counters.rejected
        if safety.latch.reason:
            return Report(ERROR, f"latched: {safety.latch.reason}", values)
        if new > 0:
            return Report(WARN, f"chunks refused: {safety.last_rejection}", values)
        if self._settings()["dry_run"]:
            return Report(WARN, "dry run: nothing is published on action_chunk", values)
        return Report(OK, "nothing refused", values)

    def _memory(self, engine: Engine) -> Report:
        device = self._settings()["device"]
        values: dict[str, object] = {"device": device, "process (MiB)": resident_mib()}
        if not device.startswith("cuda"):
            return Report(OK, "no GPU in use", values)
        import torch  # loaded already, with the policy

        free, total = torch.cuda.mem_get_info(device)
        values |= {"allocated (MiB)": torch.cuda.memory_allocated(device) / 2**20,
                   "reserved (MiB)": torch.cuda.memory_reserved(device) / 2**20,
                   "free (MiB)": free / 2**20, "total (MiB)": total / 2**20}
        full = 1 - free / total > _FULL
        return Report(WARN if full else OK, "the GPU is nearly full" if full else "GPU", values)


def resident_mib() -> float:
    """Memory of this process that is in RAM, MiB; NaN where /proc does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return math.nan
    import resource

    return pages * resource.getpagesize() / 2**20
