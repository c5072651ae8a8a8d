"""specprune bench: what it writes, what must hold of its figures, what it refuses."""
from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from specprune_ros import cli
from specprune_ros.bench.arms import ARMS, PRUNED, choose
from specprune_ros.bench.measure import ArmTimes, statistics
from specprune_ros.bench.summary import ratios, withheld
from specprune_ros.errors import ConfigurationError
from specprune_ros.pruning.presets import preset
from specprune_ros.pruning.registry import make_pruner


def bench(*arguments) -> int:
    return cli.main(["bench", *map(str, arguments)])


@pytest.fixture(scope="module")
def document(tiny_dir, tmp_path_factory):
    """All arms and both pictures, on the smallest checkpoint."""
    folder = tmp_path_factory.mktemp("bench")
    assert bench("--model", tiny_dir, "--queries", 3, "--size", 64, "--prompt-tokens", 20,
                 "--cameras", 1, "--json", folder / "out.json", "--plot", folder / "plots") == 0
    pictures = sorted(path.name for path in (folder / "plots").iterdir())
    assert pictures == ["bench_tokens.png", "bench_waterfall.png"]
    return json.loads((folder / "out.json").read_text())


def test_document_has_the_keys_that_others_read(document):
    assert document["device"] == "cpu"
    assert list(document["arms"]) == ["a", "a2", "b", "c", "d"]
    for arm in document["arms"].values():
        for name in ("cpu_ms", "query_cpu_ms", "query_wall_ms"):
            assert {"median", "iqr", "p95", "n"} <= set(arm[name])
            assert arm[name]["n"] == 3 and arm[name]["median"] > 0
        assert arm["cpu_ms"]["median"] < arm["query_cpu_ms"]["median"]
        assert arm["flops"] < arm["query_flops"]
        assert 0 < arm["of_roofline"] and arm["roofline_ms"] > 0
    assert {"b/d", "query b/d", "flops", "realised", "a/a2", "a2/b", "a2/c", "a/d"} <= set(
        document["ratios"])
    for name in ("selection_of_layer", "selection_of_query"):
        assert 0 < document[name] < 1
    assert document["commit"] is None or len(document["commit"]) >= 40
    assert document["versions"]["torch"] == torch.__version__


def test_ratios_are_those_of_the_arms(document):
    arms, found = document["arms"], document["ratios"]
    rounds = zip(arms["b"]["cpu_ms"]["values"], arms["d"]["cpu_ms"]["values"])
    assert found["b/d"] == pytest.approx(np.median([b / d for b, d in rounds]), rel=1e-4)
    assert found["flops"] == pytest.approx(arms["b"]["flops"] / arms["d"]["flops"])
    assert found["realised"] == pytest.approx(found["b/d"] / found["flops"])


def test_arms_keep_what_they_say(document):
    """FLOPs and tokens are exact: the same in each run."""
    arms, work = document["arms"], document["workload"]
    layers = document["model"]["layers"]
    for name in ("a", "a2", "b"):
        assert arms[name]["tokens_per_layer"] == [work["tokens"]] * layers
        assert arms[name]["flops"] == arms["b"]["flops"]
    assert arms["c"]["tokens_per_layer"] == arms["d"]["tokens_per_layer"]
    rows = arms["d"]["tokens_per_layer"]
    assert rows == sorted(rows, reverse=True) and rows[-1] < 0.5 * rows[0]
    assert arms["a"]["runtime"] == "reference" and arms["d"]["runtime"] == "eager"


def test_arm_d_is_the_shipped_preset():
    """The budgets are those that evaluations use: nothing is tuned for the benchmark."""
    assert PRUNED == "specprune"
    assert make_pruner(ARMS["d"].pruning).config == preset("specprune")


def test_arms_are_checked_against_one_another(document):
    checks = document["checks"]["max_action_difference"]
    assert set(checks) == {"d/eager", "dense a/a2", "dense a2/b", "dense b/c", "dense c/d"}
    assert max(checks.values()) <= document["checks"]["tolerance"]


def test_sweeps_cover_all_rows(document):
    queries = document["sweep"]["queries"]
    assert [point["kept_visual"] for point in queries][0] == 256
    assert queries[-1]["kept_visual"] == 0
    assert queries[-1]["flops"] < queries[0]["flops"]
    assert all(point["ms"] > 0 for point in document["sweep"]["layers"])


def test_some_arms_only(tiny_dir, tmp_path):
    assert bench("--model", tiny_dir, "--queries", 3, "--size", 64, "--prompt-tokens", 20,
                 "--cameras", 1, "--arms", "b,d,d8", "--runtime", "static",
                 "--json", tmp_path / "out.json") == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert list(found["arms"]) == ["b", "d", "d8"]
    assert found["arms"]["d8"]["weight_bytes"] < found["arms"]["d"]["weight_bytes"]
    assert found["arms"]["d8"]["of_roofline"] is None and found["checks"]["int8"]["d/d8"] > 0
    assert found["arms"]["d"]["runtime"] == "static"
    assert set(found["ratios"]) == {
        "b/d", "query b/d", "flops", "realised", "d/d8", "query d/d8"}
    assert "sweep" not in found


# Parts ----------------------------------------------------------------------------------------


def times(**values) -> ArmTimes:
    return ArmTimes(flops=[1.0], dense_flops=[2.0], **values)


def test_statistics_of_values():
    assert statistics([]) is None
    found = statistics([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (found["median"], found["iqr"], found["n"]) == (3.0, 2.0, 5)


def test_on_a_gpu_a_slow_dense_arm_hides_the_gain():
    slow = {"b": {"of_roofline": 0.49, "roofline_ms": 11.3, "cuda_ms": {"median": 23.1}}}
    reason = withheld(slow)
    assert "23.1 ms" in reason and "11.3 ms" in reason
    arms = {"b": times(cuda=[23.1]), "d": times(cuda=[10.0])}
    hidden = ratios(arms, reason)
    assert hidden["b/d"] is None and hidden["query b/d"] is None and "realised" not in hidden
    fast = {"b": {**slow["b"], "of_roofline": 0.51}}
    assert withheld(fast) is None
    assert ratios(arms)["b/d"] == pytest.approx(2.31)


def test_cpu_ratios_tell_decoder_and_query_apart():
    arms = {"b": times(cpu=[30.0], query_cpu=[40.0]), "d": times(cpu=[10.0], query_cpu=[20.0])}
    found = ratios(arms)
    assert (found["b/d"], found["query b/d"], found["flops"]) == (3.0, 2.0, 2.0)
    assert found["realised"] == 1.5


def test_ratios_are_those_of_arms_that_ran_beside_each_other():
    """A machine that is slow for a round is slow for both; medians of each arm would say 4."""
    arms = {"b": times(cpu=[10.0, 40.0, 60.0], query_cpu=[1.0] * 3),
            "d": times(cpu=[5.0, 30.0, 10.0], query_cpu=[1.0] * 3)}
    assert ratios(arms)["b/d"] == 2.0


@pytest.mark.parametrize("names", ["", "b,x", "b,b"])
def test_unknown_arms_are_refused(names):
    with pytest.raises(ConfigurationError, match="give some of a, a2, b, c, d, b8, d8, each once"):
        choose(names)


@pytest.mark.parametrize("arguments, message", [
    (("--model", "nowhere"), "neither one of tiny, small, 7b nor a checkpoint directory"),
    (("--queries", 1), "--queries must be >= 3"),
    (("--runtime", "graph"), "runtime 'graph' needs a CUDA device"),
])
def test_bad_options_are_named(arguments, message, capsys):
    if "graph" in arguments and torch.cuda.is_available():
        arguments = ("--device", "cpu", *arguments)
    assert bench("--model", "tiny", *arguments) == 1
    assert message in " ".join(capsys.readouterr().err.split())
