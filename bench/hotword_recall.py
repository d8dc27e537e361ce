"""What hotwords find and make up: python -m bench.hotword_recall --manifest data/test/manifest.jsonl

Rare words are those of the references that the n-gram does not know, or gives less than 10^-6 at a
sentence's start. Each recording that holds one is decoded by beam_lm with its rare words and 1,000
distractors as hotwords: rare words of the vocabulary that nobody says. Per set and weight: the share of rare
words that was written, distractors written per 1,000 words of reference, and WER. Weight 0 is without
hotwords. Writes bench/results/hotword_recall.json.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from asr.decoding.array_ngram import ArrayNgram
from asr.decoding.options import DecodingOptions
from asr.scoring import word_error_rate
from asr.transcriber import Posteriors, Transcriber
from training.manifest import Utterance, read_bytes, read_manifest

RESULTS = Path(__file__).parent / "results" / "hotword_recall.json"
RARE_LOGP = -6.0 * float(np.log(10.0))  # natural logarithm, of a word at a sentence's start
DISTRACTORS = 1000


@dataclass(frozen=True)
class Case:
    """A recording with rare words in it."""

    reference: str
    posteriors: Posteriors
    rare: tuple[str, ...]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 14.0])
    parser.add_argument("--distractors", type=int, default=DISTRACTORS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    transcriber = Transcriber.load(args.bundle, "cpu")
    lm = transcriber.lm
    assert isinstance(lm, ArrayNgram)
    utterances = read_manifest(args.manifest)
    distractors = _distractors(lm, utterances, args.distractors)
    print("| set | recordings | rare words | weight | found | distractors per 1,000 words | WER |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for name in dict.fromkeys(u.set for u in utterances):
        cases = _cases(transcriber, lm, [u for u in utterances if u.set == name])
        for weight in args.weights if cases else ():
            row = {"set": name, "weight": weight} | _measured(transcriber, cases, distractors, weight)
            rows.append(row)
            print(
                f"| {name} | {row['recordings']} | {row['rare_words']} | {weight:g} | {row['recall']:.1%} "
                f"| {row['distractors_per_1000']:.2f} | {row['wer']:.1%} |",
                flush=True,
            )
    result = {"bundle": transcriber.sha256, "distractors": len(distractors), "rows": rows}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _logp(lm: ArrayNgram, word: str) -> float:
    """Of the word at a sentence's start; -inf where it is unknown."""
    return lm.advance(lm.start_state(), word)[0] if word in lm else -np.inf


def _cases(transcriber: Transcriber, lm: ArrayNgram, utterances: Sequence[Utterance]) -> list[Case]:
    found = []
    for utterance in utterances:
        rare = tuple(sorted({word for word in utterance.text.split() if _logp(lm, word) < RARE_LOGP}))
        if rare:
            found.append(Case(utterance.text, transcriber.listen(read_bytes(utterance)), rare))
    return found


def _distractors(lm: ArrayNgram, utterances: Sequence[Utterance], count: int) -> list[str]:
    spoken = {word for utterance in utterances for word in utterance.text.split()}
    rare = [w for w in sorted(lm.words) if w not in spoken and len(w) > 3 and _logp(lm, w) < RARE_LOGP]
    return rare[:: max(1, len(rare) // count)][:count]


def _measured(
    transcriber: Transcriber, cases: Sequence[Case], distractors: Sequence[str], weight: float
) -> dict[str, float]:
    texts, n_found, n_false = [], 0, 0
    for case in cases:
        terms = (*case.rare, *distractors) if weight else ()
        options = DecodingOptions("beam_lm", hotwords=terms, hotword_weight=weight)
        text = transcriber.decode(case.posteriors, options).text
        texts.append(text)
        written, said = Counter(text.split()), Counter(case.reference.split())
        n_found += sum(min(written[word], said[word]) for word in case.rare)
        n_false += sum(written[word] for word in distractors)
    references = [case.reference for case in cases]
    n_rare = sum(Counter(case.reference.split())[word] for case in cases for word in case.rare)
    n_words = sum(len(reference.split()) for reference in references)
    return {
        "recordings": len(cases),
        "rare_words": n_rare,
        "recall": round(n_found / n_rare, 4),
        "distractors_per_1000": round(1000 * n_false / n_words, 3),
        "wer": round(word_error_rate(references, texts, resamples=0).rate, 4),
    }


if __name__ == "__main__":
    main()
