"""Programs of fixed shapes against eager queries."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from runtime_harness import (
    EXACT,
    PROPRIO,
    TASK,
    loaded,
    observation,
    policy,
    variant,
)
from torch.utils._python_dispatch import TorchDispatchMode

from specprune_ros.errors import ConfigurationError, InferenceError
from specprune_ros.policy import FixedSettings
from specprune_ros.pruning.config import Budget, CameraBudgets
from specprune_ros.pruning.given import GivenRows
from specprune_ros.pruning.presets import PRESETS
from specprune_ros.types import Mode


@pytest.fixture(scope="module")
def model():
    return loaded()


def queries(subject, count: int = 3, **options):
    return [subject.predict(observation(number, **options)) for number in range(count)]


def rows(chunk) -> list[int]:
    return [len(positions) for positions in chunk.report.kept_positions]


# The same actions ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("cameras", [1, 2, 3])
def test_same_actions_as_eager_for_the_same_kept_rows(model, name, cameras):
    """Bit for bit: the same operations on the same shapes."""
    static = policy(model, "static", name, EXACT)
    for number in range(3):
        seen = observation(number, cameras=cameras)
        chunk = static.predict(seen)
        eager = policy(model, "eager", GivenRows.of(chunk.report.kept_positions))
        assert np.array_equal(eager.predict(seen).actions, chunk.actions)
    assert rows(chunk)[-1] < rows(chunk)[0]
    assert chunk.report.runtime == "static"
    assert chunk.report.flops == eager.decoder_shape.flops(rows(chunk), rows(chunk))


def test_dense_queries_are_those_of_eager(model):
    """First queries of SpecPrune and 'off', with and without a proprio token."""
    for pruning in ("off", "specprune"):
        for proprio in (PROPRIO, None):
            seen = observation(0, proprio=proprio)
            static = policy(model, "static", pruning, EXACT).predict(seen)
            eager = policy(model, "eager", "off").predict(seen)
            assert np.array_equal(static.actions, eager.actions)
            assert static.report.dense_refresh == (pruning == "specprune")
            assert rows(static) == rows(eager)


def test_keeping_everything_is_dense(model):
    many = Budget(10**6, 10**6, 10**6)
    config = replace(variant(keep=1.0), budgets=CameraBudgets(many, many, many, many),
                     first_query="prune")
    dense = queries(policy(model, "eager", "off"))
    for settings in (EXACT, FixedSettings()):
        kept = queries(policy(model, "static", config, settings))
        for a, b in zip(dense, kept):
            assert rows(a) == rows(b)
            np.testing.assert_allclose(a.actions, b.actions, atol=2e-5, rtol=0)


def test_history_passes_between_eager_and_static(model):
    """An episode that changes its runtime goes on: what is remembered is the same."""
    eager, static = policy(model), policy(model, "static", settings=EXACT)
    episodes = [p.make_episode() for p in (eager, static)]
    for number in range(2):
        for p, episode in zip((eager, static), episodes):
            p.predict(observation(number), episode)
    dense = [episode.state.history for episode in episodes]
    assert dense[0].layers == dense[1].layers
    crossed = [p.predict(observation(2), e) for p, e in zip((static, eager), episodes)]
    assert [c.report.query_number for c in crossed] == [2, 2]
    assert not any(c.report.dense_refresh for c in crossed)


@pytest.mark.parametrize("task", ["push it", TASK, TASK + " and then go back to where you were"])
def test_padded_prompts_give_the_same_actions(model, task):
    """Nothing attends to padding; the rows kept are counted without it."""
    exact = policy(model, "static", settings=EXACT)
    padded = policy(model, "static", settings=FixedSettings(tile=1, prompt_tile=32))
    for number in range(2):
        seen = observation(number, task=task)
        a, b = exact.predict(seen), padded.predict(seen)
        assert rows(a)[0] == rows(b)[0]
        copy = policy(model, "eager", GivenRows.of(b.report.kept_positions)).predict(seen)
        np.testing.assert_allclose(copy.actions, b.actions, atol=2e-5, rtol=0)
        if number == 0:
            np.testing.assert_allclose(a.actions, b.actions, atol=2e-5, rtol=0)


def test_without_a_head_actions_come_from_the_vocabulary(golden_dir, golden_cases, tmp_path):
    from specprune_ros.policy import Observation, load_policy

    arrays, meta = golden_cases[0]
    for file in (golden_dir / "checkpoint").iterdir():
        if not file.name.startswith("action_head"):
            (tmp_path / file.name).symlink_to(file)
    policies = [
        load_policy(tmp_path, unnorm_key=meta["unnorm_key"], pruning="off", center_crop=False,
                    jpeg_roundtrip=False, action_head="discrete", runtime=runtime)
        for runtime in ("eager", "static")
    ]
    images = {"primary": arrays["cropped_full"], "wrist": arrays["cropped_wrist"]}
    seen = Observation(images, meta["instruction"], arrays["proprio_raw"])
    a, b = (p.predict(seen).actions for p in policies)
    np.testing.assert_allclose(a, b, atol=1e-6, rtol=0)


@pytest.mark.parametrize("settings", [EXACT, FixedSettings()], ids=["exact", "padded"])
def test_given_rows_are_kept_by_both(model, settings):
    """Also before the first layer."""
    length = rows(policy(model, "eager", "off").predict(observation(0)))[0]
    others = [0, *range(513, length)]
    for layers in ((0,), (2, 5), (1,)):
        stages = {layer: sorted([*others, *range(1, 300 - 40 * layer, 2)]) for layer in layers}
        chunks = [
            policy(model, runtime, GivenRows(stages), settings).predict(observation(0))
            for runtime in ("eager", "static")
        ]
        assert rows(chunks[0]) == rows(chunks[1])
        assert [len(stages[n]) for n in layers] == [rows(chunks[0])[n] for n in layers]
        assert chunks[0].report.cameras == chunks[1].report.cameras
        np.testing.assert_allclose(chunks[0].actions, chunks[1].actions, atol=2e-5, rtol=0)


# Sizes --------------------------------------------------------------------------------------


def test_totals_are_multiples_of_the_tile_and_the_same_in_every_query(model):
    subject = policy(model, "static", settings=FixedSettings(tile=64))
    found = [rows(chunk) for chunk in queries(subject, 4)][1:]
    assert found[0] == found[1] == found[2]
    assert all(n % 16 == 0 for n in found[0][2:]) and found[0][2] % 64 == 0


def test_trimmed_and_filled_patches_are_counted(model):
    """A bucket far from what the budgets ask for."""
    for bucket, wrong in ((192, "filled"), (448, "trimmed")):
        settings = FixedSettings(tile=16, prompt_tile=1, bucket=bucket)
        report = queries(policy(model, "static", settings=settings), 2)[1].report
        counts = {name: sum(getattr(c, name) for c in report.cameras)
                  for name in ("trimmed", "filled")}
        assert counts[wrong] == 0 and sum(counts.values()) > 0
        assert len(report.kept_positions[2]) == bucket
    exact = queries(policy(model), 2)[1].report
    assert all(c.trimmed == c.filled == 0 for c in exact.cameras)


def test_a_fine_query_keeps_more_than_a_coarse_one(model):
    subject = policy(model, "static")
    subject.predict(observation(0))
    coarse = subject.predict(observation(1, speed=0.3)).report
    fine = subject.predict(observation(2, speed=0.0)).report
    assert (coarse.mode, fine.mode) == (Mode.COARSE, Mode.FINE)
    assert len(fine.kept_positions[2]) > len(coarse.kept_positions[2])


# Episodes -----------------------------------------------------------------------------------


def test_episodes_interleave(model):
    subject = policy(model, "static")

    def run(order):
        episodes = {name: subject.make_episode() for name in "ab"}
        seen = {name: [] for name in "ab"}
        for number, name in order:
            chunk = subject.predict(observation(number, seed=7 * (name == "b")), episodes[name])
            seen[name].append(chunk.actions)
        return seen

    together = run([(k, name) for k in range(3) for name in "ab"])
    apart = run([(k, "a") for k in range(3)] + [(k, "b") for k in range(3)])
    for name in "ab":
        np.testing.assert_array_equal(together[name], apart[name])


def test_a_failed_query_leaves_the_state_as_it_was(model):
    subject = policy(model, "static")
    expected = queries(subject, 3)[2]
    subject.new_episode()
    queries(subject, 2)
    before = subject._episode.state
    handle = model.model.projector.register_forward_hook(lambda *_: _[2] * float("nan"))
    try:
        with pytest.raises(InferenceError):
            subject.predict(observation(2, seed=50))
    finally:
        handle.remove()
    assert subject._episode.state is before
    np.testing.assert_array_equal(subject.predict(observation(2)).actions, expected.actions)


def test_settings_that_are_only_numbers_share_a_program(model):
    """Budgets within a bucket, thresholds and instructions change without a new program."""
    subject = policy(model, "static")
    queries(subject, 2)
    programs = subject._executor._programs
    known = set(programs)
    config = variant()
    scene = replace(config.budgets.scene_coarse, local=config.budgets.scene_coarse.local - 1)
    subject.set_pruning(replace(
        config, budgets=replace(config.budgets, scene_coarse=scene),
        static=replace(config.static, tau_scene=0.9),
        controller=replace(config.controller, min_dwell=0.5),
    ))
    chunks = queries(subject, 2, task="push the blue block to the tray")
    assert set(programs) == known
    assert not any(chunk.report.cold for chunk in chunks)


def test_prepared_programs_leave_no_cold_query(model):
    subject = policy(model, "static")
    subject.warm_up()
    made = len(subject._executor._programs)
    for task in ("push it", TASK, TASK + " and then come back to where you were before"):
        for number, speed in enumerate((0.3, 0.3, 0.0)):
            assert not subject.predict(observation(number, task=task, speed=speed)).report.cold
        subject.new_episode()
    assert len(subject._executor._programs) == made


def test_the_least_recently_used_program_goes(model, monkeypatch):
    monkeypatch.setattr("specprune_ros.runtime.fixed._PROGRAMS", 2)
    subject = policy(model, "static")
    for cameras in (1, 2, 3):
        subject.new_episode()
        queries(subject, 2, cameras=cameras)
    assert len(subject._executor._programs) == 2


# Choosing -----------------------------------------------------------------------------------


def test_static_knows_dense_and_specprune_only(model):
    for name in ("fastv", "vla_cache", "random"):
        with pytest.raises(ConfigurationError, match=f"not '{name}': use runtime 'eager'"):
            policy(model, "static", name)
    subject = policy(model, "static")
    with pytest.raises(ConfigurationError, match="fastv"):
        subject.set_pruning("fastv")
    assert subject.pruner.name == "specprune"  # the refused one is not in force


@pytest.mark.parametrize("kind, message", [
    ("graph", "needs a CUDA device"), ("fast", "not one of auto, eager, static, graph"),
])
def test_a_runtime_that_cannot_be_is_refused(model, kind, message):
    with pytest.raises(ConfigurationError, match=message):
        policy(model, kind)


def test_auto_on_the_cpu_keeps_the_exact_sets(model):
    subject = policy(model, "auto")
    assert queries(subject, 1)[0].report.runtime == "eager"
    assert subject.with_pruning("fastv").predict(observation(0)).report.runtime == "eager"


@pytest.mark.parametrize("bad", [{"tile": 0}, {"prompt_tile": 2.5}, {"bucket": "256"},
                                 {"bucket": -1}])
def test_settings_out_of_range_are_named(bad):
    with pytest.raises(ConfigurationError, match=next(iter(bad))):
        FixedSettings(**bad)


def test_a_bucket_that_is_too_small_is_refused(model):
    subject = policy(model, "static", settings=FixedSettings(bucket=64))
    subject.predict(observation(0))
    with pytest.raises(ConfigurationError, match="bucket of 64 rows cannot hold"):
        subject.predict(observation(1))


# What a capture needs, seen on the CPU ------------------------------------------------------

# Operations whose shape or control flow depends on data, or that bring data from the host.
_HOST = {
    "aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.unique_dim",
    "aten._unique2", "aten.repeat_interleave", "aten.equal", "aten.is_nonzero", "aten.lift_fresh",
    "aten.bincount",
}


class Trace(TorchDispatchMode):
    """Names and shapes of all operations; refuses those that a capture could not have."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.replace("::", ".")
        assert name not in _HOST, f"{name} needs the host"
        if name in ("aten.index", "aten.index_put", "aten.index_put_"):
            for index in args[1]:
                assert index is None or index.dtype is not torch.bool, f"{name} by a mask"
        result = func(*args, **(kwargs or {}))
        shape = tuple(result.shape) if isinstance(result, torch.Tensor) else None
        self.seen.append((name, shape))
        return result


@pytest.mark.parametrize("name", ["off", *PRESETS])
@pytest.mark.parametrize("settings", [EXACT, FixedSettings()], ids=["exact", "padded"])
def test_a_program_never_needs_the_host_and_does_the_same_for_all_data(model, name, settings):
    """No operation of it synchronises, and the sequence of shapes is one and the same."""
    subject = policy(model, "static", name, settings)
    queries(subject, 2, moved=0)
    ready = subject._executor._programs

    def trace() -> dict:
        found = {}
        for key, each in ready.items():
            with torch.no_grad(), Trace() as seen:
                each.program()
            found[key] = seen.seen
        return found

    first = trace()
    subject.new_episode()
    queries(subject, 2, seed=31, moved=224)  # another scene, in which everything moves
    assert trace() == first and all(len(steps) > 100 for steps in first.values())


@pytest.mark.parametrize("name", ["off", *PRESETS])
def test_shapes_follow_from_shapes_alone(name):
    """The program runs on tensors without data, and none of them comes from the host."""
    model = loaded()
    subject = policy(model, "static", name)
    queries(subject, 2)
    programs = [ready.program for ready in subject._executor._programs.values()]
    with torch.inference_mode():
        expected = [program() for program in programs]

    def bare(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    network = model.model.to("meta")
    network._scale = bare(network._scale)
    network.decoder._tables = tuple(map(bare, tables(model)))
    for program, output in zip(programs, expected):
        program.frame = bare(program.frame)
        if program.references is not None:
            program.references, program.history = bare(program.references), bare(program.history)
        program.packed.device = {n: bare(t) for n, t in program.packed.device.items()}
        with torch.no_grad(), OneDevice("meta"):
            found = program()
        assert found.packed.shape == output.packed.shape and found.fields == output.fields


def tables(model) -> tuple[torch.Tensor, torch.Tensor]:
    """Shapes of the tables of rotary angles."""
    config = model.model.config.llama
    shape = (1, 1024, config.hidden_size // config.num_attention_heads)
    return torch.empty(shape), torch.empty(shape)


class OneDevice(TorchDispatchMode):
    """Refuses tensors of any other device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves((args, kwargs, result)):
            if isinstance(tensor, torch.Tensor):
                assert tensor.device.type == self.device, f"{func} on {tensor.device}"
        return result
