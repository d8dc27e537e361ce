"""Train the BPE vocabulary on transcripts: asr-train tokenizer --manifest data/train/manifest.jsonl --out
runs/bpe

Writes `tokenizer.model` (SentencePiece) and `pieces.txt`. The trained model is edited so that every piece
can be a CTC
output: the lone word mark is taken out, and each letter gets a word-initial piece in its place, so that any
a-z text can still be spelled. `--vocab-size` counts the CTC outputs, blank included.
"""

import argparse
import io
import string
from collections.abc import Iterable
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from asr.text import ALPHABET
from asr.tokenizer import WORD_MARK, Tokenizer
from training.manifest import read_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--manifest", type=Path, nargs="+", required=True, help="prepared manifests to read texts from"
    )
    parser.add_argument("--vocab-size", type=int, default=256, help="CTC outputs, blank included")
    parser.add_argument("--kind", choices=("unigram", "bpe", "char"), default="unigram")
    parser.add_argument("--max-piece-length", type=int, default=6, help="characters, word mark included")
    parser.add_argument("--out", type=Path, required=True, help="folder to write tokenizer.model into")


def main(args: argparse.Namespace) -> None:
    texts = (u.text for path in args.manifest for u in read_manifest(path) if u.text)
    tokenizer = train_tokenizer(
        texts, args.vocab_size, kind=args.kind, max_piece_length=args.max_piece_length
    )
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "tokenizer.model").write_bytes(tokenizer.model_proto)
    (args.out / "pieces.txt").write_text("\n".join(tokenizer.pieces[1:]) + "\n", encoding="utf-8")
    print(f"{tokenizer.vocab_size} CTC outputs, blank included -> {args.out / 'tokenizer.model'}")


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, kind: str = "unigram", max_piece_length: int = 6
) -> Tokenizer:
    """A tokenizer of exactly `vocab_size` CTC outputs, blank included.

    Raises ValueError when the texts are too few or the size too small for the alphabet's 54 single-letter
    pieces.
    """
    counted = _with_alphabet(list(dict.fromkeys(texts)))  # a prompt read by many speakers counts once
    smallest = 1 + 2 * len(ALPHABET)
    if kind == "char":
        vocab_size = smallest
    if vocab_size < smallest:
        raise ValueError(
            f"a vocabulary of {vocab_size} is too small: blank and single letters make {smallest}"
        )
    size, larger = vocab_size, b""
    while (
        True
    ):  # the edit adds as many pieces as the model lacks word-initial letters: ask for that many less
        edited = _without_lone_mark(
            _trained(counted, size, "unigram" if kind == "char" else kind, max_piece_length)
        )
        excess = Tokenizer(edited).vocab_size - vocab_size
        if excess == 0:
            return Tokenizer(edited)
        if excess < 0:
            if not larger:
                raise ValueError(f"these texts give only {vocab_size + excess} pieces, not {vocab_size}")
            return Tokenizer(_without_rarest(larger, vocab_size))
        size, larger = size - excess, edited


def _trained(texts: list[str], size: int, kind: str, max_piece_length: int) -> bytes:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type=kind,
            vocab_size=size,
            character_coverage=1.0,
            max_sentencepiece_length=max_piece_length,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            hard_vocab_limit=kind != "unigram",
            normalization_rule_name="identity",
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"no vocabulary of {size} pieces can be made from these texts: {error}") from error
    return model.getvalue()


def _with_alphabet(texts: list[str]) -> list[str]:
    """The texts, and every letter once at the start of a word and once inside one:

    the alphabet is always complete.
    """
    return [*texts, *(f"{c} {c}{d}" for c, d in zip(ALPHABET, ALPHABET[1:] + ALPHABET[0], strict=True))]


def _without_lone_mark(model_proto: bytes) -> bytes:
    """The model with the lone word mark replaced by a word-initial piece for each letter that lacks one."""
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(model_proto)
    pieces = list(model.pieces)
    present = {p.piece for p in pieces}
    mark_score = next((p.score for p in pieces if p.piece == WORD_MARK), -10.0)
    letter_scores = {p.piece: p.score for p in pieces if len(p.piece) == 1}
    kept = [p for p in pieces if p.piece != WORD_MARK]
    lowest = min(p.score for p in kept)
    del model.pieces[:]
    model.pieces.extend(kept)
    for letter in ALPHABET:
        if WORD_MARK + letter not in present:
            model.pieces.add(
                piece=WORD_MARK + letter, score=min(lowest, mark_score + letter_scores.get(letter, lowest))
            )
    assert set(string.ascii_lowercase) <= {p.piece for p in model.pieces}
    encoded: bytes = model.SerializeToString()
    return encoded


def _without_rarest(model_proto: bytes, vocab_size: int) -> bytes:
    """The model cut to `vocab_size` by leaving out the lowest-scored pieces of several letters."""
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(model_proto)
    longer = [p for p in model.pieces[1:] if len(p.piece.removeprefix(WORD_MARK)) > 1]
    dropped = {
        p.piece for p in sorted(longer, key=lambda p: (p.score, p.piece))[: len(model.pieces) - vocab_size]
    }
    kept = [p for p in model.pieces if p.piece not in dropped]
    del model.pieces[:]
    model.pieces.extend(kept)
    encoded: bytes = model.SerializeToString()
    return encoded
