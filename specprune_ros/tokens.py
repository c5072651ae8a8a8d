"""The order of tokens in an OpenVLA-OFT query, in absolute positions (0 = BOS).

    BOS | camera 0 | camera 1 | ... | proprio | prompt text | action placeholders | stop

Absolute positions are also the RoPE positions; pruning never renumbers them.
"""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenLayout:
    """Where each segment of a query lies.

    cameras: camera names in token order. patches_per_camera: N, a square number.
    proprio: whether one proprio token follows the patches.
    prompt_tokens: prompt tokens after BOS, the trailing empty piece included.
    action_tokens: placeholders (chunk length times action dimension).
    instruction_span: first and one-past-last prompt token of the instruction itself, counted from
        the first token after BOS (the template's words are left out).
    """

    cameras: tuple[str, ...]
    patches_per_camera: int
    proprio: bool
    prompt_tokens: int
    action_tokens: int
    instruction_span: tuple[int, int]

    @property
    def visual_tokens(self) -> int:
        return len(self.cameras) * self.patches_per_camera

    @property
    def grid(self) -> int:
        """Patches along one side of a camera's grid."""
        return round(self.patches_per_camera**0.5)

    def camera(self, index: int) -> range:
        """Absolute positions of a camera's patches (row-major over the grid)."""
        start = 1 + index * self.patches_per_camera
        return range(start, start + self.patches_per_camera)

    @property
    def visual(self) -> range:
        return range(1, 1 + self.visual_tokens)

    @property
    def text_start(self) -> int:
        return 1 + self.visual_tokens + int(self.proprio)

    @property
    def text(self) -> range:
        return range(self.text_start, self.text_start + self.prompt_tokens)

    @property
    def instruction(self) -> range:
        first, last = self.instruction_span
        return range(self.text_start + first, self.text_start + last)

    @property
    def placeholders(self) -> range:
        start = self.text_start + self.prompt_tokens
        return range(start, start + self.action_tokens)

    @property
    def readout(self) -> range:
        """Rows the action head reads: one before each placeholder, as labels are shifted by one."""
        return range(self.placeholders.start - 1, self.placeholders.stop - 1)

    @property
    def stop(self) -> int:
        return self.placeholders.stop

    @property
    def length(self) -> int:
        return self.stop + 1
