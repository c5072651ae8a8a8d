"""One run of the benchmark: arms, checks, times, and the document that is written."""
from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from specprune_ros.analysis.output import checkpoint_name, progress_bar, provenance
from specprune_ros.bench import measure, selection
from specprune_ros.bench.arms import Arm, policies
from specprune_ros.bench.checks import check_actions
from specprune_ros.bench.device import facts
from specprune_ros.bench.models import load
from specprune_ros.bench.roofline import bound_ms, ceilings, query_cost
from specprune_ros.bench.streams import Stream, Workload, instruction_of, make_recordings
from specprune_ros.bench.summary import arm_summary, ratios, withheld
from specprune_ros.bench.sweep import layer_sweep, query_sweep
from specprune_ros.policy import FixedSettings, Policy
from specprune_ros.runtime.choice import Runtime
from specprune_ros.vla.openvla_oft.model import LoadedCheckpoint

_CONTROL_PERIOD = 0.05  # s; has no influence on time
_CHUNK = 8


class Bench:
    """Weights, policies and streams of one run."""

    def __init__(self, args: argparse.Namespace, arms: list[Arm]) -> None:
        self._args, self._arms = args, arms
        self.cuda = args.device == "cuda"
        dtype = args.dtype or ("bfloat16" if self.cuda else "float32")
        weights = {
            kind: self._load(args, dtype, kind)
            for kind in ("full", *sorted({arm.weights for arm in arms} - {"full"}))
        }
        self.loaded = weights["full"]
        # Prompts as they are: padding would slow the dense arm down.
        runtimes = {
            kind: Runtime(loaded.model, args.runtime, FixedSettings(prompt_tile=1))
            for kind, loaded in weights.items()
        }
        self.policies = policies(weights, arms, runtimes, self._policy_of)
        self.any = next(iter(self.policies.values()))
        self.workload = Workload(
            args.scene, args.mode, args.size, args.cameras,
            instruction_of(self.any, args.prompt_tokens), args.seed,
        )
        self._recordings = make_recordings(self.workload)

    @property
    def runtime_kind(self) -> str:
        """The execution asked for, of the fast arms."""
        return self._args.runtime

    @staticmethod
    def _load(args: argparse.Namespace, dtype: str, weights: str) -> LoadedCheckpoint:
        loaded = load(args.model, args.device, dtype, args.seed)
        if weights == "int8":
            loaded.model.decoder.to_int8()
        return loaded

    def policy(self, runtime: Any, pruning: Any) -> Policy:
        """A policy over the weights in their full type."""
        return self._policy_of(self.loaded, runtime, pruning)

    @staticmethod
    def _policy_of(loaded: LoadedCheckpoint, runtime: Any, pruning: Any) -> Policy:
        return Policy(
            loaded, None, True, True, pruning, _CHUNK, _CONTROL_PERIOD, runtime
        )

    def stream(self, policy: Policy) -> Stream:
        return Stream(policy, self.workload, self._recordings)

    def document(self) -> dict[str, Any]:
        """Measure everything that was asked for."""
        args, model = self._args, self.loaded.model
        device = ceilings(model.device, model.dtype)
        checks = check_actions(self)
        times, costs = self._times()
        depth, hidden = model.config.llama.num_hidden_layers, model.config.llama.hidden_size
        arms = {
            arm.name: {"text": arm.text, "weight_bytes": self.policies[arm.name].model.weight_bytes,
                       **arm_summary(times[arm.name], self._bounds(arm, times, device), self.cuda)}
            for arm in self._arms
        }
        reason = withheld(arms) if self.cuda else None
        document = {
            **provenance(args, "bench"),
            "device": args.device,
            "device_facts": facts(model.device, device),
            "model": {"name": checkpoint_name(self.any, self.loaded.files.path),
                      "trained": self.any.trained, "layers": depth, "hidden": hidden,
                      "dtype": str(model.dtype).removeprefix("torch.")},
            "workload": {
                "scene": args.scene, "mode": args.mode, "cameras": args.cameras,
                "picture": args.size, "sets": len(self._recordings),
                "tokens": times[self._arms[0].name].rows[0][0], "threads": args.threads,
            },
            "checks": checks,
            "arms": arms,
            "ratios": ratios(times, reason),
            "withheld": reason,
            **costs,
        }
        if args.sweep or args.plot:
            document["sweep"] = {
                "queries": query_sweep(self, device), "layers": layer_sweep(self, device),
            }
        return document

    def _bounds(
        self, arm: Arm, times: Mapping[str, measure.ArmTimes], device: Any
    ) -> tuple[float, float | None]:
        """FLOPs of a whole query, and its lower bound in ms; None for int8, whose ceilings are not
        measured."""
        flops, bound = self.bounds_of(np.mean(times[arm.name].rows, axis=0), device)
        return flops, bound if arm.weights == "full" else None

    def bounds_of(self, rows: Any, device: Any) -> tuple[float, float]:
        """FLOPs of a query and its lower bound in ms, from its rows per layer."""
        policy = self.any
        actions = policy.chunk_length * policy.action_dim
        stages, everything = query_cost(
            policy.query_shape, rows, self._args.cameras, policy.uses_proprio, actions
        )
        return float(everything.flops), bound_ms(stages, device)

    def _times(self) -> tuple[dict[str, measure.ArmTimes], dict[str, Any]]:
        """Of all arms, and what selection costs."""
        args = self._args
        streams = {name: self.stream(policy) for name, policy in self.policies.items()}
        extra = None
        if "d" in self.policies:
            extra = selection.watcher(self)
            streams[measure.PROBE] = self.stream(extra.policy)
        queries, warm_ups = args.queries or (100 if self.cuda else 15), 20 if self.cuda else 0
        total = (queries + max(warm_ups, 2 * len(self._recordings))) * len(streams)
        with progress_bar("bench", total) as progress:
            times = measure.run(streams, queries, warm_ups, progress, extra and extra.note)
        if self.cuda:
            for name, policy in self.policies.items():
                times[name].peak_memory = self._peak_memory(policy)
        depth = self.any.decoder_shape.layers
        costs = extra.shares(times, depth) if extra else {
            "selection_of_layer": None, "selection_of_query": None,
        }
        return times, costs

    def _peak_memory(self, policy: Policy) -> int:
        """Most bytes that a query holds beside the weights, called operation by operation.

        A graph holds what its capture took for good; run directly, the same program shows what it
        needs.
        """
        if policy.runtime.executor(policy.pruner).name == "graph":
            direct = Runtime(policy.model, "static", FixedSettings(prompt_tile=1))
            policy = self._policy_of(policy.loaded, direct, policy.pruner)
        stream, peak = self.stream(policy), 0
        for _ in range(3):  # the last one finds its program and its history
            observation, episode = stream.ready(0)
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            policy.predict(observation, episode)
            peak = torch.cuda.max_memory_allocated() - before
        return peak
