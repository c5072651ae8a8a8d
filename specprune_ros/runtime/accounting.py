"""Exact cost of a query, in closed form: floating-point operations and bytes moved.

FLOPs: 2 per multiply-add of every matrix product (linear layers, patch embedding, attention).
Element-wise work, norms, softmax and rotary angles are left out: under 0.1 % at 7B.

Bytes: every matrix product reads its weights (and bias) and its inputs once and writes its output
once, in the element size of the model; attention reads Q, K, V and writes its output (fused: no
map). Element-wise work counts as fused into its neighbours, and look-ups in the embedding table are
left out. It is what an ideal implementation moves, a lower bound of what a real one does.

``runtime.counter`` counts the same things on the real modules; the two agree exactly.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Mapping, Sequence

from torch import nn

if TYPE_CHECKING:
    from specprune_ros.vla.openvla_oft.config import VitConfig
    from specprune_ros.vla.openvla_oft.model import OpenVLAOFT


@dataclass(frozen=True)
class Cost:
    """FLOPs, and elements of weights and of activations that are moved."""

    flops: int = 0
    weights: int = 0
    activations: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops,
            self.weights + other.weights,
            self.activations + other.activations,
        )

    def bytes(self, element_size: int) -> int:
        """Bytes moved with elements of so many bytes (2 for bfloat16, 4 for float32)."""
        return element_size * (self.weights + self.activations)

    def intensity(self, element_size: int) -> float:
        """Arithmetic intensity in FLOPs per byte; compare it with a device's ridge."""
        return self.flops / self.bytes(element_size)


def linear(rows: int, inputs: int, outputs: int, bias: bool = True) -> Cost:
    """A linear layer on ``rows`` vectors."""
    weights = outputs * (inputs + bias)
    return Cost(2 * rows * inputs * outputs, weights, rows * (inputs + outputs))


def attention(rows: int, keys: int, query_width: int, key_width: int, batch: int = 1) -> Cost:
    """Scaled dot-product attention; widths are those of all heads together."""
    moved = 2 * rows * query_width + 2 * keys * key_width
    return Cost(4 * batch * rows * keys * query_width, 0, batch * moved)


def total(costs: Sequence[Cost]) -> Cost:
    return sum(costs, Cost())


@dataclass(frozen=True)
class DecoderShape:
    """hidden D, mlp I, width of all query heads, width of all key heads, layers."""

    hidden: int
    mlp: int
    query_width: int
    key_width: int
    layers: int

    def layer_cost(self, rows: int, keys: int) -> Cost:
        """One layer that computes ``rows`` and attends to ``keys``.

        With equal widths it takes n (8 D^2 + 6 D I) + 4 n m D FLOPs.
        """
        d, q, k = self.hidden, self.query_width, self.key_width
        # Query, key and value are one product, and so are gate and up.
        products = [(d, q + 2 * k), (q, d), (d, 2 * self.mlp), (self.mlp, d)]
        return total(
            [linear(rows, a, b, bias=False) for a, b in products] + [attention(rows, keys, q, k)]
        )

    def cost(self, rows: Sequence[int], keys: Sequence[int]) -> Cost:
        """All layers, from the rows and keys of each; a layer with 0 keys is skipped."""
        return total([self.layer_cost(n, m) for n, m in zip(rows, keys) if m])

    def flops(self, rows: Sequence[int], keys: Sequence[int]) -> float:
        """FLOPs of all layers; a layer with 0 keys is skipped."""
        return float(self.cost(rows, keys).flops)

    def dense_flops(self, length: int) -> float:
        """FLOPs with every row of a query of this length."""
        return float(self.layers * self.layer_cost(length, length).flops)


@dataclass(frozen=True)
class TowerShape:
    """One vision tower. blocks: those that are run; prefix: tokens beside the patches."""

    width: int
    mlp: int
    blocks: int
    patches: int
    prefix: int
    image_size: int
    patch: int = 14

    @classmethod
    def of(cls, config: VitConfig, image_size: int) -> TowerShape:
        return cls(
            config.width, config.mlp_width, config.used_blocks, config.patches,
            config.registers + 1, image_size,
        )

    def cost(self, images: int) -> Cost:
        """The tower on a batch of images."""
        d, tokens = self.width, self.patches + self.prefix
        pixels = 3 * self.patch**2
        embed = linear(images * self.patches, pixels, d)
        # Pixels outside the grid of patches are read, too.
        ragged = images * (3 * self.image_size**2 - self.patches * pixels)
        block = [linear(images * tokens, d, 3 * d), linear(images * tokens, d, d)]
        block += [linear(images * tokens, d, self.mlp), linear(images * tokens, self.mlp, d)]
        block += [attention(tokens, tokens, d, d, images)]
        return embed + Cost(activations=ragged) + total(block * self.blocks)


@dataclass(frozen=True)
class MlpShape:
    """Linear layers with bias one after the other; ``widths`` from the input to the output."""

    widths: tuple[int, ...]

    @classmethod
    def of(cls, module: nn.Module) -> MlpShape:
        layers = [m for m in module.modules() if isinstance(m, nn.Linear)]
        return cls((layers[0].in_features, *(layer.out_features for layer in layers)))

    def cost(self, rows: int) -> Cost:
        return total([linear(rows, a, b) for a, b in zip(self.widths, self.widths[1:])])


@dataclass(frozen=True)
class QueryShape:
    """The sizes of a whole query.

    head: of the L1 head, whose rows are time steps and whose input is ``action_dim`` states; or,
    for a checkpoint without one, None, and ``vocabulary`` scores per read-out row.
    """

    dino: TowerShape
    siglip: TowerShape
    projector: MlpShape
    proprio: MlpShape | None
    decoder: DecoderShape
    head: MlpShape | None
    vocabulary: int
    action_dim: int

    @classmethod
    def of(cls, model: OpenVLAOFT) -> QueryShape:
        """The sizes of a loaded network."""
        config = model.config
        llama, size = config.llama, config.image_size
        head_dim = getattr(llama, "head_dim", None) or (
            llama.hidden_size // llama.num_attention_heads
        )
        hidden = llama.hidden_size
        proprio, head = model.proprio_projector, model.action_head
        return cls(
            TowerShape.of(config.dino, size),
            TowerShape.of(config.siglip, size),
            MlpShape.of(model.projector),
            MlpShape.of(proprio) if proprio is not None else None,
            DecoderShape(
                hidden,
                llama.intermediate_size,
                llama.num_attention_heads * head_dim,
                llama.num_key_value_heads * head_dim,
                llama.num_hidden_layers,
            ),
            MlpShape.of(head) if head is not None else None,
            llama.vocab_size,
            model.action_dim,
        )

    def cost(
        self,
        rows: Sequence[int],
        keys: Sequence[int],
        cameras: int,
        proprio: bool,
        action_tokens: int,
    ) -> Mapping[str, Cost]:
        """Cost by part of the network, under its name there.

        rows, keys: of each decoder layer. proprio: whether the query has the token.
        """
        steps = action_tokens // self.action_dim
        costs = {
            "dino": self.dino.cost(cameras),
            "siglip": self.siglip.cost(cameras),
            "projector": self.projector.cost(cameras * self.dino.patches),
            "decoder": self.decoder.cost(rows, keys),
        }
        if proprio:
            costs["proprio_projector"] = self.proprio.cost(1)
        if self.head is not None:
            costs["action_head"] = self.head.cost(steps)
        else:
            costs["lm_head"] = linear(action_tokens, self.decoder.hidden, self.vocabulary, False)
        return costs

    def dense_cost(
        self, length: int, cameras: int, proprio: bool, action_tokens: int
    ) -> Mapping[str, Cost]:
        """The same with every row of a query of this length in every layer."""
        rows = [length] * self.decoder.layers
        return self.cost(rows, rows, cameras, proprio, action_tokens)


def openvla_oft_7b() -> QueryShape:
    """The published LIBERO checkpoints: Llama-2-7B, DINOv2 ViT-L, SigLIP so400m, L1 head."""
    hidden, features = 4096, 1024 + 1152
    return QueryShape(
        TowerShape(1024, 4096, 23, 256, 5, 224),
        TowerShape(1152, 4304, 26, 256, 0, 224),
        MlpShape((features, 4 * features, hidden, hidden)),
        MlpShape((8, hidden, hidden)),
        DecoderShape(hidden, 11008, hidden, hidden, 32),
        MlpShape((7 * hidden, hidden, hidden, hidden, 7)),
        32064,
        7,
    )
