"""What beam search gains when each known word may be spelled in one way only, and what dead ends it meets.

    python -m bench.spellings --manifest data/dev/manifest.jsonl --beam-widths 100 200

Ours adds up every cut of a word into pieces; flashlight's lexicon holds the tokenizer's own cut alone. Here
the same search runs on a trie over pieces instead of letters, so that any other cut is an unknown word. This
is a measurement, not an engine: it has no hotwords.
Prints WER per set and how many unknown words were written.
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from asr.decoding import prefix_search
from asr.decoding.array_ngram import ArrayNgram
from asr.decoding.native_beam import NativeBeamDecoder
from asr.decoding.options import DecodingSettings
from asr.decoding.word_trie import build_trie
from asr.errors import TextError
from asr.scoring import word_errors
from asr.tokenizer import Tokenizer
from bench.decoding import listened, loaded
from training.manifest import read_manifest


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    transcriber, lm = loaded(args.bundle)
    tokenizer = transcriber.tokenizer
    utterances = [u for u in read_manifest(args.manifest) if u.text]
    log_probs = listened(transcriber, utterances, args.cache)
    for width in args.beam_widths:
        settings = replace(transcriber.settings, beam_width=width, **_given(args))
        for name, make in (("every spelling", NativeBeamDecoder), ("one spelling", one_spelling)):
            decoder, began = make(tokenizer, lm, settings), time.process_time()
            texts = [decoder.decode(log_probs_TV)[0].text for log_probs_TV in log_probs]
            seconds = time.process_time() - began
            errors: Counter[str] = Counter()
            words: Counter[str] = Counter()
            for utterance, text in zip(utterances, texts, strict=True):
                errors[utterance.set] += word_errors(utterance.text, text)
                words[utterance.set] += len(utterance.text.split())
            wers = " ".join(f"{s} {errors[s] / words[s]:.2%}" for s in sorted(words))
            unknown = sorted(_unknown(texts, lm), key=len)
            strangers = f"{len(unknown)} unknown words {unknown[-3:]}"
            print(f"beam {width}, {name}: {wers}; {strangers}, {seconds:.1f} s", flush=True)


def one_spelling(tokenizer: Tokenizer, lm: ArrayNgram, settings: DecodingSettings) -> NativeBeamDecoder:
    """A decoder that knows words only as the tokenizer itself cuts them; without hotwords."""
    decoder = NativeBeamDecoder(tokenizer, lm, settings)
    search, n_outputs = decoder._search, tokenizer.vocab_size
    spelled, words = [], []
    for word in lm.sorted_words:
        try:
            # A piece is a letter of this alphabet, which has no "\0": tries take that for a word's end.
            spelled.append("".join(chr(i + 1) for i in tokenizer.encode(word)))
        except TextError:
            continue
        words.append(word)
    numbers = np.array([lm.number(word) for word in words], np.int64)
    codes = {chr(i + 1): i + 1 for i in range(n_outputs)}
    trie = build_trie(spelled, numbers, search.weights.alpha * lm.unigrams(numbers), codes)
    pieces = search.pieces._replace(
        letters=np.arange(1, n_outputs + 1, dtype=np.int32),
        first=np.arange(n_outputs + 1, dtype=np.int32),
        factor=np.full(n_outputs, prefix_search.FACTOR, np.uint64),
        term=np.arange(2, n_outputs + 2, dtype=np.uint64),
        trie=np.zeros(n_outputs, np.int32),
    )
    prefix_search.place_pieces(trie, pieces)
    decoder._search = search._replace(trie=trie, pieces=pieces)
    return decoder


def _unknown(texts: Iterable[str], lm: ArrayNgram) -> list[str]:
    return [word for text in texts for word in text.split() if word not in lm]


def _given(args: argparse.Namespace) -> dict[str, float]:
    names = {"alpha": "alpha", "beta": "beta", "token_min": "token_min_logp"}
    return {field: getattr(args, name) for name, field in names.items() if getattr(args, name) is not None}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs/tune"), help="log-probabilities, as of tune")
    parser.add_argument("--beam-widths", type=int, nargs="+", default=[200])
    parser.add_argument("--alpha", type=float, help="instead of the bundle's, as the next two")
    parser.add_argument("--beta", type=float)
    parser.add_argument("--token-min", type=float)
    return parser.parse_args()


if __name__ == "__main__":
    main()
