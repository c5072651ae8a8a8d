"""A policy without a network, for tests of vla_node: it remembers what it was asked."""
import threading

import numpy as np

from specprune_ros.types import ActionChunk, CameraTokens, Mode, PruneReport


class FakePolicy:
    """Follows specprune_ros.policy.Policy as far as vla_node uses it.

    ``fault``: what the next queries do wrong: an exception to raise, or actions to return.
    ``dense_fault``: the same for the policy that :meth:`with_pruning` gives.
    ``gate``: cleared by a test, it holds queries up until it is set.
    ``replan``: what :meth:`replan_wanted` says.
    """

    uses_proprio = True
    proprio_dim = 8
    action_dim = 7
    chunk_length = 8

    def __init__(self, settings, pruned=None):
        self.settings = settings
        self.pruning = settings["pruning"] if pruned is None else "off"
        self.pruned = pruned  # the policy that this one is the dense one of
        self.dense = None
        self.dense_fault = None
        self.replan = False
        self.mode = Mode.FINE
        self.report = None  # in place of the usual one
        self.observations = []
        self.episodes = []
        self.fault = None
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()  # a query has begun

    def make_episode(self):
        self.episodes.append({"number": len(self.episodes), "queries": 0, "frames": []})
        return self.episodes[-1]

    def set_pruning(self, name, seed=0):
        self.pruning, self.seed = name, seed

    def with_pruning(self, pruning):
        assert pruning == "off" and self.pruned is None
        self.dense = FakePolicy(self.settings, pruned=self)
        self.dense.gate, self.dense.entered = self.gate, self.entered
        return self.dense

    def fail(self, fault):
        """Let pruned and dense queries fail in the same way; None ends it."""
        self.fault = self.dense_fault = fault

    def replan_wanted(self, episode=None):
        return self.replan

    def observe(self, images, stamp, ee_twist=None, episode=None):
        episode["frames"].append(stamp)

    def predict(self, observation, episode=None):
        self.entered.set()
        assert self.gate.wait(60.0)
        self.observations.append(observation)
        fault = self.fault if self.pruned is None else self.pruned.dense_fault
        if isinstance(fault, Exception):
            raise fault
        actions = np.arange(56, dtype=np.float64).reshape(8, 7) / 100
        if fault is not None:
            actions = fault
        number = episode["queries"]
        episode["queries"] += 1
        return ActionChunk(actions, actions.astype(np.float32), self._report(number),
                           observation.stamp)

    def _report(self, number):
        if self.report is not None:
            return self.report
        return PruneReport(
            method=self.pruning,
            mode=self.mode,
            query_number=number,
            kept_positions=(np.arange(20), np.arange(12), np.arange(9)),
            cameras=(CameraTokens("primary", 8, 3, 2, 1, 5, (4, 3)),
                     CameraTokens("wrist", 8, 2, 2, 2, 6, (5, 2))),
            dynamic_layers=(1, 2),
            stage_ms={"preprocess": 1.0, "decoder": 20.0},
            flops=10.0,
            dense_flops=40.0,
            dense_refresh=number == 0,
            thresholds={"tau_scene": 0.9},
            speeds={"translation": 0.5, "rotation": 0.25, "vertical": -0.1},
        )
