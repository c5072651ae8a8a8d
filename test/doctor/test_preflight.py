"""Every line about a policy, as OK, WARN and FAIL, each with a real cause."""
from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn import functional

from specprune_ros.errors import CheckpointError, ConfigurationError
from specprune_ros.policy import Observation, load_policy
from specprune_ros.preflight import Level, check_policy, check_query, raise_failures
from specprune_ros.preflight.attention import check_attention, measure_reach
from specprune_ros.preflight.checkpoint import (
    _SAMPLE_IDS,
    check_cameras,
    check_chunk_length,
    check_statistics,
    check_tokenizer,
    check_trained,
    check_unnorm_key,
)
from specprune_ros.preflight.findings import fail, ok, run_checks, warn
from specprune_ros.vla.openvla_oft import decoder
from specprune_ros.vla.openvla_oft.statistics import select_statistics

OK, WARN, FAIL = Level.OK, Level.WARN, Level.FAIL
CAMERAS = ("primary", "wrist")


def level_of(found, *words):
    """The level of a finding that says these words, and has a remedy unless it is OK."""
    for word in words:
        assert word in str(found), found
    return found.level


# --- attention ---------------------------------------------------------------------------------

def attend(monkeypatch, attention):
    """Put another attention in the decoder's place."""
    monkeypatch.setattr(decoder, "F", SimpleNamespace(scaled_dot_product_attention=attention))


def test_attention_of_the_shipped_checkpoint(policy):
    assert level_of(check_attention(policy, CAMERAS), "all 8 layers") is OK


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_attention_in_half_precision(dtype, tiny_dir):
    assert check_attention(load_policy(tiny_dir, dtype=dtype), ("primary",)).level is OK


def test_a_causal_mask_is_found(policy, monkeypatch):
    attend(monkeypatch, lambda q, k, v, **options: functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, **options))
    reach = measure_reach(policy, CAMERAS)
    assert reach.blind == dict.fromkeys(range(8), reach.rows - 1) and reach.action_change == 0.0
    assert level_of(check_attention(policy, CAMERAS), "in 8 of 8 layers (the first is 0)",
                    f"{reach.rows - 1} of {reach.rows - 1} rows", "change by 0",
                    "A causal mask is on") is FAIL


def test_a_mask_in_one_layer_is_found(policy, monkeypatch):
    calls = []

    def in_the_third(q, k, v, **options):
        calls.append(1)
        return functional.scaled_dot_product_attention(
            q, k, v, is_causal=len(calls) % 8 == 3, **options)

    attend(monkeypatch, in_the_third)
    reach = measure_reach(policy, CAMERAS)
    assert reach.blind == {2: reach.rows - 1} and reach.action_change > 0
    assert check_attention(policy, CAMERAS).level is FAIL


def test_a_window_is_found(policy, monkeypatch):
    def windowed(q, k, v, **options):
        n = q.shape[2]
        near = (torch.arange(n)[:, None] - torch.arange(n)[None]).abs() < 100
        return functional.scaled_dot_product_attention(q, k, v, **{**options, "attn_mask": near})

    attend(monkeypatch, windowed)
    reach = measure_reach(policy, CAMERAS)
    assert reach.blind == dict.fromkeys(range(8), reach.rows - 100)
    assert check_attention(policy, CAMERAS).level is FAIL


def test_the_check_changes_nothing_in_the_policy(tiny_dir):
    policy = load_policy(tiny_dir)
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (64, 64, 3), np.uint8) for name in CAMERAS}
    observation = Observation(images, "lift", policy.statistics.proprio.low, stamp=0.0)
    before = policy.predict(observation).actions
    policy.new_episode()
    check_policy(policy)
    assert policy.pruner.name == "specprune"
    again = policy.predict(observation)
    np.testing.assert_array_equal(again.actions, before)
    assert again.report.query_number == 0


# --- statistics --------------------------------------------------------------------------------

def table(**action):
    """Statistics of one data set; what is given replaces lists of ``action``."""
    bounds = {"q01": [-1.0, 0.0], "q99": [1.0, 1.0], "mask": [True, False], **action}
    return {"suite": {"action": bounds, "proprio": {"q01": [0.0], "q99": [1.0]}}}


def statistics(entry, proprio_dim=1, action_dim=2):
    return check_statistics(select_statistics(entry, None), action_dim, proprio_dim)


def test_statistics_that_fit():
    action, proprio = statistics(table())
    assert level_of(action, "2 dimensions", "1 of them scaled") is OK
    assert level_of(proprio, "1 dimensions") is OK
    assert level_of(statistics(table(), None)[1], "no proprio projector") is OK


def test_statistics_of_another_size():
    action, proprio = statistics(table(), proprio_dim=8, action_dim=7)
    assert level_of(action, "2 dimensions, but the action head has 7", "unnorm_key") is FAIL
    assert level_of(proprio, "1 dimensions, but the proprio projector has 8") is FAIL


def test_a_dimension_without_a_range():
    assert level_of(statistics(table(q99=[-1.0, 1.0]))[0], "[0] have no range") is FAIL
    # One that is not scaled needs none.
    assert statistics(table(q01=[-1.0, 1.0]))[0].level is OK
    entry = table()
    entry["suite"]["proprio"] = {"q01": [0.5], "q99": [0.5]}
    assert level_of(statistics(entry)[1], "[0] have no range") is WARN


def test_no_proprio_statistics_for_a_projector():
    entry = table()
    del entry["suite"]["proprio"]
    assert level_of(statistics(entry)[1], "runs without proprio") is WARN


def test_the_data_set_is_chosen_or_asked_for():
    two = {**table(), "other": table()["suite"]}
    assert level_of(check_unnorm_key(table(), None, 2), "suite") is OK
    assert level_of(check_unnorm_key(two, "other", 2), "other, of 2 data sets") is OK
    for entry, key, message in ((two, None, "choose one with unnorm_key"),
                                (two, "nowhere", "it has: other, suite"),
                                (table(mask=[True]), None, "lists of different lengths")):
        (found,) = run_checks([("unnorm_key", lambda e=entry, k=key: check_unnorm_key(e, k, 2))])
        assert level_of(found, message) is FAIL


# --- cameras, chunk length, weights ------------------------------------------------------------

def with_card(policy, **card):
    """The policy with another card."""
    changed = policy.with_pruning("off")
    changed.card = card
    return changed


@pytest.mark.parametrize("card, cameras, level, words", [
    ({}, CAMERAS, OK, ["2 x 256 patches", "598 tokens of 2048", "does not say"]),
    ({"num_images_in_input": 2}, CAMERAS, OK, ["2 x 256"]),
    ({"cameras": ["primary"]}, ("primary",), OK, ["1 x 256"]),
    ({"cameras": ["primary"]}, CAMERAS, FAIL, ["2 cameras", "trained with 1"]),
    ({}, ("primary", *(f"wrist{n}" for n in range(7))), FAIL, ["2134 tokens", "fewer cameras"]),
])
def test_cameras(card, cameras, level, words, policy):
    assert level_of(check_cameras(with_card(policy, **card), cameras), *words) is level


def test_cameras_that_leave_little_room_for_the_task(copy, edit):
    edit(copy / "config.json",
         lambda c: c["text_config"].update(max_position_embeddings=610))
    assert level_of(check_cameras(load_policy(copy), CAMERAS), "room for an instruction of") is WARN


def test_chunk_length(policy):
    assert level_of(check_chunk_length(policy), "8 actions of 7") is OK
    assert level_of(check_chunk_length(with_card(policy)), "no file") is OK
    assert level_of(check_chunk_length(with_card(policy, chunk_length=25)),
                    "8 actions, but the checkpoint was trained for 25") is FAIL


def test_untrained_weights_are_a_warning(policy):
    assert level_of(check_trained(policy), "specprune-tiny is untrained") is WARN
    assert check_trained(with_card(policy, name="good", trained=True)).level is OK
    assert check_trained(with_card(policy)).level is OK  # a published one has no card


# --- tokenizer ---------------------------------------------------------------------------------

def llama_like(path, words=None):
    """A tokenizer that gives Llama-2's ids for the prompt of the check."""
    words = words or ["In", ":", "What", "action", "should", "the", "robot", "take", "to", "turn",
                      "on", "st", "ove", "?", "\n", "Out", "▁"]
    ids = [512, 29901, 1724, 3158, 881, 278, 19964, 2125, 304, 2507, 373, 380, 994, 29973, 13,
           3744, 29871]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **dict(zip(words, ids))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace("stove", "st ove")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("\n", "isolated"),
        pre_tokenizers.Punctuation("isolated")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(path))
    return path


def test_tokenizers(tiny_dir, tmp_path):
    assert level_of(check_tokenizer(tiny_dir / "tokenizer.json", 458), "sha256 ") is OK
    right = llama_like(tmp_path / "right.json")
    assert level_of(check_tokenizer(right, 32064), "Llama-2's ids") is OK
    words = ["In", ":", "What", "action", "should", "the", "robot", "take", "to", "on", "turn",
             "st", "ove", "?", "\n", "Out", "▁"]  # two words have changed places
    wrong = llama_like(tmp_path / "wrong.json", words)
    assert level_of(check_tokenizer(wrong, 32064), "Llama-2's tokenizer") is FAIL


def test_the_sample_has_the_ids_of_the_published_tokenizer():
    """As recorded from the published checkpoint: BOS, 18 pieces, the empty piece."""
    assert _SAMPLE_IDS[0] == 1 and _SAMPLE_IDS[-5:] == (29973, 13, 3744, 29901, 29871)


def test_a_tokenizer_with_the_stop_token_in_the_text(tmp_path, edit):
    path = llama_like(tmp_path / "t.json")
    edit(path, lambda t: t["model"]["vocab"].update({"</s>": 3744, "Out": 2}))
    assert level_of(check_tokenizer(path, 32064), "must begin with 1 (BOS)") is FAIL


def test_a_broken_tokenizer_is_its_own_line(copy):
    (copy / "tokenizer.json").write_text("{")
    (found,) = run_checks([("tokenizer", lambda: check_tokenizer(copy / "tokenizer.json", 458))])
    assert level_of(found, "tokenizer.json", "cannot be read") is FAIL


# --- all of it ---------------------------------------------------------------------------------

def test_a_policy_is_checked_and_timed(policy):
    findings = check_policy(policy)
    assert [f.name for f in findings] == ["attention", "action statistics", "proprio statistics",
                                          "cameras", "chunk length", "weights"]
    assert [f.level for f in findings] == [OK] * 5 + [WARN]
    raise_failures(findings)
    (query,) = check_query(policy)
    assert level_of(query, "specprune: ", " ms") is OK


def test_failures_are_raised_together():
    findings = [ok("a", "fine"), fail("b", "broken", "Mend it"), warn("c", "odd", "Look"),
                fail("d", "gone", "Bring it back")]
    with pytest.raises(ConfigurationError) as caught:
        raise_failures(findings)
    assert str(caught.value) == "b: broken. Mend it; d: gone. Bring it back"


def test_one_check_that_raises_does_not_stop_the_others():
    def broken():
        raise ValueError("two\nlines")

    def named():
        raise CheckpointError("the file x is missing: bring it")

    found = run_checks([("one", broken), ("two", lambda: [ok("a", "x"), ok("b", "y")]),
                        ("three", named), ("four", lambda: ok("four", "z"))])
    assert [(f.name, f.level) for f in found] == [
        ("one", FAIL), ("a", OK), ("b", OK), ("three", FAIL), ("four", OK)]
    assert "ValueError: two lines" in found[0].text
    assert found[3].text == "the file x is missing: bring it"


def test_findings_cannot_be_changed(policy):
    with pytest.raises(dataclasses.FrozenInstanceError):
        check_trained(policy).text = "fine"
