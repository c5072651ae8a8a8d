"""The prompt and its token ids."""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from specprune_ros.errors import CheckpointError, ObservationError
from specprune_ros.vla.openvla_oft.config import LLAMA_EMPTY_PIECE

_BEFORE = "In: What action should the robot take to "
_AFTER = "?\nOut:"
BOS_ID, STOP_ID = 1, 2
_EMPTY_PIECE = "▁"


@dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt: BOS first, the empty piece last.

    instruction_span: first and one-past-last index of the instruction's own tokens, counted from
    the token after BOS.
    """

    text: str
    ids: tuple[int, ...]
    instruction_span: tuple[int, int]


class PromptEncoder:
    """Turns an instruction into the prompt that OpenVLA-OFT was trained with."""

    def __init__(self, tokenizer_file: Path, vocab_size: int) -> None:
        """Raises CheckpointError if the file is missing, broken, or larger than the embedding."""
        # AutoTokenizer would stop at a question about the directory's remote code.
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        except Exception as error:  # tokenizers raises bare Exception
            raise CheckpointError(
                f"tokenizer file '{tokenizer_file}' cannot be read: {error}"
            ) from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if self._tokenizer.get_vocab_size() > vocab_size:
            raise CheckpointError(
                f"'{tokenizer_file}' has {self._tokenizer.get_vocab_size()} pieces, but "
                f"text_config says vocab_size {vocab_size}: they do not belong together"
            )
        self.empty_piece_id = self._find_empty_piece(vocab_size)
        self.encode = lru_cache(maxsize=256)(self._encode)

    def _find_empty_piece(self, vocab_size: int) -> int:
        # openvla-oft hard-codes the Llama-2 id; vocabularies too small for it have it elsewhere.
        if vocab_size > LLAMA_EMPTY_PIECE:
            return LLAMA_EMPTY_PIECE
        piece = self._tokenizer.token_to_id(_EMPTY_PIECE)
        if piece is None:
            raise CheckpointError("tokenizer.json has no lone '\u2581' piece to end a prompt with")
        return piece

    def _encode(self, instruction: str) -> Prompt:
        """Raises ObservationError for an empty instruction."""
        if not instruction.strip():
            raise ObservationError("the instruction is empty: say what the robot should do")
        try:
            instruction.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ObservationError(f"the instruction is no valid text: {error}") from None
        task = instruction.lower()
        text = f"{_BEFORE}{task}{_AFTER}"
        coded = self._tokenizer.encode(text)
        ids = list(coded.ids)
        if not ids or ids[0] != BOS_ID:
            ids.insert(0, BOS_ID)
        leading = len(ids) - len(coded.ids)
        first, last = len(_BEFORE), len(_BEFORE) + len(task)
        inside = [
            index + leading - 1
            for index, (begin, end) in enumerate(coded.offsets)
            if begin < last and end > first and end > begin
        ]
        if ids[-1] != self.empty_piece_id:
            ids.append(self.empty_piece_id)
        return Prompt(text, tuple(ids), (inside[0], inside[-1] + 1))
