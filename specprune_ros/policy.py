"""The Python API: load a checkpoint, feed it observations, get action chunks. No ROS.

    policy = load_policy(checkpoint_dir)
    policy.new_episode()
    chunk = policy.predict(Observation(images={"primary": image}, instruction="pick up the cup"))
"""
from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

import numpy as np
import torch

from specprune_ros.errors import (
    CheckpointError,
    ConfigurationError,
    InferenceError,
    ObservationError,
)
from specprune_ros.pruning.base import Pruner, QueryContext
from specprune_ros.pruning.config import ControllerConfig, SpecPruneConfig, StaticConfig
from specprune_ros.pruning.episode import Episode, EpisodeState
from specprune_ros.pruning.frames import Frame
from specprune_ros.pruning.registry import make_pruner
from specprune_ros.pruning.specprune import SpecPrune
from specprune_ros.runtime.accounting import QueryShape
from specprune_ros.runtime.choice import Runtime
from specprune_ros.runtime.execution import Execution, Executor, Query
from specprune_ros.runtime.fixed import DEFAULT, FixedSettings
from specprune_ros.runtime.inputs import PRIMARY, QueryInputs, ordered_cameras
from specprune_ros.runtime.latency import check_target, pick_bucket
from specprune_ros.runtime.reuse import NO_REUSE, VisionReuse
from specprune_ros.runtime.timing import StageClock
from specprune_ros.tokens import TokenLayout
from specprune_ros.types import ActionChunk, Observation, PruneReport
from specprune_ros.vla.openvla_oft.model import LoadedCheckpoint, check_weights
from specprune_ros.vla.openvla_oft.statistics import select_statistics
from specprune_ros.vla.registry import load_backbone

_log = logging.getLogger(__name__)

__all__ = [
    "ActionChunk", "Episode", "FixedSettings", "Observation", "Policy", "load_policy",
]


def load_policy(
    checkpoint_dir: str | Path,
    device: str = "cpu",
    dtype: str = "float32",
    unnorm_key: str | None = None,
    center_crop: bool = True,
    jpeg_roundtrip: bool = True,
    pruning: str | Pruner | SpecPruneConfig = "specprune",
    chunk_length: int = 8,
    control_period: float = 0.05,
    action_head: str = "l1",
    runtime: str = "auto",
    fixed: FixedSettings = DEFAULT,
    vision_reuse: float = 0.0,
    weights: str = "full",
    latency_target_ms: float = 0.0,
) -> Policy:
    """Load an OpenVLA-OFT checkpoint directory, or one of a backbone that a plug-in registers.

    dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: bfloat16 on CUDA and on a CPU with
        instructions for it, else float32.
    unnorm_key: data set whose statistics scale actions and proprio; None where there is one only.
    center_crop, jpeg_roundtrip: as in the evaluation the checkpoint was trained for.
    pruning: ``off``, a preset, a method's name, or a pruner of your own.
    chunk_length: actions per query (8 for LIBERO; no file of a checkpoint says it).
    control_period: seconds per action.
    action_head: ``l1``, or ``discrete`` for a policy trained to give its actions as tokens.
    runtime: ``eager`` (exact sets), ``static`` (fixed numbers of rows), ``graph`` (the same as one
        CUDA graph), or ``auto``. fixed: settings of the latter two. See docs/performance.md.
    vision_reuse: use a camera's features again while every patch of its picture has at least this
        similarity (SSIM) to the picture they came from; 1 = identical pictures only, 0 = never.
    weights: ``full``, or ``int8`` for decoder matrices of a byte per weight.
    latency_target_ms: have :meth:`Policy.warm_up` choose how many rows pruned queries keep, so that
        they take no longer than this on the machine at hand; 0 = the budgets decide.

    Raises CheckpointError (what is wrong with the files) or ConfigurationError (the settings).
    """
    reuse = VisionReuse(vision_reuse)
    check_target(latency_target_ms)
    check_weights(weights)
    loaded = load_backbone(checkpoint_dir, device, dtype, action_head)
    if weights == "int8":
        loaded.model.decoder.to_int8()
    return Policy(
        loaded, unnorm_key, center_crop, jpeg_roundtrip, pruning, chunk_length, control_period,
        Runtime(loaded.model, runtime, fixed, latency_target_ms), reuse,
    )


class Policy:
    """A loaded checkpoint with a pruning method. Not thread-safe: query it from one thread."""

    def __init__(
        self,
        loaded: LoadedCheckpoint,
        unnorm_key: str | None,
        center_crop: bool,
        jpeg_roundtrip: bool,
        pruning: str | Pruner | SpecPruneConfig,
        chunk_length: int,
        control_period: float,
        runtime: Runtime | None = None,
        reuse: VisionReuse = NO_REUSE,
    ) -> None:
        if not isinstance(chunk_length, int) or chunk_length < 1:
            raise ConfigurationError(
                f"chunk_length must be a whole number >= 1, not {chunk_length!r}"
            )
        if not control_period > 0:
            raise ConfigurationError(f"control_period must be > 0 s, not {control_period}")
        self.loaded = loaded
        self.model = loaded.model
        self.card: Mapping[str, Any] = loaded.files.card
        self.statistics = select_statistics(
            loaded.statistics, unnorm_key, loaded.model.action_dim
        )
        if self.statistics.action.size != loaded.model.action_dim:
            raise ConfigurationError(
                f"statistics '{self.statistics.key}' have {self.statistics.action.size} action "
                f"dimensions, the action head has {loaded.model.action_dim}: choose another "
                "unnorm_key"
            )
        self._check_proprio()
        self.chunk_length = chunk_length
        self.control_period = control_period
        self.inputs = QueryInputs(
            loaded, self.statistics, center_crop, jpeg_roundtrip, chunk_length
        )
        self._settings = (center_crop, jpeg_roundtrip)
        self._cold = True
        self.query_shape = QueryShape.of(loaded.model)
        self.decoder_shape = self.query_shape.decoder
        self.runtime, self._reuse = runtime or Runtime(loaded.model), reuse
        self.clock: StageClock | None = None  # of the newest query
        self.set_pruning(pruning)
        self._episode = self.make_episode()

    def _check_proprio(self) -> None:
        """Statistics and projector must agree on the length of the proprio vector."""
        projector, bounds = self.model.proprio_projector, self.statistics.proprio
        if projector is not None and bounds is not None:
            if projector.fc1.in_features != bounds.size:
                raise CheckpointError(
                    f"the proprio projector takes {projector.fc1.in_features} values, statistics "
                    f"'{self.statistics.key}' have {bounds.size}: choose another unnorm_key"
                )

    # Properties ----------------------------------------------------------------------------

    @property
    def action_dim(self) -> int:
        return self.model.action_dim

    @property
    def uses_proprio(self) -> bool:
        """Whether the checkpoint has a proprio projector, and statistics to feed it with."""
        projector = self.model.proprio_projector
        return projector is not None and self.statistics.proprio is not None

    @property
    def proprio_dim(self) -> int | None:
        projector = self.model.proprio_projector
        return projector.fc1.in_features if projector is not None else None

    @property
    def trained(self) -> bool:
        """False where the checkpoint's card says that its weights are random."""
        return bool(self.card.get("trained", True))

    @property
    def patches_per_camera(self) -> int:
        return self.model.config.patches_per_camera

    # Settings ------------------------------------------------------------------------------

    def set_pruning(self, pruning: str | Pruner | SpecPruneConfig, seed: int = 0) -> None:
        """Use another method from the next query on. Raises ConfigurationError.

        seed: of the draws of a method given by name, where it draws.
        """
        if isinstance(pruning, str):
            pruning = make_pruner(pruning, seed)
        elif isinstance(pruning, SpecPruneConfig):
            pruning = SpecPrune(pruning)
        elif not hasattr(pruning, "begin"):
            raise ConfigurationError(
                f"pruning is {pruning!r}, expected the name of a method, or a pruner"
            )
        self._executor: Executor = self.runtime.executor(pruning)
        self.pruner: Pruner = pruning
        config = getattr(pruning, "config", None)
        controller, static = (getattr(config, name, None) for name in ("controller", "static"))
        # Methods without a controller of their own still report speeds, and stay coarse.
        own = isinstance(controller, ControllerConfig)
        self._controller = controller if own else ControllerConfig(enabled=False)
        self._static = static if isinstance(static, StaticConfig) else StaticConfig()

    def with_pruning(
        self,
        pruning: str | Pruner | SpecPruneConfig,
        vision_reuse: float | None = None,
        latency_target_ms: float | None = None,
    ) -> Policy:
        """A second policy over the same weights: method, episodes and settings are its own.

        vision_reuse, latency_target_ms: as for :func:`load_policy`; None for those of this policy.
        """
        runtime, reuse = self.runtime, self._reuse
        if latency_target_ms is not None:
            runtime = Runtime(self.model, "auto", DEFAULT, latency_target_ms)
        if vision_reuse is not None:
            reuse = VisionReuse(vision_reuse)
        return Policy(
            self.loaded,
            self.statistics.key,
            *self._settings,
            pruning,
            self.chunk_length,
            self.control_period,
            runtime,
            reuse,
        )

    # Episodes ------------------------------------------------------------------------------

    def make_episode(self) -> Episode:
        """A new, independent episode; give it to observe() and predict()."""
        return Episode(self.control_period)

    def new_episode(self) -> None:
        """Start the policy's own episode afresh."""
        self._episode.reset()

    def observe(
        self,
        images: Mapping[str, np.ndarray] | None = None,
        stamp: float | None = None,
        ee_twist: np.ndarray | None = None,
        episode: Episode | None = None,
        action: np.ndarray | None = None,
    ) -> None:
        """Take camera frames and the motion of the end effector between queries.

        images as in Observation; stamp in seconds (None: one control period after the last).
        action: [A], the action executed last, where it is not the row of the newest chunk whose
        time it was. Images are copied and otherwise only stored: what is compared later is
        prepared then.
        """
        episode = episode or self._episode
        state = episode.state
        stamp = self._stamp(state, stamp)
        if images is not None:
            # The caller may draw the next picture into the same buffer.
            frame = self.inputs.frame(images, stamp, copy=True)
            self.inputs.learn(images)
            state = replace(state, ring=state.ring.pushed(frame))
        episode.state = state.judged(self._controller, stamp, ee_twist, action)

    def replan_wanted(self, episode: Episode | None = None) -> bool:
        """Whether the controller asks for a query before the newest chunk is played to its end.

        Only with ``ControllerConfig.replan``: the mode became fine with actions left to play.
        """
        return (episode or self._episode).state.replan

    # Queries -------------------------------------------------------------------------------

    def predict(self, observation: Observation, episode: Episode | None = None) -> ActionChunk:
        """One query. The episode's state changes only if it succeeds.

        Raises ObservationError for what is wrong with the input, InferenceError for non-finite
        actions.
        """
        episode = episode or self._episode
        self._choose_bucket(observation.images)
        self.clock = clock = self._executor.clock()
        with clock("preprocess"):
            prompt = self.inputs.prompt(observation.instruction)
            proprio = self.inputs.proprio(observation.proprio)
            cameras = ordered_cameras(observation.images)
            layout = self.inputs.layout(cameras, prompt, proprio is not None)
            stamp = self._stamp(episode.state, observation.stamp, query=True)
            frame = self.inputs.frame(observation.images, stamp)
            clock.begin_device_work()
            frame.pixels  # noqa: B018  prepared here, as its time belongs here
        state = episode.state.rewound(stamp)
        state = replace(state, ring=state.ring.pushed(frame))
        state = state.judged(self._controller, stamp, observation.ee_twist, at_query=True)
        key = (self.pruner.name, cameras, prompt.text)
        with clock("preprocess"):  # of the frame looked back at
            context = self._context(state, frame, layout, key)
        with clock("comparison") if self._reuse.enabled else nullcontext():
            known = self._reuse.known(context.frame, cameras, state.vision, layout.grid)
        query = Query(prompt, proprio, context, known)
        execution = self._executor.run(query, self.pruner, clock)
        clock.end_device_work()
        normalized = execution.normalized_actions.astype(np.float32)
        if not np.isfinite(normalized).all():
            raise InferenceError(
                "the network gave non-finite actions: check the weights, and try dtype float32"
            )
        actions = self.statistics.action.denormalize(normalized)
        reused = tuple(name for name, given in zip(cameras, known) if given is not None)
        report = self._report(state, layout, execution, clock, reused)
        history = execution.finished.history
        vision = self._reuse.remembered(
            context.frame, cameras, state.vision, known, execution.features
        )
        episode.state = state.after_query(frame, actions, history, key, vision)
        self._cold = False
        return ActionChunk(actions, normalized, report, observation.stamp)

    def warm_up(self, cameras: Sequence[str] = (PRIMARY, "wrist")) -> None:
        """Run a dense and a pruned query on black pictures, so that the first real one is quick.

        With runtime ``graph`` or ``static`` the programs of both modes are made as well, for
        prompts of up to 64 tokens, after the bucket was chosen where there is a latency target.
        """
        self._choose_bucket(cameras)
        if self.runtime.choice_due:
            _log.warning(
                "latency_target_ms %g has no effect with pruning '%s': it chooses the rows of "
                "SpecPrune's variants alone",
                self.runtime.latency_target_ms, self.pruner.name,
            )
        self._executor.prepare(
            self.inputs.typical_layouts(tuple(cameras), self.uses_proprio),
            self.decoder_shape.layers, self.pruner, self._reuse.enabled,
        )
        size = self.model.config.image_size
        episode = self.make_episode()
        black = {name: np.zeros((size, size, 3), np.uint8) for name in cameras}
        self.inputs.learn(black)
        proprio = None if not self.uses_proprio else self.statistics.proprio.low
        for number in range(2):
            self.predict(
                Observation(black, "warm up", proprio, stamp=number * 1.0), episode=episode
            )

    def _choose_bucket(self, cameras: Iterable[str]) -> None:
        """Have the latency target choose, once for all policies over the same runtime."""
        if self.runtime.choice_due and isinstance(self.pruner, SpecPrune):
            self.runtime.choose(partial(pick_bucket, self, self._executor, tuple(cameras)))
            self._cold = True  # a query that had to wait for this says so

    # Parts of a query ----------------------------------------------------------------------

    def _stamp(self, state: EpisodeState, stamp: float | None, query: bool = False) -> float:
        """Seconds. Unstamped frames are one control period apart, unstamped queries with no frame
        between them one chunk, as its actions have been played."""
        if stamp is not None:
            if not isinstance(stamp, (int, float, np.number)) or not np.isfinite(stamp):
                raise ObservationError(f"stamp is {stamp}, expected finite seconds")
            return float(stamp)
        newest, last = state.ring.newest, state.last_query
        if newest is None:
            return 0.0
        chunk_played = query and last is not None and last.stamp == newest.stamp
        return newest.stamp + self.control_period * (self.chunk_length if chunk_played else 1)

    def _context(
        self, state: EpisodeState, frame: Frame, layout: TokenLayout, key: tuple
    ) -> QueryContext:
        interval = self._static.interval
        speed = state.motion.in_units(interval.speed, self.control_period)
        # Frames of other cameras cannot be compared patch by patch.
        past = None
        if getattr(self.pruner, "looks_back", True):
            past = state.ring.steps_back(frame.stamp, interval.steps_back(speed), frame.cameras)
        last = state.last_query
        last = last if last is not None and last.cameras == frame.cameras else None
        return QueryContext(
            layout=layout,
            depth=self.decoder_shape.layers,
            device=self.model.device,
            mode=state.controller.mode,
            query_number=state.query_number,
            frame=torch.as_tensor(frame.pixels),
            step_frame=None if past is None else torch.as_tensor(past.pixels),
            query_frame=None if last is None else torch.as_tensor(last.pixels),
            history=state.history if key == state.history_key else None,
        )

    def _report(
        self,
        state: EpisodeState,
        layout: TokenLayout,
        execution: Execution,
        clock: StageClock,
        reused: tuple[str, ...],
    ) -> PruneReport:
        finished = execution.finished
        rows = [len(positions) for positions in execution.layer_positions]
        speeds = state.controller.speeds
        thresholds = dict(self._controller.thresholds())
        thresholds |= {"tau_scene": self._static.tau_scene, "tau_wrist": self._static.tau_wrist}
        return PruneReport(
            method=self.pruner.name,
            mode=state.controller.mode,
            query_number=state.query_number,
            kept_positions=execution.layer_positions,
            cameras=finished.cameras,
            dynamic_layers=finished.dynamic_layers,
            stage_ms=dict(clock.stage_ms),
            flops=self.decoder_shape.flops(rows, execution.layer_keys),
            dense_flops=self.decoder_shape.dense_flops(layout.length),
            dense_refresh=finished.dense_refresh,
            cold=self._cold or execution.cold,
            runtime=self._executor.name,
            reused_cameras=reused,
            thresholds=thresholds,
            speeds={
                "translation": speeds.translation,
                "rotation": speeds.rotation,
                "vertical": speeds.vertical,
            },
        )
