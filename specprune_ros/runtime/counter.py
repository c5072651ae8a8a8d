"""Counts what a network really computes, as its parts call torch.

    with OperationCounter(model) as counter:
        policy.predict(observation)
    counter.parts["decoder"].flops

The definitions are those of ``runtime.accounting``, which has the same in closed form.
"""
from __future__ import annotations

from collections import defaultdict
from typing import Any, Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from specprune_ros.runtime.accounting import Cost

OTHER = "other"
_PRODUCTS = {
    torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm, torch.Tensor.bmm
}
# A layer's products: with weight [out, in] (or kernels), or added to rows with weight [in, out].
_LAYERS = {F.linear, F.conv2d}
_ADDED = {torch.addmm, torch.Tensor.addmm_}


class OperationCounter(TorchFunctionMode):
    """Context in which the matrix products of a model are counted.

    parts: name of the model's direct child -> Cost of its linear layers, convolutions and fused
    attention. ``other`` holds plain matrix products, which no layer consists of: the scores that a
    pruner has recomputed (and once the table of rotary angles). Not for nested or concurrent use.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.parts: dict[str, Cost] = defaultdict(Cost)
        self._model = model
        self._running: list[str] = []
        self._handles: list[Any] = []

    @property
    def network(self) -> Cost:
        """All parts but ``other``."""
        return sum((cost for part, cost in self.parts.items() if part != OTHER), Cost())

    def __enter__(self) -> OperationCounter:
        for name, child in self._model.named_children():
            self._handles += [
                child.register_forward_pre_hook(self._enter(name)),
                child.register_forward_hook(self._leave, always_call=True),
            ]
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._running = [], []
        super().__exit__(*exception)

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any) -> None:
            self._running.append(name)

        return hook

    def _leave(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self._running.pop()

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        part = self._running[-1] if self._running else OTHER
        if func is F.scaled_dot_product_attention:
            names = ("query", "key", "value")[len(args) :]
            query, key, value = (*args[:3], *(kwargs[name] for name in names))
            heads = query.shape[:-2].numel()
            rows, keys = query.shape[-2], key.shape[-2]
            flops = 2 * heads * rows * keys * (query.shape[-1] + value.shape[-1])
            self.parts[part] += Cost(flops, 0, sum(t.numel() for t in (query, key, value, result)))
        elif func in _LAYERS:
            names = ("input", "weight", "bias")[len(args) :]
            rows, weight, bias = (*args[:3], *(kwargs.get(name) for name in names))
            # Each output element is a dot product with one row (or kernel) of the weight.
            flops = 2 * result.numel() * weight[0].numel()
            held = weight.numel() + (0 if bias is None else bias.numel())
            self.parts[part] += Cost(flops, held, rows.numel() + result.numel())
        elif func in _ADDED:
            rows, weight = args[1:3]
            flops = 2 * result.numel() * rows.shape[-1]
            self.parts[part] += Cost(flops, weight.numel(), rows.numel() + result.numel())
        elif func in _PRODUCTS:
            flops = 2 * result.numel() * args[0].shape[-1]
            self.parts[OTHER] += Cost(flops, 0, args[0].numel() + args[1].numel() + result.numel())
        return result
