"""What ``specprune demo`` shows: a progress line while it runs, a table at the end."""
from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .results import Tally
from .video import Caption

PLAIN_PERIOD_S = 5.0  # between two lines where there is no terminal


class Progress:
    """One line that is rewritten on a terminal; a line now and then elsewhere.

    live: whether the line may be rewritten (not while logs scroll by).
    """

    def __init__(self, console: Console, live: bool = True) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if (
            live and console.is_terminal) else None
        self._next_line = 0.0
        self._last = ""

    def __enter__(self) -> Progress:  # noqa: PYI034 (Self: Python 3.11)
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, text: str) -> None:
        """Show where the run is."""
        if self._live:
            self._live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
        elif text != self._last and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + PLAIN_PERIOD_S
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
            self._console.file.flush()
        self._last = text


def progress_text(elapsed: float, seconds: float, tally: Tally, caption: Caption) -> str:
    """The progress line of a running demo."""
    kept = f"{caption.kept}/{caption.dense} tokens" if caption.kept is not None else ""
    return (f"{elapsed:5.1f}/{seconds:g} s  {tally.chunks} chunks  episode {caption.episode} "
            f"step {caption.step:<3}  {caption.mode:6}  {kept}  "
            f"{tally.successes}/{tally.episodes} solved")


def summary_table(result: dict, json_path: Path | None, video: str) -> Group:
    """The table at the end of a run, with a plain word about an untrained checkpoint.

    result: as made by :func:`as_json`. video: where it is, or why there is none.
    """
    table = Table(title="specprune demo", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    kept, dense = result["kept_visual_tokens_mean"], result["dense_visual_tokens"]
    share = f" ({kept / dense:.0%})" if kept is not None and dense else ""
    latency = result["latency_ms"]
    for name, value in (
            ("checkpoint", f"{result['checkpoint']}{_training(result['trained'])}"),
            ("pruning", result["pruning"]),
            ("time from the first chunk", f"{result['seconds']:.1f} s"),
            ("queries", str(result["queries"])),
            ("episodes ended", f"{result['episodes']}, {result['successes']} solved"),
            ("inference, p50 / p95", f"{latency['p50']:.1f} / {latency['p95']:.1f} ms"),
            ("visual tokens kept", f"{kept:g} of {dense} on average{share}"),
            ("controller modes", ", ".join(f"{mode} {share:.0%}" for mode, share
                                           in result["mode_shares"].items())),
            ("processes", ", ".join(f"{p['name']} ({p['pid']})" for p in result["processes"])),
            ("video", video),
            ("results", str(json_path) if json_path else "none (--json FILE)")):
        table.add_row(name, Text(value))
    parts: list[object] = [table]
    if result["trained"] is False:
        parts.append(Text("This checkpoint is not trained: its weights are random, so the arm "
                          "moves but solves nothing. The figures show the machinery, not a skill.",
                          style="yellow"))
    return Group(*parts)


def _training(trained: bool | None) -> str:
    return {True: " (trained)", False: " (NOT trained)", None: ""}[trained]
