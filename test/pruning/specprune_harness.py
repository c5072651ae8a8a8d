"""Layouts, frames, a random decoder, scripted attention and a naive SpecPrune for the tests.

The naive version works on Python sets and dicts of absolute positions, one patch at a time, so that
it shares no indexing with the product.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from transformers import LlamaConfig

from specprune_ros.pruning.base import PruneSession, QueryContext, SessionResult
from specprune_ros.pruning.config import Budget, CameraBudgets, SpecPruneConfig
from specprune_ros.pruning.similarity import patch_similarity
from specprune_ros.pruning.specprune import SpecPrune
from specprune_ros.tokens import TokenLayout
from specprune_ros.types import Mode
from specprune_ros.vla.openvla_oft.decoder import Decoder, DecoderOutput

torch.set_num_threads(1)

CAMERAS = ("primary", "wrist", "wrist_2")
PATCH = 14
HIDDEN = 32


def layout(
    cameras: int = 2,
    patches: int = 16,
    proprio: bool = True,
    prompt: int = 20,
    actions: int = 14,
    instruction: tuple[int, int] = (9, 16),
) -> TokenLayout:
    return TokenLayout(CAMERAS[:cameras], patches, proprio, prompt, actions, instruction)


def same_budgets(budget: Budget) -> CameraBudgets:
    return CameraBudgets(budget, budget, budget, budget)


def frames(of: TokenLayout, seed: int) -> torch.Tensor:
    """uint8 [n_cam, side, side, 3] of noise."""
    side = PATCH * of.grid
    generator = torch.Generator().manual_seed(seed)
    size = (len(of.cameras), side, side, 3)
    return torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)


def repainted(frame: torch.Tensor, camera: int, patches, seed: int) -> torch.Tensor:
    """A copy in which these patches of a camera hold other noise."""
    frame, generator = frame.clone(), torch.Generator().manual_seed(seed)
    grid = frame.shape[1] // PATCH
    for patch in patches:
        y, x = PATCH * (patch // grid), PATCH * (patch % grid)
        noise = torch.randint(0, 256, (PATCH, PATCH, 3), generator=generator, dtype=torch.uint8)
        frame[camera, y : y + PATCH, x : x + PATCH] = noise
    return frame


def context(of: TokenLayout, depth: int = 8, **known) -> QueryContext:
    values = {
        "layout": of,
        "depth": depth,
        "device": torch.device("cpu"),
        "mode": Mode.COARSE,
        "query_number": 0,
        "frame": frames(of, 0),
        "step_frame": None,
        "query_frame": None,
        "history": None,
    }
    return QueryContext(**{**values, **known})


# A real decoder ----------------------------------------------------------------------------


@lru_cache
@torch.inference_mode(False)
def decoder(depth: int = 8, dtype: torch.dtype = torch.float32) -> Decoder:
    torch.manual_seed(depth)
    model = Decoder(
        LlamaConfig(
            vocab_size=8, hidden_size=HIDDEN, intermediate_size=48, num_hidden_layers=depth,
            num_attention_heads=4, num_key_value_heads=2,
        )
    )
    with torch.no_grad():
        for layer in model.layers:
            # Attention of fresh weights is nearly uniform: sharpen it, so that rows differ.
            layer.self_attn.q_proj.weight *= 4
    return model.to(dtype).eval()


def embeddings(of: TokenLayout, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[1, S, D], placeholders zero as in the model."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, of.length, HIDDEN, generator=generator)
    x[:, of.placeholders.start : of.placeholders.stop] = 0
    return x.to(dtype)


@dataclass(frozen=True)
class Run:
    output: DecoderOutput
    result: SessionResult
    layout: TokenLayout

    def positions(self, layer: int) -> list[int]:
        return self.output.layer_positions[layer].tolist()

    def visual(self, layer: int) -> set[int]:
        return set(self.positions(layer)) & set(self.layout.visual)


@torch.inference_mode()
def run(
    pruner, of: TokenLayout, x: torch.Tensor | None = None, depth: int = 8,
    dtype: torch.dtype = torch.float32, wrap=lambda session: session, **known,
) -> Run:
    """One query through the real decoder. wrap: puts something around the session."""
    session = pruner.begin(context(of, depth, **known))
    x = embeddings(of, dtype=dtype) if x is None else x
    readout = torch.arange(of.readout.start, of.readout.stop)
    output = decoder(depth, dtype)(x, readout, wrap(session))
    return Run(output, session.finish(), of)


class PassingOn:
    """Around a session: gives it everything; subclasses watch a part."""

    def __init__(self, session):
        self.session = session

    def __getattr__(self, name):
        return getattr(self.session, name)


# Scripted attention: no network, any scores ------------------------------------------------


@dataclass(frozen=True)
class ScriptedTokens:
    positions: torch.Tensor

    def select(self, rows: torch.Tensor) -> ScriptedTokens:
        return ScriptedTokens(self.positions[rows])


class ScriptedAttention:
    """Softmax over the alive keys of fixed random logits of a layer, float32 [H, S, S]."""

    def __init__(self, logits: torch.Tensor, positions: torch.Tensor) -> None:
        self.logits, self.positions, self.key_positions = logits, positions, positions

    def weights(self, rows, keys=None) -> torch.Tensor:
        logits = self.logits[:, absolute(rows, self.positions)][:, :, self.key_positions]
        return columns(torch.softmax(logits, dim=-1), keys, self.key_positions)


def absolute(places: torch.Tensor | slice, positions: torch.Tensor) -> torch.Tensor:
    """Positions of what a session names by position or by slice."""
    return positions[places] if isinstance(places, slice) else places


def columns(weights: torch.Tensor, keys, positions: torch.Tensor) -> torch.Tensor:
    """Those of the keys asked for, by position or by slice; all for None."""
    if keys is None:
        return weights
    return weights[:, :, torch.searchsorted(positions, absolute(keys, positions))]


def script(of: TokenLayout, depth: int, seed: int, coarse: bool = False) -> list[torch.Tensor]:
    """Logits per layer. coarse: few different values, so that scores tie."""
    generator = torch.Generator().manual_seed(seed)
    size = (2, of.length, of.length)
    logits = [3 * torch.randn(size, generator=generator) for _ in range(depth)]
    if coarse:
        # One value per key column and few of them: all rows agree, and columns tie exactly.
        logits = [x[:1, :1].round().clamp(-2, 2).expand(size).contiguous() for x in logits]
    return logits


def play(
    session: PruneSession, of: TokenLayout, logits: list[torch.Tensor], device="cpu"
) -> list[list[int]]:
    """Drive a session as the decoder does; the positions that entered each layer."""
    tokens, entered = ScriptedTokens(torch.arange(of.length, device=device)), []
    for layer, values in enumerate(logits):
        tokens = session.before_layer(layer, tokens)
        entered.append(tokens.positions.tolist())
        session.after_layer(layer, tokens, ScriptedAttention(values, tokens.positions))
    return entered


# The naive version -------------------------------------------------------------------------


def best(scores: dict[int, float], k: int) -> set[int]:
    """The k positions of the highest score, the lower position first among equals."""
    return set(sorted(scores, key=lambda p: (-scores[p], p))[:k])


class NaiveSpecPrune:
    """One query as docs/method.md tells it."""

    def __init__(self, config: SpecPruneConfig, known: QueryContext, old: NaiveSpecPrune | None):
        self.config, self.known, self.old = config, known, old
        self.layout, self.schedule = known.layout, config.schedule(known.depth)
        self.others = set(range(self.layout.length)) - set(self.layout.visual)
        self.alive = set(self.layout.visual)
        self.dense = old is None and config.first_query == "dense"
        self.sets = {"G": self.global_set(), "D": self.dynamic_set()}
        self.found: list[set[int]] = []  # V_local of each speculation layer
        self.scores = dict.fromkeys(self.layout.visual, 0.0)
        self.remembered: dict[int, dict[int, float]] = {}
        self.confidence = dict(old.confidence) if old else {}
        self.dynamic_on = True

    def cameras(self):
        for index, name in enumerate(self.layout.cameras):
            budget = self.config.budgets.of(name, self.known.mode)
            yield set(self.layout.camera(index)), budget, self.config.static.tau(name), index

    def global_set(self) -> set[int]:
        if self.dense or self.old is None or not self.config.static.use_global:
            return set()
        chosen = set()
        for n, layer in enumerate(self.schedule.global_):
            scores = self.old.remembered[layer]
            for camera, budget, _, _ in self.cameras():
                if self.config.static.global_budget == "previous":
                    name = self.layout.cameras[(min(camera) - 1) // len(camera)]
                    budget = self.config.budgets.of(name, self.old.known.mode)
                layers = len(self.schedule.global_)
                k = budget.global_ // layers + (1 if n < budget.global_ % layers else 0)
                chosen |= best({p: scores[p] for p in camera & scores.keys()}, k)
        return chosen

    def dynamic_set(self) -> set[int]:
        static, known = self.config.static, self.known
        references = [known.step_frame]
        references += [known.query_frame] if static.compare_last_query else []
        references = [r for r in references if r is not None]
        if self.dense or not references or not static.use_dynamic:
            return set()
        similarity = patch_similarity(
            known.frame, references, self.layout.grid, static.similarity
        ).flatten().tolist()
        chosen = set()
        for camera, budget, tau, _ in self.cameras():
            if static.dynamic_rule == "lowest":
                moved = {p: -similarity[p - 1] for p in camera if similarity[p - 1] < tau}
                chosen |= best(moved, budget.dynamic)
            else:
                still = {p: similarity[p - 1] for p in camera if similarity[p - 1] >= tau}
                chosen |= camera - best(still, max(0, len(camera) - budget.dynamic))
        return chosen

    def mean_attention(self, attention, rows, columns, over) -> dict[int, float]:
        rows, columns = sorted(rows), sorted(columns)
        weights = attention.weights(torch.tensor(rows), torch.tensor(columns))
        return dict(zip(columns if over == "rows" else rows,
                        weights.mean((0, 1) if over == "rows" else (0, 2)).tolist()))

    def text_scores(self, attention) -> dict[int, float]:
        if not self.alive:
            return {}
        text = set(self.layout.instruction)
        if self.config.static.direction == "text_to_vision":
            return self.mean_attention(attention, text, self.alive, "rows")
        return self.mean_attention(attention, self.alive, text, "columns")

    def remember(self, layer: int, attention) -> None:
        static = self.config.static
        if static.global_rows == "instruction":
            scores = self.text_scores(attention)
        elif self.alive:
            scores = self.mean_attention(attention, self.layout.readout, self.alive, "rows")
        else:
            scores = {}
        if self.old is not None and static.carry > 0:
            for p, value in self.old.remembered[layer].items():
                scores.setdefault(p, static.carry * value)
        self.remembered[layer] = scores

    def speculate(self, layer: int, attention) -> None:
        static, last = self.config.static, layer == self.schedule.local[-1]
        scores = self.text_scores(attention) if static.use_local else {}
        narrow, wide = set(), set()
        for camera, budget, _, _ in self.cameras():
            own = {p: s for p, s in scores.items() if p in camera}
            narrow |= best(own, budget.local)
            wide |= best(own, budget.local * static.interim_factor)
        self.found.append(narrow)
        if static.interim_factor == 0 and not last:
            return
        local = set().union(*self.found) | (set() if last else wide)
        self.alive &= self.sets["G"] | self.sets["D"] | local

    def update(self, layer: int, attention) -> None:
        config = self.config.dynamic
        n = len(self.alive)
        if n == 0:
            return
        order = sorted(self.alive)
        rows = attention.weights(
            torch.tensor(list(self.layout.readout)), torch.tensor(order)
        ).mean(0)
        mean = dict(zip(order, rows.mean(0).tolist()))
        ranked = sorted(order, key=lambda p: (-mean[p], p))
        slope = 8 / n if config.rank_slope is None else config.rank_slope
        weights = [1 / (1 + math.exp(slope * rank)) for rank in range(n)]
        if layer not in self.confidence or config.confidence_per == "query":
            self.confidence[layer] = naive_confidence(rows, config.confidence)
        for rank, p in enumerate(ranked):
            gain = weights[rank] / sum(weights) * self.confidence[layer]
            self.scores[p] = (1 - config.beta) * self.scores[p] + config.beta * gain

    def prune(self) -> None:
        config, n = self.config.dynamic, len(self.alive)
        if config.ratio_of == "visual":
            wanted = math.floor(config.keep * n + 1e-9)
        else:
            length = n + len(self.others)
            wanted = n - (length - math.floor(config.keep * length + 1e-9))
        keep = min(n, max(wanted, config.floor))
        if keep == n and n <= config.floor:
            self.dynamic_on = False
        order = sorted(self.alive, key=lambda p: (-self.scores[p], p not in self.sets["G"], p))
        self.alive = set(order[:keep])

    def play(self, logits: list[torch.Tensor]) -> list[list[int]]:
        entered = []
        for layer, values in enumerate(logits):
            positions = sorted(self.others | self.alive)
            entered.append(positions)
            attention = ScriptedAttention(values, torch.tensor(positions))
            if layer in self.schedule.global_:
                self.remember(layer, attention)
            if self.dense:
                continue
            if layer in self.schedule.local:
                self.speculate(layer, attention)
            if self.dynamic_on and layer in self.schedule.update:
                self.update(layer, attention)
            if self.dynamic_on and layer in self.schedule.prune:
                self.prune()
        return entered


def naive_confidence(rows: torch.Tensor, kind: str) -> float:
    values = rows.double()
    if kind == "mean_std":
        spread = math.sqrt(((values - values.mean()) ** 2).mean())
        return float(values.mean()) / (spread + 1e-8)
    n = values.shape[1]
    if n == 1:
        return 1.0
    entropies = []
    for row in values.tolist():
        p = [x / sum(row) for x in row]
        entropies.append(-sum(x * math.log(x) for x in p if x > 0))
    entropy = sum(entropies) / len(entropies)
    return 1 / max(entropy / math.log(n) if kind == "entropy" else entropy, 1e-3)


def two_queries(config: SpecPruneConfig, of: TokenLayout, depth: int, seed: int, coarse: bool,
                modes=(Mode.COARSE, Mode.FINE)):
    """Play two queries of an episode: [(session, naive, entered, naively entered)]."""
    before, now = frames(of, seed), frames(of, seed + 1)
    # Half of the patches stay as they were, so that the measures have something to tell apart.
    still = list(range(0, of.patches_per_camera, 2))
    for camera in range(len(of.cameras)):
        grid = of.grid
        for patch in still:
            y, x = PATCH * (patch // grid), PATCH * (patch % grid)
            now[camera, y : y + PATCH, x : x + PATCH] = before[
                camera, y : y + PATCH, x : x + PATCH]
    played, history, naive = [], None, None
    for number, mode in enumerate(modes):
        known = context(
            of, depth, mode=mode, query_number=number, frame=now if number else before,
            step_frame=before if number else None, query_frame=before if number else None,
            history=history,
        )
        logits = script(of, depth, seed + 10 * number, coarse)
        session = SpecPrune(config).begin(known)
        naive = NaiveSpecPrune(config, known, naive)
        played.append((session, naive, play(session, of, logits), naive.play(logits)))
        history = session.finish().history
    return played
