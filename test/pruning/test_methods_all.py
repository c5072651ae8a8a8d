"""What holds for every method of the comparison, whatever it keeps."""
import pytest
import torch
from methods_harness import bit_equal, context, decoder, embeddings, episode, layout, run
from specprune_harness import PassingOn

from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.base import DensePruner
from specprune_ros.pruning.methods.efficientvla import EfficientVLA, EfficientVLAConfig
from specprune_ros.pruning.methods.vla_pruner import ActionMaps
from specprune_ros.pruning.registry import METHODS, make_pruner
from specprune_ros.runtime.accounting import DecoderShape

EVERY = pytest.mark.parametrize("name", METHODS)
LAYOUT = layout(patches=64)
LLAMA_7B = DecoderShape(4096, 11008, 4096, 4096, 32)
FULL = layout(patches=256, prompt=34, instruction=(9, 29))  # S = 605


def cost(of) -> float:
    """FLOPs of the executed rows and keys at 7B dimensions, as a share of dense."""
    rows = [len(positions) for positions in of.output.layer_positions]
    return LLAMA_7B.flops(rows, of.output.layer_keys) / LLAMA_7B.dense_flops(of.layout.length)


def dense_episode(of, queries):
    return [run(DensePruner(), of, embeddings(of, number)) for number in range(queries)]


# Cost at the reported settings, and the knob -------------------------------------------------


@pytest.mark.parametrize("name, ratio", [
    ("fastv", 0.598), ("sparsevlm", 0.453), ("divprune", 0.232), ("efficientvla", 0.334),
    ("vla_pruner", 0.611), ("random", 0.571), ("uniform", 0.571),
])
def test_defaults_cost_what_their_definition_says(name, ratio):
    steady = episode(make_pruner(name), FULL, 4, depth=32)[-1]
    assert cost(steady) == pytest.approx(ratio, abs=0.0011)


@pytest.mark.parametrize("keep, ratio", [(112, 0.334), (56, 0.259), (224, 0.483)])
def test_cost_of_28_layers(keep, ratio):
    pruner = EfficientVLA().with_keep(keep / 512)
    assert cost(episode(pruner, FULL, 2, depth=32)[-1]) == pytest.approx(ratio, abs=0.0011)


TARGETS = (0.75, 0.60, 0.50, 0.40)
KNOBS = [
    *((name, (363, 273, 213, 152)) for name in ("divprune", "random", "uniform")),
    ("fastv", (353, 257, 193, 128)),
    ("vla_pruner", (348, 249, 182, 115)),
    ("vla_cache", (351, 254, 189, 125)),  # 161, 258, 323, 387 reused
    ("efficientvla", (421, 310, 236, 162)),
]


@pytest.mark.parametrize("name, target, kept", [
    (name, target, kept) for name, row in KNOBS for target, kept in zip(TARGETS, row)
])
def test_knob_reaches_the_costs_of_a_comparison(name, target, kept):
    """The kept counts of the four targets at S = 605, as the protocol of comparison lists them."""
    pruner = make_pruner(name).with_keep(kept / 512)
    assert pruner.config.keep == kept / 512
    if name == "vla_pruner":
        history = ActionMaps(tuple(torch.rand(512) for _ in range(3)))
        got = run(pruner, FULL, depth=32, history=history, query_number=3)
    elif name in ("vla_cache", "efficientvla"):
        got = episode(pruner, FULL, 2, depth=32)[-1]
    else:
        got = run(pruner, FULL, depth=32)
    assert got.counts[-1] == kept
    assert cost(got) == pytest.approx(target, abs=0.01)


@pytest.mark.parametrize("scale, target", [(1.67, 0.60), (1.22, 0.50), (0.76, 0.40)])
def test_knob_of_sparsevlm_scales_its_list(scale, target):
    pruner = make_pruner("sparsevlm")
    got = run(pruner.with_keep(scale * pruner.config.keep), FULL, depth=32)
    assert cost(got) == pytest.approx(target, abs=0.01)


@EVERY
@pytest.mark.parametrize("keep", [0.0, -0.1, 1.01, float("nan")])
def test_knob_out_of_range(name, keep):
    with pytest.raises(ConfigurationError, match=f"{name}: keep"):
        make_pruner(name).with_keep(keep)


# Shapes ---------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("cameras", [1, 2, 3])
def test_any_number_of_cameras(name, cameras):
    of = layout(cameras, 64)
    others = set(range(of.length)) - set(of.visual)
    for got in episode(make_pruner(name), of, 4):
        before = set(range(of.length))
        for layer, positions in enumerate(got.output.layer_positions):
            rows = positions.tolist()
            assert rows == sorted(set(rows))
            assert others <= set(rows) <= before
            before = set(rows)
            assert got.counts[layer] >= 1
        assert got.output.states.shape[0] == len(of.readout)
        assert got.output.states.isfinite().all()
        last = [c.kept_dynamic[-1] if c.kept_dynamic else c.kept_static for c in got.result.cameras]
        for camera, kept in enumerate(last):
            assert kept == len(got.visual(7) & set(of.camera(camera)))


@EVERY
@pytest.mark.parametrize("cameras", [1, 2, 3])
def test_keep_all_is_dense_bit_for_bit(name, cameras):
    of = layout(cameras, 64)
    pruner = make_pruner(name).with_keep(1.0)
    if name == "efficientvla":  # the layer part has a knob of its own
        pruner = EfficientVLA(EfficientVLAConfig(keep=1.0, layers_kept=32))
    for got, dense in zip(episode(pruner, of, 5), dense_episode(of, 5)):
        assert bit_equal(got, dense)


@EVERY
@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_shallow_decoders(name, depth):
    if name == "efficientvla" and depth < 4:
        assert EfficientVLAConfig().removed_count(depth) == 0
    for got in episode(make_pruner(name), LAYOUT, 4, depth=depth):
        assert got.output.states.isfinite().all()


# State ------------------------------------------------------------------------------------------


@EVERY
def test_interleaved_episodes_do_not_mix(name):
    pruner = make_pruner(name)
    alone = [episode(pruner, layout(cameras, 64), 5) for cameras in (1, 2)]
    histories = [None, None]
    for number in range(5):
        for index, cameras in enumerate((1, 2)):
            of = layout(cameras, 64)
            got = run(pruner, of, embeddings(of, number), query_number=number,
                      history=histories[index])
            histories[index] = got.result.history
            assert bit_equal(got, alone[index][number])
            assert got.counts == alone[index][number].counts


class Failing(PassingOn):
    """Raises at a layer, as a device out of memory would."""

    def __init__(self, session, layer):
        super().__init__(session)
        self.layer = layer

    def after_layer(self, layer, state, attention):
        self.session.after_layer(layer, state, attention)
        if layer == self.layer:
            raise RuntimeError("out of memory")


@EVERY
@pytest.mark.parametrize("layer", [0, 4, 7])
def test_a_failed_query_leaves_no_trace(name, layer):
    pruner = make_pruner(name)
    history = episode(pruner, LAYOUT, 4)[-1].result.history
    with pytest.raises(RuntimeError, match="out of memory"):
        run(pruner, LAYOUT, embeddings(LAYOUT, 8), wrap=lambda s: Failing(s, layer),
            query_number=4, history=history)
    after = run(pruner, LAYOUT, embeddings(LAYOUT, 9), query_number=4, history=history)
    fresh = make_pruner(name)
    again = episode(fresh, LAYOUT, 4)[-1].result.history
    assert bit_equal(after, run(fresh, LAYOUT, embeddings(LAYOUT, 9), query_number=4,
                                history=again))


@EVERY
def test_history_of_another_method_is_not_used(name):
    """A plugin may share a name with an earlier pruner of the episode."""
    pruner = make_pruner(name)
    x = embeddings(LAYOUT)
    assert bit_equal(run(pruner, LAYOUT, x, history=object()), run(pruner, LAYOUT, x))


@EVERY
def test_half_precision(name):
    """Selection runs in float32 whatever the rows are."""
    model = decoder(8, seed=1)
    readout = torch.arange(LAYOUT.readout.start, LAYOUT.readout.stop)
    history = None
    try:
        model.bfloat16()
        model._tables = None
        for number in range(4):
            session = make_pruner(name).begin(
                context(LAYOUT, query_number=number, history=history)
            )
            with torch.inference_mode():
                output = model(embeddings(LAYOUT, number).bfloat16(), readout, session)
            history = session.finish().history
            assert output.states.dtype == torch.bfloat16
            assert output.states.isfinite().all()
    finally:
        decoder.cache_clear()
