"""Which tokenizers beam search takes."""

import re

from asr.errors import MismatchError
from asr.tokenizer import WORD_MARK, Tokenizer

_SPECIAL_PIECE = re.compile(r"[<\[].*[>\]]|.*\u2047.*|##.*|.*\s.*|.+\u2581.*|\u2581|")


def check_pieces(tokenizer: Tokenizer) -> None:
    """Raises MismatchError for a lone word mark that is no separator, an unknown, or a special piece."""
    pieces = tokenizer.pieces
    marks = (tokenizer.blank_id, tokenizer.separator_id)
    tokens = [piece for i, piece in enumerate(pieces) if i not in marks]
    if len(pieces) != tokenizer.vocab_size or pieces[tokenizer.blank_id] != "":
        raise MismatchError("the tokenizer's pieces must be one per CTC output, the blank's empty")
    if special := [piece for piece in tokens if _SPECIAL_PIECE.fullmatch(piece)]:
        raise MismatchError(
            f"beam search cannot use the pieces {special[:5]}: they are no plain parts of words"
        )
    if len(set(tokens)) != len(tokens):
        raise MismatchError("the tokenizer has the same piece twice")
    if tokenizer.separator_id is None and not any(piece.startswith(WORD_MARK) for piece in tokens):
        raise MismatchError(f"no piece of the tokenizer starts a word with {WORD_MARK}")
