"""SpecPrune on a CUDA device against the CPU."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from specprune_harness import (
    context,
    decoder,
    embeddings,
    frames,
    layout,
    play,
    repainted,
    same_budgets,
    script,
)

from specprune_ros.pruning.base import DensePruner
from specprune_ros.pruning.config import Budget
from specprune_ros.pruning.dynamic import highest_scored, rank_weights
from specprune_ros.pruning.presets import PRESETS, preset
from specprune_ros.pruning.sets import top_k
from specprune_ros.pruning.similarity import MEASURES, patch_similarity
from specprune_ros.pruning.specprune import QueryHistory, SpecPrune

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")


def test_ties_are_broken_the_same_way():
    """Invariant 6: scores with few values, many times."""
    generator = torch.Generator().manual_seed(0)
    for n in (16, 256, 512, 1024, 4096):
        scores = torch.randint(0, 5, (n,), generator=generator).float()
        member = torch.randint(0, 2, (n,), generator=generator).bool()
        for k in (1, n // 3, n - 1):
            assert torch.equal(top_k(scores.to(CUDA), k).cpu(), top_k(scores, k))
            assert torch.equal(
                highest_scored(scores.to(CUDA), member.to(CUDA), k).cpu(),
                highest_scored(scores, member, k),
            )
        assert torch.equal(rank_weights(scores.to(CUDA), None).cpu().argsort(),
                           rank_weights(scores, None).argsort())


@pytest.mark.parametrize("measure", MEASURES)
def test_similarity_is_the_same_to_the_bit(measure):
    """Invariant 6: so V_dynamic is the same set."""
    of = layout(3, 256)
    a = frames(of, 1)
    b = repainted(a, 1, range(0, 256, 3), 2)
    expected = patch_similarity(a, [b, frames(of, 3)], of.grid, measure)
    found = patch_similarity(
        a.to(CUDA), [b.to(CUDA), frames(of, 3).to(CUDA)], of.grid, measure
    )
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("name", PRESETS)
def test_scripted_queries_keep_the_same_rows(name):
    """Invariant 6: whole queries from the same attention logits, ties among them included."""
    of, config = layout(2, 64), preset(name)
    before = frames(of, 0)
    now = repainted(before, 0, range(0, 64, 2), 1)
    layers = config.schedule(16).global_
    scores = torch.randint(0, 4, (len(layers), 2, 64)).float()
    entered = {}
    for device in (torch.device("cpu"), CUDA):
        session = SpecPrune(config).begin(
            context(of, 16, device=device, query_number=1, frame=now, step_frame=before,
                    query_frame=before, history=QueryHistory(layers, scores.to(device)))
        )
        logits = [x.to(device) for x in script(of, 16, 5, coarse=True)]
        entered[device.type] = play(session, of, logits, device)
    assert entered["cuda"] == entered["cpu"]


def test_keeping_everything_is_dense_bit_for_bit():
    """Invariant 1 on the device: the same kernels on the same shapes."""
    of = layout(2, 64)
    config = preset("specprune")
    everything = replace(
        config, first_query="prune", budgets=same_budgets(Budget(999, 999, 999)),
        dynamic=replace(config.dynamic, keep=1.0),
    )
    decoder.cache_clear()  # the table of angles stays where it was made
    model = decoder(8).to(CUDA)
    try:
        outputs = []
        for pruner in (DensePruner(), SpecPrune(everything)):
            session = pruner.begin(context(of, device=CUDA))
            readout = torch.arange(of.readout.start, of.readout.stop, device=CUDA)
            with torch.inference_mode():
                outputs.append(model(embeddings(of).to(CUDA), readout, session).states)
        assert torch.equal(*outputs)
    finally:
        decoder.cache_clear()
