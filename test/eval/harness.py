"""Shared by the tests of the evaluation: short episodes of the tiny checkpoint, made-up records."""
from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from specprune_ros.eval.engines import InProcess
from specprune_ros.eval.episode import Arm, Job, Record
from specprune_ros.eval.evaluate import Evaluation
from specprune_ros.eval.log import EpisodeLog
from specprune_ros.eval.settings import EvalSettings

STEPS = 17  # three queries
TASKS = 8


def short_settings(checkpoint, **changes: Any) -> EvalSettings:
    """Episodes of three queries at 64 px."""
    return EvalSettings.of(
        "tabletop", 40, checkpoint, **{"max_steps": STEPS, "render_size": 64, **changes}
    )


def evaluate(settings, path, arms: Sequence[Arm], episodes: int, engine=None, resume=False,
             report=lambda done, total, record: None):
    """Records by arm; the engine is closed afterwards."""
    engine = engine or InProcess(settings)
    try:
        with EpisodeLog(path, settings, resume) as log:
            return Evaluation(settings, engine, log, TASKS, queries=3).run(
                arms, settings.seed, episodes, report)
    finally:
        engine.close()


def timeless(found) -> str:
    """Records without what a clock said, as text to compare."""
    return json.dumps(
        [[{k: v for k, v in r.items() if k != "timing"} for r in records]
         for records in found.values()], sort_keys=True)


def record(job: Job, success: bool = False, kept=((4, 4), (2, 3)), queries: int = 2) -> Record:
    """A made-up episode of two layers and two cameras of four patches; query 0 is dense."""
    full = [[4, 4] for _ in kept]
    return {
        "key": job.key, "task": job.task, "init_state": job.init_state, "instruction": "do it",
        "success": success, "steps": 8 * queries, "simulated_s": 0.4 * queries,
        "cameras": ["primary", "wrist"],
        "kept": [full, *[[list(layer) for layer in kept]] * (queries - 1)],
        "flops": [100.0, *[40.0] * (queries - 1)], "dense_flops": [100.0] * queries,
        "fine": [False, *[True] * (queries - 1)], "dense": [True, *[False] * (queries - 1)],
        "fallbacks": [],
        "seam_translation": [0.5] * (queries - 1), "seam_rotation": [0.1] * (queries - 1),
        "inside_translation": 0.2, "inside_rotation": None, "distance": None,
        "timing": {"wall_s": 1.0, "latency_ms": [10.0] * queries, "cpu_ms": [9.0] * queries},
    }
