"""The stages of fixed shapes against the exact ones, and what they do where sizes differ."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from specprune_harness import (
    ScriptedAttention,
    ScriptedTokens,
    absolute,
    columns,
    context,
    frames,
    layout,
    play,
    repainted,
    same_budgets,
    script,
)

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.config import Budget
from specprune_ros.pruning.fixed import FixedInputs, FixedSession
from specprune_ros.pruning.lengths import FixedLengths, FixedShape, align, fixed_lengths
from specprune_ros.pruning.presets import PRESETS, preset
from specprune_ros.pruning.sets import changed_patches, top_k
from specprune_ros.pruning.specprune import QueryHistory, SpecPrune, global_shares
from specprune_ros.pruning.urgency import ranks, urgency
from specprune_ros.types import Mode

NAN = float("nan")


class PaddedTokens(ScriptedTokens):
    def select(self, rows, padded=True):
        assert not padded
        return PaddedTokens(self.positions[rows])


class PaddedAttention(ScriptedAttention):
    """Columns of padding have no weight, as in the decoder."""

    def __init__(self, logits, positions, length):
        super().__init__(logits, positions)
        self.real = positions < length
        self.query = self.key = logits

    def weights(self, rows, keys=None):
        logits = self.logits[:, absolute(rows, self.positions)][:, :, self.key_positions]
        weights = torch.softmax(logits.masked_fill(~self.real, -torch.inf), dim=-1)
        return columns(weights, keys, self.key_positions)


def inputs_of(config, known, shape: FixedShape, history: QueryHistory | None) -> FixedInputs:
    """What the runtime prepares on the host."""
    of, schedule = known.layout, config.schedule(known.depth)
    budgets = [config.budgets.of(name, known.mode) for name in of.cameras]
    references = [known.step_frame]
    references += [known.query_frame] if config.static.compare_last_query else []
    blank = torch.zeros_like(known.frame)
    instruction = list(of.instruction)
    pad = shape.instruction_rows - len(instruction)
    layers, grid = len(schedule.global_), (shape.cameras, shape.patches)
    kept = history.confidence if history else {}
    return FixedInputs(
        frame=known.frame,
        references=torch.stack([blank if r is None else r for r in references]),
        has_reference=torch.tensor([r is not None for r in references]),
        history=history.scores if history else torch.full((layers, *grid), -torch.inf),
        global_budgets=torch.tensor(
            global_shares(config, known, history) if history else [[0] * grid[0]] * layers
        ).float(),
        dynamic_budgets=torch.tensor([b.dynamic for b in budgets]).float(),
        local_budgets=torch.tensor([b.local for b in budgets]).float(),
        tau=torch.tensor([config.static.tau(n) for n in of.cameras], dtype=torch.float64),
        instruction=torch.tensor(instruction + instruction[:1] * pad),
        instruction_real=torch.tensor([1.0] * len(instruction) + [0.0] * pad),
        readout=torch.tensor(list(of.readout)),
        real=torch.arange(shape.length) < of.length,
        confidence=torch.tensor([float(kept.get(l, NAN)) for l in schedule.update] or [NAN],
                                dtype=torch.float64),
    )


def play_fixed(session: FixedSession, of, logits, length: int) -> list[list[int]]:
    tokens, entered = PaddedTokens(torch.arange(length)), []
    for layer, values in enumerate(logits):
        tokens = session.before_layer(layer, tokens)
        entered.append([p for p in tokens.positions.tolist() if p < of.length])
        attention = PaddedAttention(values, tokens.positions, of.length)
        session.after_layer(layer, tokens, attention)
    return entered


def padded_script(of, shape: FixedShape, depth: int, seed: int):
    """The logits of ``script``, and large ones wherever padding would look or be looked at.

    Scores differ: equal ones would be split by how a sum over rows is rounded, column by column.
    """
    found = []
    for values in script(of, depth, seed):
        full = torch.full((len(values), shape.length, shape.length), 30.0)
        full[:, : of.length, : of.length] = values
        found.append(full)
    return found


def lengths_of(entered: list[list[int]], config, depth: int, padding: int) -> FixedLengths:
    """Lengths with which nothing is filled or trimmed: those of the exact run."""
    schedule = config.schedule(depth)
    sizes = [len(rows) for rows in entered]
    sizes.append(sizes[-1])
    full = sizes[0]

    def after(layer: int) -> int:
        # Padding goes with the first rows that go.
        return sizes[layer + 1] if sizes[layer + 1] < full else full + padding

    last = schedule.local[-1] if schedule.local else None
    return FixedLengths(
        tuple(after(layer) for layer in schedule.local[:-1]),
        after(last) if last is not None else full + padding,
        tuple(after(layer) for layer in schedule.prune),
    )


def scene(of, seed: int, known_frames: str):
    before = frames(of, seed)
    now = before
    for camera in range(len(of.cameras)):
        now = repainted(now, camera, range(camera, of.patches_per_camera, 3), seed + camera + 1)
    step = before if "step" in known_frames else None
    query = frames(of, seed + 50) if "query" in known_frames else None
    return {"frame": now, "step_frame": step, "query_frame": query}


layouts = st.builds(
    layout,
    cameras=st.integers(1, 3),
    patches=st.sampled_from([9, 16]),
    proprio=st.booleans(),
    prompt=st.integers(17, 40),
)
budgets = st.builds(
    Budget, global_=st.integers(0, 9), dynamic=st.integers(0, 9), local=st.integers(0, 9)
)


@pytest.mark.parametrize("name", PRESETS)
@settings(max_examples=15, deadline=None)
@given(
    of=layouts,
    budget=budgets,
    depth=st.integers(2, 12),
    floor=st.integers(0, 12),
    seed=st.integers(0, 10**6),
    modes=st.tuples(*[st.sampled_from(Mode)] * 2),
    known_frames=st.sampled_from(["", "step", "query", "step query"]),
    tile=st.sampled_from([1, 8]),
)
def test_same_rows_as_the_exact_stages_where_nothing_is_filled_or_trimmed(
    name, of, budget, depth, floor, seed, modes, known_frames, tile
):
    """Two queries in a row, so that history, carry and kept confidence pass through both."""
    config = preset(name)
    config = replace(
        config, budgets=same_budgets(budget), dynamic=replace(config.dynamic, floor=floor)
    )
    schedule, shape = config.schedule(depth), FixedShape.of(of, tile)
    history = None
    for number, mode in enumerate(modes):
        known = context(of, depth, mode=mode, query_number=number, history=history,
                        **scene(of, seed + 7 * number, known_frames))
        exact = SpecPrune(config).begin(known)
        logits = padded_script(of, shape, depth, seed + number)
        entered = play(exact, of, [x[:, : of.length, : of.length] for x in logits])
        result = exact.finish()
        lengths = None if exact.dense else lengths_of(
            entered, config, depth, shape.length - of.length
        )
        fixed = FixedSession(config, schedule, shape, lengths,
                             inputs_of(config, known, shape, history))
        assert play_fixed(fixed, of, logits, shape.length) == entered
        outputs = fixed.outputs()
        sizes = outputs.sizes.tolist()
        for index, camera in enumerate(result.cameras):
            found = [row[index] for row in sizes]
            assert found[3:] == [0, 0] or exact.dense
            if not exact.dense:
                assert found[:3] == [camera.global_set, camera.dynamic_set, camera.local_set]
        torch.testing.assert_close(outputs.history, result.history.scores, rtol=1e-5, atol=1e-9)
        for layer, value in result.history.confidence.items():
            kept = outputs.confidence[schedule.update.index(layer)]
            torch.testing.assert_close(kept, value, rtol=1e-6, atol=0)
        history = result.history


@settings(max_examples=25, deadline=None)
@given(of=layouts, budget=budgets, seed=st.integers(0, 10**6), spare=st.integers(-12, 12),
       interim=st.integers(0, 20), shrink=st.integers(0, 3), tile=st.sampled_from([1, 8]))
def test_fills_with_the_next_best_and_trims_the_least_urgent(
    of, budget, seed, spare, interim, shrink, tile
):
    """Sizes other than the union's: nothing but patches goes, counts are right, members first."""
    depth = 8
    config = preset("specprune")
    config = replace(config, budgets=same_budgets(budget), first_query="prune",
                     static=replace(config.static, interim_factor=2))
    schedule, shape = config.schedule(depth), FixedShape.of(of, tile)
    known = context(of, depth, query_number=1, **scene(of, seed, "step"))
    exact = SpecPrune(config).begin(known)
    logits = padded_script(of, shape, depth, seed)
    entered = play(exact, of, [x[:, : of.length, : of.length] for x in logits])
    union = set(entered[2])
    static = min(max(len(union) + spare, shape.others), shape.surely_real)
    first = min(max(static, len(entered[1]) + interim), shape.surely_real)
    dynamic = tuple(
        max(static - shrink * (stage + 1), shape.others) for stage in range(len(schedule.prune))
    )
    lengths = FixedLengths((first,), static, dynamic)
    fixed = FixedSession(config, schedule, shape, lengths, inputs_of(config, known, shape, None))
    found = play_fixed(fixed, of, logits, shape.length)
    others = set(range(of.length)) - set(of.visual)
    for layer, rows in enumerate(found):
        assert others <= set(rows) and rows == sorted(set(rows))
        assert layer == 0 or set(rows) <= set(found[layer - 1])
    assert len(found[2]) == static and len(found[1]) == first
    _, _, _, trimmed, filled = fixed.outputs().sizes.tolist()
    kept = set(found[2])
    assert first >= len(entered[1]) or sum(trimmed)
    if first == len(entered[1]):  # layer 1 saw what it sees exactly
        assert sum(filled) - sum(trimmed) == len(kept) - len(union)
        assert kept <= union or union <= kept
    elif first > len(entered[1]):  # what was filled in may be chosen by layer 1
        assert not (sum(filled) and sum(trimmed))
    assert [len(rows) for rows in found[3:]] == [
        min([static, *(n for p, n in zip(schedule.prune, dynamic) if p < layer)])
        for layer in range(3, depth)
    ]


@given(st.lists(st.one_of(st.integers(-3, 3).map(float), st.just(NAN), st.just(-torch.inf)),
                min_size=1, max_size=20), st.integers(0, 22))
def test_urgency_up_to_one_is_membership_of_the_top_k(values, k):
    scores = torch.tensor(values)
    members = urgency(scores[None], torch.tensor([[float(k)]]))[0] <= 1
    assert members.tolist() == top_k(scores, k).tolist()
    assert sorted(ranks(scores).tolist()) == list(range(len(values)))


@given(values=st.lists(st.integers(0, 6).map(lambda v: v / 6), min_size=1, max_size=20),
       k=st.integers(0, 22), tau=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
       rule=st.sampled_from(["lowest", "static_cap"]))
def test_changed_patches_by_urgency(values, k, tau, rule):
    """V_dynamic as the fixed session ranks it is the exact set, ties included."""
    of = layout(1, 16)
    config = preset("specprune")
    config = replace(config, static=replace(config.static, dynamic_rule=rule))
    similarity = torch.tensor((values * 16)[:16], dtype=torch.float64)
    known = context(of, 8, query_number=1, step_frame=frames(of, 1))
    inputs = replace(
        inputs_of(config, known, FixedShape.of(of, 1), None),
        dynamic_budgets=torch.tensor([float(k)]),
        tau=torch.tensor([tau], dtype=torch.float64),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("specprune_ros.pruning.fixed.patch_similarity",
                      lambda *arguments: similarity[None])
        session = FixedSession(config, config.schedule(8), FixedShape.of(of, 1),
                               FixedLengths((99,), 99, ()), inputs)
    members = session._dynamic[0] <= 1
    assert members.tolist() == changed_patches(similarity, tau, k, rule).tolist()


# Lengths ------------------------------------------------------------------------------------


def libero(prompt: int = 34):
    return layout(2, 256, True, prompt, 56, (9, prompt - 5))


def lengths_at_7b(mode: Mode, prompt: int = 34, prompt_tile: int = 1, **options):
    config, of = preset("specprune"), libero(prompt)
    shape = FixedShape.of(of, prompt_tile)
    return fixed_lengths(config, config.schedule(32), shape, of.cameras, mode, 64, **options)


def test_lengths_of_the_default_at_7b():
    """93 other rows and budgets of 152 patches: 256 rows; shrinking by a tenth of the patches."""
    coarse = lengths_at_7b(Mode.COARSE)
    assert coarse == FixedLengths((605,), 256, (240, 224, 224, 208))
    fine = lengths_at_7b(Mode.FINE)
    assert fine.static == 384 and fine.interim == (605,)
    assert all(c <= f for c, f in zip(coarse.dynamic, fine.dynamic))


def test_prompts_of_one_tile_share_their_lengths():
    of_prompt = {n: lengths_at_7b(Mode.COARSE, n, 32) for n in (15, 30, 34, 37)}
    assert len(set(of_prompt.values())) == 1
    shapes = {FixedShape.of(libero(n), 32) for n in (15, 30, 34, 37)}
    assert {s.length for s in shapes} == {608} and len(shapes) == 1
    assert FixedShape.of(libero(38), 32).length == 640


@pytest.mark.parametrize("bucket", [192, 256, 320, 448])
def test_a_bucket_replaces_the_budgets(bucket):
    found = lengths_at_7b(Mode.COARSE, bucket=bucket)
    assert found.static == bucket and found.interim[0] >= bucket
    assert all(rows >= 93 + 60 for rows in found.dynamic)


def test_a_bucket_without_room_is_refused():
    with pytest.raises(ConfigurationError, match="bucket of 128 rows cannot hold 93 rows"):
        lengths_at_7b(Mode.COARSE, bucket=128)


@given(st.integers(1, 700), st.sampled_from([1, 16, 64]))
def test_align(rows, tile):
    assert align(rows, tile) % tile == 0 and 0 <= align(rows, tile) - rows < tile


def test_budgets_beyond_the_patches_drop_nothing():
    config = replace(preset("specprune"), budgets=same_budgets(Budget(999, 999, 999)),
                     dynamic=replace(preset("specprune").dynamic, keep=1.0))
    of = libero()
    for tile in (1, 32):
        shape = FixedShape.of(of, tile)
        found = fixed_lengths(config, config.schedule(32), shape, of.cameras, Mode.COARSE, 64)
        assert {found.static, *found.interim, *found.dynamic} == {shape.length}
