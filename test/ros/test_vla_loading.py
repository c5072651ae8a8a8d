"""From parameters to a policy: what reaches it, and that configuring leaves nothing cold."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from specprune_ros.policy import Observation
from specprune_ros.ros.loading import load
from specprune_ros.ros.vla_parameters import VlaSettings


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def loaded(tiny_dir, **values):
    return load(VlaSettings({"checkpoint": str(tiny_dir), "num_threads": 1, **values}), [].append)


def observation(number: int) -> Observation:
    image = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    return Observation({"primary": image, "wrist": image}, "pick up the cup", np.zeros(8),
                       0.4 * number)


def test_nothing_beyond_the_method_by_default(tiny_dir):
    policy = loaded(tiny_dir)
    assert torch.get_num_threads() == 1
    reports = [policy.predict(observation(number)).report for number in range(2)]
    assert [(r.cold, r.runtime, r.reused_cameras) for r in reports] == [(False, "eager", ())] * 2
    assert not policy.model.decoder.int8 and policy.runtime.choice is None


def test_options_reach_the_policy_and_are_ready_before_the_first_query(tiny_dir):
    policy = loaded(tiny_dir, vision_reuse=1.0, weights="int8", latency_target_ms=0.01,
                    dtype="auto")
    assert policy.model.decoder.int8
    choice = policy.runtime.choice
    reports = [policy.predict(observation(number)).report for number in range(2)]
    assert [(r.cold, r.runtime) for r in reports] == [(False, "static")] * 2
    assert reports[1].reused_cameras == ("primary", "wrist")
    assert len(reports[1].kept_positions[2]) == choice.bucket


def test_as_many_threads_as_the_parameter_says(tiny_dir):
    loaded(tiny_dir, num_threads=2)
    assert torch.get_num_threads() == 2
    loaded(tiny_dir, num_threads=0)  # torch's own choice stays
    assert torch.get_num_threads() == 2
