"""Patches that training leaves out below the first layers, so that a policy can do without them.

A small network trained on whole pictures reads what it needs from anywhere in them, and fails when
any patches are missing, whichever. Large pretrained models are not like that. So some batches lose
patches behind layer 1, in one of two ways. ``kept_patches``: those around the things that the
instruction names always stay, each other thing of the scene keeps its surroundings half of the time
(the kept set must not tell which one is meant), and the background fills up what is left.
``attended_patches``: those stay that the network itself attends to, and fewer of them further down.
"""
from __future__ import annotations

import torch

from specprune_ros.training.data import Batch
from specprune_ros.vla.openvla_oft.config import PATCH

KEPT = (3 / 16, 1 / 4, 3 / 8, 1 / 2)  # shares of the visual tokens that stay, one per batch
_REACH = 1  # patches around the one that holds the middle of a thing
_DECOYS = 0.5
_NOISE = 0.5  # of the logarithm of attention, so that no patch near the border is sure to go
#: Of the batches that lose patches, those that lose them by attention.
BY_ATTENTION = 0.5
#: Layers before which batches of that kind lose patches again, as parts of the decoder, and what
#: stays there.
LATER = (0.5, 0.75)
LATER_KEPT = 0.85


def kept_patches(batch: Batch, grid: int, count: int) -> torch.Tensor:
    """int64 [B, count], ascending: which of the n_cam * grid^2 visual tokens stay."""
    near = _near(batch.pixels, grid)  # [B, n_cam, E, N]
    size, _, entities, _ = near.shape
    rows = torch.arange(size, device=near.device)
    wanted = torch.rand(size, entities, device=near.device) < _DECOYS
    wanted[rows, batch.target] = True
    wanted[rows, batch.destination] = True
    priority = (near & wanted[:, None, :, None]).any(2).flatten(1).float()  # [B, n_cam * N]
    named = torch.stack([batch.target, batch.destination], 1)
    needed = near[rows[:, None], :, named].any(1).flatten(1).float()
    order = torch.rand_like(priority) + priority + needed
    return order.topk(count, dim=1).indices.sort(dim=1).values


def attended_patches(attention: torch.Tensor, cameras: torch.Tensor, count: int) -> torch.Tensor:
    """int64 [B, count], ascending: indices of the tokens with the most attention in each camera.

    attention [B, K] is noised; cameras bool [B, n_cam, K]: whose token it is. The cameras have
    equal shares of ``count``, the first one the rest; so a camera must have as many tokens.
    """
    uniform = torch.rand_like(attention).clamp(1e-6, 1 - 1e-6)
    score = attention.detach().clamp(min=1e-12).log() - _NOISE * (-uniform.log()).log()
    every, left = [], count
    for camera in reversed(range(cameras.shape[1])):
        share = left if camera == 0 else count // cameras.shape[1]
        left -= share
        every.append(score.masked_fill(~cameras[:, camera], -torch.inf).topk(share, 1).indices)
    return torch.cat(every, dim=1).sort(dim=1).values


def named_patches(
    batch: Batch, grid: int, kept: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the visual tokens that stay (int64 [B, K]; None: all), bool, which are whose.

    [B, n_cam, K]: of the camera; [B, n_cam, 2, K]: around target and destination in it.
    """
    near = _near(batch.pixels, grid)  # [B, n_cam, E, N]
    size, cameras, _, patches = near.shape
    rows = torch.arange(size, device=near.device)
    of_camera = torch.eye(cameras, dtype=torch.bool, device=near.device)
    of_camera = of_camera.repeat_interleave(patches, dim=1)[None].expand(size, -1, -1)
    named = torch.stack([near[rows, :, batch.target], near[rows, :, batch.destination]], 2)
    named = named.repeat(1, 1, 1, cameras) & of_camera[:, :, None]
    if kept is None:
        return of_camera, named
    index = kept[:, None].expand(-1, cameras, -1)
    return of_camera.gather(2, index), named.gather(3, index[:, :, None].expand(-1, -1, 2, -1))


def _near(pixels: torch.Tensor, grid: int) -> torch.Tensor:
    """bool [B, n_cam, E, grid^2]: patches within reach of each visible thing's middle."""
    cell = torch.floor(pixels / PATCH)[..., None, :]  # [B, n_cam, E, 1, 2], NaN where not visible
    index = torch.arange(grid * grid, device=pixels.device)
    places = torch.stack([index % grid, index // grid], -1).float()  # [N, 2]: column, row
    return ((places - cell).abs() <= _REACH).all(-1)


def select_rows(
    hidden: torch.Tensor,
    tables: tuple[torch.Tensor, torch.Tensor],
    kept: torch.Tensor,
    visual_tokens: int,
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Rows that stay of [B, S, D], and their rotary tables [B, n, head_dim]: positions are kept.

    tables [1 or B, S, head_dim]; kept [B, K]: visual tokens, from the first, which is row 1.
    """
    size, length, _ = hidden.shape
    first = torch.zeros(size, 1, dtype=torch.int64, device=hidden.device)
    rest = torch.arange(1 + visual_tokens, length, device=hidden.device).expand(size, -1)
    rows = torch.cat([first, kept + 1, rest], dim=1)
    chosen = hidden.gather(1, rows[..., None].expand(-1, -1, hidden.shape[2]))
    return chosen, tuple(
        table.expand(size, -1, -1).gather(1, rows[..., None].expand(-1, -1, table.shape[2]))
        for table in tables
    )
