"""Beam search time against the number of hotwords: native, our scorer in pyctcdecode, and its own scorer.

    python -m bench.hotwords [--seconds 30] [--terms 0 10 100 1000] [--theirs-up-to 100]

Synthetic speech: random words over a 4,000-word bigram, a piece every other 40 ms frame, part of the mass on
wrong labels. Hotwords are half words that are spoken and half that are not; a third are two-word phrases.
"""

import argparse
import itertools
import random
import tempfile
import time
from pathlib import Path

import numpy as np
from pyctcdecode.language_model import HotwordScorer as PyctcdecodeScorer

from asr.decoding.arpa import read_model
from asr.decoding.array_ngram import ArrayNgram
from asr.decoding.native_beam import NativeBeamDecoder
from asr.decoding.ngram import NgramLM
from asr.decoding.options import DecodingSettings
from asr.decoding.posteriors import keep_best_tokens
from asr.decoding.pyctcdecode_beam import PyctcdecodeDecoder

MARK = "\u2581"
SETTINGS = DecodingSettings(alpha=0.5, beta=0.5, beam_width=100)


class TheirScorer(PyctcdecodeScorer):
    """pyctcdecode's, with the method that our search adds."""

    def forget_except(self, texts: object) -> None:
        """It remembers nothing."""


class SyllableTokenizer:
    """Letters and consonant-vowel pairs, each plain and at the start of a word."""

    def __init__(self) -> None:
        letters = "abcdefghijklmnopqrstuvwxyz"
        parts = [*letters, *(c + v for c in "bdfgklmnprstvz" for v in "aeiou")]
        self.pieces = ["", *parts, *(MARK + part for part in parts)]
        self.vocab_size, self.blank_id = len(self.pieces), 0
        self.separator_id: int | None = None
        self._ids = {piece: i for i, piece in enumerate(self.pieces)}

    def encode(self, text: str) -> list[int]:
        ids, rest = [], "".join(MARK + word for word in text.split())
        while rest:
            piece = next(rest[:n] for n in (3, 2, 1) if rest[:n] in self._ids)
            ids.append(self._ids[piece])
            rest = rest[len(piece) :]
        return ids


def make_lm(folder: Path, words: list[str], rng: random.Random) -> tuple[NgramLM, ArrayNgram]:
    pairs = sorted({(rng.choice(words), rng.choice(words)) for _ in range(20_000)})
    lines = ["\\data\\", f"ngram 1={len(words) + 3}", f"ngram 2={len(pairs)}", "", "\\1-grams:"]
    lines += ["-6\t<unk>", "-99\t<s>\t-0.3", "-1.5\t</s>"]
    lines += [f"{-2.5 - 2 * rng.random():.3f}\t{word}\t-0.3" for word in words]
    lines += [
        "",
        "\\2-grams:",
        *(f"{-0.5 - 2 * rng.random():.3f}\t{a} {b}" for a, b in pairs),
        "",
        "\\end\\",
        "",
    ]
    (folder / "lm.arpa").write_text("\n".join(lines))
    (folder / "words.txt").write_text("\n".join(words))
    arrays = ArrayNgram.of(read_model(folder / "lm.arpa"))
    return NgramLM.load(folder / "lm.arpa", folder / "words.txt"), arrays


def make_posteriors(tokenizer: SyllableTokenizer, text: str, n_frames: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    labels = [label for i in tokenizer.encode(text) for label in (i, 0)][:n_frames]
    logits = rng.normal(scale=1.5, size=(len(labels), tokenizer.vocab_size))
    logits[np.arange(len(labels)), labels] += 9.5
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--terms", type=int, nargs="+", default=[0, 10, 100, 1000])
    parser.add_argument(
        "--theirs-up-to", type=int, default=100, help="their scorer is not run with more terms"
    )
    args = parser.parse_args()

    rng = random.Random(0)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    words = sorted({"".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(6000)})
    rng.shuffle(words)
    vocabulary, unheard = words[:4000], words[4000:]
    tokenizer = SyllableTokenizer()
    spoken = [rng.choice(vocabulary) for _ in range(2000)]
    log_probs = make_posteriors(tokenizer, " ".join(spoken), int(args.seconds / 0.04))
    terms = list(itertools.chain.from_iterable(zip(spoken, unheard * 2, strict=False)))
    following = enumerate(itertools.pairwise(terms))
    terms = [f"{term} {other}" if i % 3 == 0 else term for i, (term, other) in following]
    with tempfile.TemporaryDirectory() as folder:
        lm, arrays = make_lm(Path(folder), vocabulary, rng)
    native = NativeBeamDecoder(tokenizer, arrays, SETTINGS)  # type: ignore[arg-type]
    decoder = PyctcdecodeDecoder(tokenizer, lm, SETTINGS)  # type: ignore[arg-type]
    kept = keep_best_tokens(log_probs, SETTINGS.token_min_logp, SETTINGS.max_tokens_per_frame)
    per_frame = np.isfinite(kept).sum() / len(kept)
    print(f"{len(log_probs)} frames, {per_frame:.1f} tokens a frame, beam {SETTINGS.beam_width}")
    print("| hotwords | native, CPU s | our scorer in pyctcdecode, CPU s | pyctcdecode's, CPU s |")
    print("|---|---|---|---|")
    for n in args.terms:
        started = time.process_time()
        native.decode(log_probs, hotwords=terms[:n])
        compiled = time.process_time() - started
        started = time.process_time()
        decoder.decode(log_probs, hotwords=terms[:n])
        ours = time.process_time() - started
        theirs = "-"
        if n <= args.theirs_up_to:
            started = time.process_time()
            scorer = TheirScorer.build_scorer(terms[:n], weight=SETTINGS.hotword_weight)
            decoder._search.run(iter(kept), scorer, SETTINGS)
            theirs = f"{time.process_time() - started:.2f}"
        print(f"| {n} | {compiled:.3f} | {ours:.2f} | {theirs} |", flush=True)


if __name__ == "__main__":
    main()
