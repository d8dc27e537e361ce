"""Train the BPE vocabulary on transcripts: asr-train tokenizer --manifest data/train/manifest.jsonl --out runs/bpe

Writes `tokenizer.model` (SentencePiece) and `pieces.txt`. The trained model is edited so that every piece can be a CTC
output: the lone word mark is taken out, and each letter gets a word-initial piece in its place, so that any a-z text can
still be spelled. `--vocab-size` counts the CTC outputs, blank included.
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
    texts = (u.text for path in args.manifest for u in read_manifest(path))
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

    Raises ValueError when the texts are too few or the size too small for the alphabet's 54 single-letter pieces.
    """
    counted = _with_alphabet(list(dict.fromkeys(texts)))  # a prompt read by many speakers counts once
    smallest = 1 + 2 * len(ALPHABET)
    if kind == "char":
        vocab_size = smallest
    if vocab_size < smallest:
        raise ValueError(
            f"a vocabulary of {vocab_size} is too small: blank and single letters make {smallest}"
        )
    size = vocab_size
    while (
        True
    ):  # the edit adds as many pieces as the trained model lacks word-initial letters: ask for that many less
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(counted),
                model_writer=model,
                model_type="unigram" if kind == "char" else kind,
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
            raise ValueError(
                f"no vocabulary of {vocab_size} pieces can be made from these texts: {error}"
            ) from error
        edited = _without_lone_mark(model.getvalue())
        excess = Tokenizer(edited).vocab_size - vocab_size
        if excess == 0:
            return Tokenizer(edited)
        if excess < 0 and size != vocab_size:
            raise ValueError(f"these texts give only {Tokenizer(edited).vocab_size} pieces, not {vocab_size}")
        size -= excess


def _with_alphabet(texts: list[str]) -> list[str]:
    """The texts, and every letter once at the start of a word and once inside one: the alphabet is always complete."""
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
