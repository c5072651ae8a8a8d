"""Plays the same initial states with every method, whatever order and place they are played in."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from specprune_ros.eval.engines import Engine
from specprune_ros.eval.episode import Arm, Job
from specprune_ros.eval.log import EpisodeLog
from specprune_ros.eval.methods import COPIES, DEFAULT, copied_counts
from specprune_ros.eval.record import Record
from specprune_ros.eval.settings import EvalSettings
from specprune_ros.sim.base import numbered_episode

#: Called after each episode with how many are done, how many there are, and the record.
Report = Callable[[int, int, Record], None]


class Evaluation:
    """Arms over initial states, from the log where they are there already.

    tasks: of the suite; episode i has task i % tasks and initial state first_seed + i. trials: if
    given, initial states of each task; episode i is then the one numbered first_seed + i
    (``sim.base.numbered_episode``). queries: most that an episode can have.
    """

    def __init__(
        self, settings: EvalSettings, engine: Engine, log: EpisodeLog, tasks: int, queries: int,
        trials: int | None = None,
    ) -> None:
        self.settings = settings
        self._engine, self._log = engine, log
        self._tasks, self._queries, self._trials = tasks, queries, trials

    def run(
        self, arms: Sequence[Arm], first_seed: int, episodes: int,
        report: Report = lambda done, total, record: None,
    ) -> dict[Arm, list[Record]]:
        """Records of every arm, in the order of the episodes.

        A method that copies counts needs DEFAULT's episode: that arm is played, too. A method that
        is not available has one record that says why.
        """
        arms = with_references(arms)
        jobs = [
            Job(arm, task, init_state)
            for index, (task, init_state) in enumerate(self._episodes(first_seed, episodes))
            # Forward and backward, so that no method always comes first.
            for arm in (arms if index % 2 == 0 else arms[::-1])
        ]
        self._play(jobs, report)
        found: dict[Arm, list[Record]] = {arm: [] for arm in arms}
        for job in jobs:
            record = self._log.records.get(job.key)
            if record is not None:
                found[job.arm].append(record)
        return {arm: _available(records) for arm, records in found.items()}

    def _episodes(self, first: int, count: int) -> list[tuple[int, int]]:
        """Task and initial state of each episode, in the order of play."""
        if self._trials is None:
            return [(index % self._tasks, first + index) for index in range(count)]
        # Task by task, since another task is another scene to build.
        return sorted(
            numbered_episode(number, self._tasks, self._trials, self.settings.suite)
            for number in range(first, first + count)
        )

    def _play(self, jobs: list[Job], report: Report) -> None:
        gone = {  # arms that are not available
            job.arm for job in jobs if "unavailable" in self._log.records.get(job.key, {})
        }
        waiting = [job for job in jobs if job.key not in self._log.records]
        done, running = len(jobs) - len(waiting), {}
        if done:
            report(done, len(jobs), {})
        while waiting or running:
            for job in list(waiting):
                if len(running) == self._engine.slots:
                    break
                if job.arm in gone or self._reference(job.arm) in gone:
                    waiting.remove(job)
                    done += 1
                    continue
                ready = self._with_counts(job)
                if ready is not None:
                    waiting.remove(job)
                    running[self._engine.submit(ready)] = job
            if not running:
                break
            handle, record = self._engine.finished(list(running))
            job = running.pop(handle)
            if "unavailable" in record:
                gone.add(job.arm)
            self._log.add(record)
            done += 1
            report(done, len(jobs), record)

    @staticmethod
    def _reference(arm: Arm) -> Arm | None:
        return replace(arm, method=DEFAULT) if arm.method in COPIES else None

    def _with_counts(self, job: Job) -> Job | None:
        """The job with the counts it copies; None while those are not known."""
        reference = self._reference(job.arm)
        if reference is None:
            return job
        record = self._log.records.get(replace(job, arm=reference).key)
        if record is None:
            return None
        counts = copied_counts(record["kept"], record["dense"], self._queries)
        return replace(job, counts=counts)


def with_references(arms: Sequence[Arm]) -> list[Arm]:
    """The arms, each once, with DEFAULT's arm before the first one that copies its counts."""
    found: list[Arm] = []
    for arm in arms:
        if arm.method in COPIES:
            found.append(replace(arm, method=DEFAULT))
        found.append(arm)
    return list(dict.fromkeys(found))


def _available(records: list[Record]) -> list[Record]:
    return [r for r in records if "unavailable" in r][:1] or records


@contextmanager
def progress_bar(text: str) -> Iterator[Callable[..., Any]]:
    """A bar with the remaining time on standard error, if that is a terminal; gives a Report."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn(), TextColumn("remaining"), TimeRemainingColumn(),
               TextColumn("{task.fields[last]}"))
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True,
                  disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=None, last="")

        def report(done: int, total: int, record: Record) -> None:
            last = ""
            if "success" in record:
                last = f"{record['key'].split('|')[0]}: {'yes' if record['success'] else 'no'}"
            progress.update(task, completed=done, total=total, last=last)

        yield report
