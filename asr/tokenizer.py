"""SentencePiece pieces <-> CTC output ids.

The model file has no lone word mark and its `<unk>` slot, id 0, is the CTC blank: every SentencePiece id is
the CTC id, and nothing that the acoustic model can emit is a bare word break or an unknown (pyctcdecode
splits other beams' words where either is a mere rival; docs/decisions.md). `asr-train tokenizer` makes such
files, and loading refuses others, with one exception: published character models (`asr-train import-hf`)
have a separator between words. There the lone mark is that separator, and no other piece has a mark.
"""

from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from asr.errors import MismatchError, TextError

WORD_MARK = "\u2581"
BLANK_ID = 0


class Tokenizer:
    """Pieces of a SentencePiece model whose id 0 stands for the blank."""

    def __init__(self, model_proto: bytes) -> None:
        """Raises MismatchError when the model has a lone word mark or its unknown is not id 0."""
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model_proto)
        self.model_proto = model_proto
        self.blank_id = BLANK_ID
        self.vocab_size: int = self._processor.get_piece_size()  # CTC outputs, blank included
        self.pieces: list[str] = [""] + [self._processor.id_to_piece(i) for i in range(1, self.vocab_size)]
        if self._processor.unk_id() != BLANK_ID:
            raise MismatchError(f"the tokenizer's unknown piece must be id {BLANK_ID}")
        # Id of the label between words, None where pieces say themselves that they start one.
        self.separator_id: int | None = None
        if WORD_MARK in self.pieces:
            self.separator_id = self.pieces.index(WORD_MARK)
            if sum(WORD_MARK in piece for piece in self.pieces) > 1:
                raise MismatchError("the tokenizer has a lone word mark among its pieces")
        if any(
            self._processor.is_control(i) or self._processor.is_unknown(i) for i in range(1, self.vocab_size)
        ):
            raise MismatchError("the tokenizer has control pieces among its CTC outputs")

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        return cls(path.read_bytes())

    def encode(self, text: str) -> list[int]:
        """Ids of a normalised text, never the blank. Raises TextError naming what cannot be spelled."""
        ids: list[int] = self._processor.encode(text)
        if BLANK_ID in ids:
            ids = [i for word in text.split() for i in self._spelled(word)]
        return ids

    def _spelled(self, word: str) -> list[int]:
        """The best segmentation with no unknown; one with the word mark as an unknown can beat it."""
        best: list[int] = self._processor.encode(word)
        if BLANK_ID not in best:
            return best
        if self.separator_id is not None:
            raise TextError(f"the vocabulary cannot spell {word!r}")
        letters = [self._processor.piece_to_id(p) for p in [WORD_MARK + word[0], *word[1:]]]
        if BLANK_ID in letters:
            raise TextError(f"the vocabulary cannot spell {word!r}")
        candidates: list[list[int]] = self._processor.nbest_encode(word, nbest_size=100)
        return next((ids for ids in candidates if BLANK_ID not in ids), letters)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a sequence of ids without blanks."""
        return " ".join("".join(self.pieces[i] for i in ids).replace(WORD_MARK, " ").split())
