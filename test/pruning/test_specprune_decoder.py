"""SpecPrune in a real (random) decoder: what is dropped, what stays, and what it influences."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from specprune_harness import (
    PassingOn,
    context,
    decoder,
    embeddings,
    frames,
    layout,
    repainted,
    run,
    same_budgets,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.base import DensePruner, PruneSession
from specprune_ros.pruning.config import Budget, ControllerConfig
from specprune_ros.pruning.presets import PRESETS, preset
from specprune_ros.pruning.specprune import SpecPrune

layouts = st.builds(
    layout,
    cameras=st.integers(1, 3),
    patches=st.just(16),
    proprio=st.booleans(),
    prompt=st.sampled_from([17, 20, 34, 70]),
)


SMALL = Budget(global_=3, dynamic=4, local=3)


def pruner(name: str = "specprune", budget: Budget = SMALL, floor: int = 4, **dynamic):
    """A preset with budgets for 16 patches, that prunes from the first query on."""
    config = preset(name)
    return SpecPrune(
        replace(
            config,
            budgets=same_budgets(budget),
            dynamic=replace(config.dynamic, floor=floor, **dynamic),
            first_query="prune",
        )
    )


def moved(of, seed: int = 0, patches=(0, 1, 5, 6, 15)) -> dict:
    """Frames of a query in which some patches of every camera have changed."""
    before = frames(of, seed)
    now = before
    for camera in range(len(of.cameras)):
        now = repainted(now, camera, patches, seed + camera + 1)
    return {"frame": now, "step_frame": before, "query_number": 1}


# 1: keep-all is dense, and looking changes nothing -------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("cameras", [1, 2, 3])
def test_keeping_everything_is_dense_bit_for_bit(name, cameras):
    """Invariant 1: with budgets beyond the patches and no share dropped, float32 outputs equal."""
    of = layout(cameras)
    everything = pruner(name, Budget(10**6, 10**6, 10**6), keep=1.0)
    dense = run(DensePruner(), of)
    kept = run(everything, of, **moved(of))
    assert torch.equal(kept.output.states, dense.output.states)
    for layer in range(8):
        assert kept.positions(layer) == list(range(of.length))


class Looking(PruneSession):
    """Keeps everything, and looks at all attention there is."""

    def after_layer(self, layer, state, attention) -> None:
        weights = attention.weights(state.positions)
        assert torch.isfinite(weights).all()
        attention.weights(state.positions, state.positions[::2].contiguous())


def test_scoring_never_changes_the_output():
    """Invariant 1: the probe is a side path, in the dense query of the method and on its own."""
    of = layout()
    dense = run(DensePruner(), of).output.states
    looked = run(DensePruner(), of, wrap=lambda session: Looking(session.context))
    assert torch.equal(looked.output.states, dense)
    first = run(SpecPrune(preset("specprune")), of)
    assert first.result.dense_refresh
    assert torch.equal(first.output.states, dense)


def test_disabling_restores_dense():
    """Invariant 1: a pruned query leaves nothing behind in the network."""
    of = layout()
    dense = run(DensePruner(), of).output.states
    pruned = run(pruner(), of, **moved(of)).output.states
    assert not torch.equal(pruned, dense)
    assert torch.equal(run(DensePruner(), of).output.states, dense)


# 2: positions ----------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(of=layouts, name=st.sampled_from(sorted(PRESETS)), seed=st.integers(0, 10**6),
       budget=st.builds(Budget, *[st.integers(0, 20)] * 3))
def test_positions_ascend_and_nothing_but_patches_is_dropped(of, name, seed, budget):
    """Invariant 2: ascending, unique, BOS first, every non-visual token in every layer."""
    of_run = run(pruner(name, budget), of, embeddings(of, seed), **moved(of, seed))
    others = set(range(of.length)) - set(of.visual)
    before = set(range(of.length))
    for layer in range(8):
        positions = of_run.positions(layer)
        assert positions[0] == 0
        assert all(a < b for a, b in zip(positions, positions[1:]))
        assert others <= set(positions) <= before
        before = set(positions)


class Watching(PassingOn):
    """Keeps the rows that entered each layer."""

    def __init__(self, session) -> None:
        super().__init__(session)
        self.states, self.attention = {}, {}

    def before_layer(self, layer, state):
        self.states[layer] = self.session.before_layer(layer, state)
        return self.states[layer]

    def after_layer(self, layer, state, attention):
        self.attention[layer] = attention
        self.session.after_layer(layer, state, attention)


def test_kept_rows_keep_their_rotary_angles():
    """Invariant 2: the angles of a kept row are those of its own position, never renumbered."""
    of, watching = layout(), []

    def wrap(session):
        watching.append(Watching(session))
        return watching[0]

    run(pruner(), of, wrap=wrap, **moved(of))
    cos, sin = decoder().rope_tables(of.length, embeddings(of))
    last = watching[0].states[7]
    assert len(last.positions) < of.length
    assert torch.equal(last.cos, cos[:, last.positions])
    assert torch.equal(last.sin, sin[:, last.positions])


def test_pruned_layers_compute_what_dense_layers_compute_on_the_kept_rows():
    """Invariant 2: a decoder run afresh on the survivors, at their angles, gives their states."""
    of, watching = layout(), []

    def wrap(session):
        watching.append(Watching(session))
        return watching[0]

    pruned = run(pruner(floor=100), of, wrap=wrap, **moved(of))  # no dynamic stage
    state = watching[0].states[2]
    model = decoder()

    class From(PruneSession):
        """Passes by the first layers; enters the third with the given rows."""

        def skips(self, layer):
            return layer < 2

        def before_layer(self, layer, tokens):
            return state if layer == 2 else tokens

    with torch.inference_mode():
        readout = torch.arange(of.readout.start, of.readout.stop)
        again = model(embeddings(of), readout, From(context(of)))
    assert torch.equal(again.states, pruned.output.states)


# 3: read-out rows -------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(of=layouts, seed=st.integers(0, 10**6))
def test_readout_rows_follow_the_kept_set(of, seed):
    """Invariant 3: the rows of the action head are those of the absolute positions, however many
    patches are gone; they are not the last 57 to 1 rows that the released code reads."""
    watching = []

    def wrap(session):
        watching.append(Watching(session))
        return watching[0]

    x = embeddings(of, seed)
    result = run(pruner(), of, x, wrap=wrap, **moved(of, seed))
    rows = result.output.layer_positions[-1].tolist()
    actions = of.action_tokens
    # From the end of what is left: the head reads [-2-A, -2), one before each placeholder.
    picked = [rows.index(p) for p in of.readout]
    assert picked == list(range(len(rows) - 2 - actions, len(rows) - 2))
    official = list(range(len(rows) - 1 - actions, len(rows) - 1))
    assert picked != official
    assert of.readout.start == of.placeholders.start - 1 == of.text.stop - 1
    # And the states are really those rows of the last layer.
    model, last = decoder(), watching[0].states[7]
    with torch.inference_mode():
        see_all = torch.zeros(1, 1, len(rows), len(rows))  # transformers is causal without a mask
        hidden = model.layers[7](
            last.hidden, position_embeddings=(last.cos, last.sin), attention_mask=see_all
        )
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        expected, wrong = (
            model.norm(hidden.reshape(-1, hidden.shape[-1])[rows_]) for rows_ in (picked, official)
        )
    torch.testing.assert_close(result.output.states, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(result.output.states, wrong, atol=1e-3)


@pytest.mark.parametrize("prompt", [12, 34, 70])
@pytest.mark.parametrize("cameras", [1, 2, 3])
@pytest.mark.parametrize("proprio", [False, True])
def test_readout_of_libero_lengths(prompt, cameras, proprio):
    """Invariant 3: rows V+q+n_p .. V+q+n_p+55 and S = V+q+n_p+58 for 56 action tokens."""
    of = layout(cameras, 256, proprio, prompt, 56, (9, 11))
    first = 256 * cameras + proprio + prompt
    assert (of.readout.start, of.readout.stop) == (first, first + 56)
    assert of.length == first + 58


# 4: influence -----------------------------------------------------------------------------


def test_attention_is_bidirectional():
    """Invariant 4: changing a later kept token changes earlier kept rows."""
    of = layout()
    x = embeddings(of)
    y = x.clone()
    y[:, of.text.start + 3] += 1.0
    watching = []

    def wrap(session):
        watching.append(Watching(session))
        return watching[-1]

    run(DensePruner(), of, x, wrap=wrap)
    run(DensePruner(), of, y, wrap=wrap)
    before, after = (w.states[1].hidden[0, 0] for w in watching)  # BOS after layer 0
    assert not torch.allclose(before, after, atol=1e-4)


class Tampering(PassingOn):
    """Adds noise to pruned rows just before they are dropped, or swaps their contents."""

    def __init__(self, session, how: str) -> None:
        super().__init__(session)
        self.how = how

    def before_layer(self, layer, state):
        kept = set(self.session.before_layer(layer, state).positions.tolist())
        dropped = [i for i, p in enumerate(state.positions.tolist()) if p not in kept]
        hidden = state.hidden.clone()
        if self.how == "noise":
            hidden[:, dropped] = 100 * torch.randn(1, len(dropped), hidden.shape[-1])
        else:
            hidden[:, dropped] = hidden[:, dropped[::-1]]
        state = state.with_hidden(hidden)
        rows = [i for i, p in enumerate(state.positions.tolist()) if p in kept]
        return state.select(torch.tensor(rows))


@pytest.mark.parametrize("how", ["noise", "swap"])
@pytest.mark.parametrize("name", PRESETS)
def test_a_pruned_token_has_no_influence_after_its_layer(name, how):
    """Invariant 4: perturbing or permuting rows at the moment they go changes nothing at all."""
    of = layout()
    clean = run(pruner(name), of, **moved(of))
    assert len(clean.positions(7)) < of.length
    tampered = run(pruner(name), of, wrap=lambda s: Tampering(s, how), **moved(of))
    assert torch.equal(clean.output.states, tampered.output.states)
    assert [clean.positions(l) for l in range(8)] == [tampered.positions(l) for l in range(8)]


def test_a_token_counts_in_the_speculation_layers():
    """Invariant 4, the other side: until it is pruned, a token does have an influence."""
    of = layout()
    clean = run(pruner(), of, **moved(of))
    gone = min(set(of.visual) - clean.visual(2))
    x = embeddings(of)
    x[:, gone] += 0.5
    changed = run(pruner(), of, x, **moved(of))
    assert not torch.equal(clean.output.states, changed.output.states)


# 5, 6: batches and precision ---------------------------------------------------------------


def test_a_batch_is_refused():
    """Invariant 5."""
    of = layout()
    with pytest.raises(ConfigurationError, match="one query at a time, not 2"):
        run(DensePruner(), of, embeddings(of).expand(2, -1, -1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_are_compared_in_float32(dtype):
    """Invariant 6: half-precision networks are scored in float32, and the sets mostly agree."""
    of, seen = layout(2, 64), []

    class Session(Looking):
        def after_layer(self, layer, state, attention):
            seen.append(attention.weights(state.positions[-3:]).dtype)

    run(DensePruner(), of, dtype=dtype, wrap=lambda s: Session(s.context))
    assert set(seen) == {torch.float32}
    budget = Budget(8, 8, 12)
    full = run(pruner(budget=budget), of, **moved(of))
    half = run(pruner(budget=budget), of, dtype=dtype, **moved(of))
    a, b = full.visual(2), half.visual(2)
    assert len(a & b) / len(a | b) > 0.8
    # The order of rows and the floor hold in any precision.
    assert half.positions(7) == sorted(half.positions(7))


def test_ties_do_not_depend_on_memory_layout():
    """Invariant 6: the same values in transposed or strided memory give the same rows."""
    from specprune_ros.pruning.dynamic import highest_scored, rank_weights
    from specprune_ros.pruning.sets import top_k

    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        scores = torch.randint(0, 4, (64,), generator=generator).float()
        member = torch.randint(0, 2, (64,), generator=generator).bool()
        layouts_of = [
            scores,
            torch.stack([scores, -scores], 1)[:, 0],  # stride 2
            torch.stack([scores] * 3, 1).T[1],
            scores.flip(0).flip(0),
        ]
        for other in layouts_of[1:]:
            assert torch.equal(top_k(other, 17), top_k(scores, 17))
            assert torch.equal(highest_scored(other, member, 17),
                               highest_scored(scores, member, 17))
            assert torch.equal(rank_weights(other, None), rank_weights(scores, None))


# 8, 14: cameras and empty sets --------------------------------------------------------------


def test_no_visual_token_left_is_a_valid_query():
    """Invariant 14: with nothing to keep the decoder runs on the other tokens alone."""
    of = layout()
    result = run(pruner(budget=Budget(0, 0, 0), floor=0), of, **moved(of))
    assert result.visual(2) == set()
    assert torch.isfinite(result.output.states).all()
    assert [c.kept_static for c in result.result.cameras] == [0, 0]


# 17, 18: what is computed -------------------------------------------------------------------


class LargestMap(TorchFunctionMode):
    """The most attention weights any one tensor holds for a head, over a whole query."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length, self.rows, self.softmax = length, 0, []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.softmax, F.softmax):
            self.softmax.append(tuple(result.shape))
        if isinstance(result, torch.Tensor) and result.dim() == 3:
            if result.shape[-1] > self.length // 2:  # columns of a map over the sequence
                self.rows = max(self.rows, result.shape[-2])
        return result


@pytest.mark.parametrize("name", PRESETS)
def test_no_attention_map_is_ever_held_in_full(name):
    """Invariant 18: a probe holds at most 64 rows, also for the paper's direction."""
    of = layout(2, 256, prompt=34, actions=56, instruction=(9, 29))
    budget = Budget(24, 20, 24)
    with LargestMap(of.length) as seen:
        run(pruner(name, budget, floor=60), of, depth=4, **moved(of))
    assert seen.softmax  # it did score
    assert max(shape[-2] for shape in seen.softmax) <= 64
    assert seen.rows <= 64


def test_rows_and_keys_by_slice_are_those_by_position():
    """Invariant 18: also after a drop, and for more rows than are scored at once."""
    of, compared = layout(2, 16), []

    class Compare(PruneSession):
        def before_layer(self, layer, state):
            kept = [p for p in range(of.length) if p % 3 or not 0 < p <= 32]
            return state.select(torch.tensor(kept)) if layer == 1 else state

        def after_layer(self, layer, state, attention):
            n = len(state.positions)
            for rows, keys in ((slice(n - 5, n), None), (slice(0, n), slice(2, 9)),
                               (slice(n - 4, n - 1), slice(0, n))):
                columns = None if keys is None else state.positions[keys]
                by_position = attention.weights(state.positions[rows], columns)
                compared.append(torch.equal(attention.weights(rows, keys), by_position))

    run(DensePruner(), of, depth=2, wrap=lambda session: Compare(session.context))
    assert compared == [True] * 6


class Operations(TorchDispatchMode):
    """Counts what torch is asked to do."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_few_operations_score_and_select():
    """Each takes a tenth of a millisecond on a CPU whose caches hold something else, whatever it
    computes; before they were counted there were 71 per layer."""
    of, counted = layout(2, 256, prompt=34, actions=56, instruction=(9, 29)), Operations()

    class Counted(PassingOn):
        def after_layer(self, layer, state, attention):
            with counted:
                self.session.after_layer(layer, state, attention)

    used = pruner("specprune", Budget(24, 20, 24), floor=60)
    for _ in range(2):  # what is made once is no matter
        counted.count = 0
        run(used, of, wrap=Counted, **moved(of))
    assert 0 < counted.count < 40 * 8


@pytest.mark.parametrize("name", PRESETS)
def test_attention_is_looked_at_in_scheduled_layers_only(name):
    """Invariant 18: no other layer is probed."""
    of, probed = layout(), set()

    class Spy(PassingOn):
        def after_layer(self, layer, state, attention):
            class Probe:
                positions, key_positions = attention.positions, attention.key_positions

                def weights(self, *arguments):
                    probed.add(layer)
                    return attention.weights(*arguments)

            self.session.after_layer(layer, state, Probe())

    used = pruner(name, floor=0)
    run(used, of, depth=16, wrap=Spy, **moved(of))
    schedule = used.config.schedule(16)
    assert probed <= {*schedule.local, *schedule.global_, *schedule.update}
    assert len(probed) < 16


def test_the_controller_is_no_part_of_a_query():
    """The session of a query takes the mode from its context; settings of the controller change
    no row."""
    of = layout()
    plain = pruner()
    other = SpecPrune(replace(plain.config, controller=ControllerConfig(enter_translation=0.0)))
    a, b = run(plain, of, **moved(of)), run(other, of, **moved(of))
    assert [a.positions(l) for l in range(8)] == [b.positions(l) for l in range(8)]
