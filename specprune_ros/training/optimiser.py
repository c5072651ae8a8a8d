"""Optimisers of the training: AdamW, or Muon for the matrices between the layers."""
from __future__ import annotations

from typing import Any

import torch
from torch import nn

from specprune_ros.errors import ConfigurationError

OPTIMISERS = ("adamw", "muon")
_BETAS = (0.9, 0.95)
# Tables, prefixes and read-outs are no maps between hidden spaces, which is what Muon is made for.
_NOT_MUON = ("embed", "token", "head", "lambda")


class Optimiser:
    """One or two torch optimisers that are stepped, saved and restored together."""

    def __init__(
        self, kind: str, parameters: dict[str, nn.Parameter], rate: float, weight_decay: float
    ) -> None:
        if kind not in OPTIMISERS:
            raise ConfigurationError(f"optimiser '{kind}' is not one of {', '.join(OPTIMISERS)}")
        matrices = {
            name: p
            for name, p in parameters.items()
            if kind == "muon" and p.dim() == 2 and not any(word in name for word in _NOT_MUON)
        }
        others = [p for name, p in parameters.items() if name not in matrices]
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=rate, weight_decay=weight_decay, betas=_BETAS)
        ]
        if matrices:
            # Updates are scaled to the size that AdamW's have, so that one rate serves both.
            muon = torch.optim.Muon(
                list(matrices.values()),
                lr=rate,
                weight_decay=weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
            self._parts.append(muon)

    def step(self, rate: float) -> None:
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()

    def zero_grad(self) -> None:
        for part in self._parts:
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for part, state in zip(self._parts, states, strict=True):
            part.load_state_dict(state)
