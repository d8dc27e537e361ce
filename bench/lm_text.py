"""What a posted text does: python -m bench.lm_text --manifest data/dev/manifest.jsonl [--sets libri cv]

Each recording is decoded by beam_lm without a text and with `lm_text`: the references of other recordings of
its set, never its own. A set is dealt into five parts by turns; a recording gets the references of the four
parts that it is not in, less any sentence that its own part has, too. Per set and weight of the text's n-gram
in the mixture: WER, perplexity of the references, unknown words among them; and what it costs: seconds to
make the mixture, and milliseconds of processor time per second of audio to search with it. Writes
bench/results/lm_text.json.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from asr.decoding.array_ngram import ArrayNgram
from asr.decoding.options import DecodingOptions
from asr.decoding.posted_text import Fit, fit_of, mixed_in
from asr.recording import Posteriors
from asr.scoring import word_error_rate
from asr.transcriber import Transcriber
from training.manifest import Utterance, read_bytes, read_manifest

RESULTS = Path(__file__).parent / "results" / "lm_text.json"
PARTS = 5
WEIGHTS = [0.05, 0.1, 0.2, 0.3, 0.5, 0.7]


@dataclass(frozen=True)
class Heard:
    """A recording, and what the acoustic model hears in it."""

    reference: str
    posteriors: Posteriors
    duration_s: float


@dataclass
class Tally:
    """Of some recordings' decoding."""

    texts: list[str]
    fit: Fit
    n_unknown: int
    search_s: float
    made_s: list[float]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", help="default: all")
    parser.add_argument("--limit", type=int, help="recordings of a set, for a quick look")
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    transcriber = Transcriber.load(args.bundle, "cpu", engine="native")
    utterances = read_manifest(args.manifest)
    rows = []
    print("| set | words of text | weight | WER | perplexity | unknown words | made in, s | search, ms/s |")
    print("|---|---|---|---|---|---|---|---|")
    for name in args.sets or dict.fromkeys(u.set for u in utterances):
        recordings = [_hear(transcriber, u) for u in utterances if u.set == name][: args.limit]
        for weight in (0.0, *args.weights):
            row = {"set": name, "weight": weight} | _measured(transcriber, recordings, weight)
            rows.append(row)
            print(
                "| {set} | {words} | {weight:g} | {wer:.2%} | {perplexity:.0f} | {unknown} | {made_s:.2f} "
                "| {ms_per_s:.2f} |".format(**row),
                flush=True,
            )
    result = {"bundle": transcriber.sha256, "manifest": args.manifest.name, "rows": rows}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _hear(transcriber: Transcriber, utterance: Utterance) -> Heard:
    found = transcriber.listen(read_bytes(utterance))
    return Heard(utterance.text, found, found.duration_s)


def _measured(transcriber: Transcriber, recordings: Sequence[Heard], weight: float) -> dict[str, Any]:
    """weight 0: without a text."""
    lm = transcriber.lm
    assert isinstance(lm, ArrayNgram)
    found = Tally([], Fit(), 0, 0.0, [])
    references: list[str] = []
    n_words = []
    for part in range(PARTS):
        own = recordings[part::PARTS]
        said = {one.reference for one in own}
        others = [r.reference for i, r in enumerate(recordings) if i % PARTS != part]
        text = "\n".join(sentence for sentence in others if sentence not in said)
        mixed, receipt = mixed_in(lm, text, weight or 0.5)
        started = time.perf_counter()
        options = DecodingOptions("beam_lm")
        if weight:
            options = replace(options, lm_text=text, lm_text_weight=weight)
            transcriber.languages.of(options)
        found.made_s.append(time.perf_counter() - started if weight else 0.0)
        started = time.thread_time()
        found.texts += [transcriber.search(one.posteriors, options).hypotheses[0].text for one in own]
        found.search_s += time.thread_time() - started
        references += [one.reference for one in own]
        found.fit = found.fit.plus(fit_of(mixed, [one.reference for one in own]))
        model = mixed if weight else lm
        found.n_unknown += sum(model.parts(one.reference).n_unknown for one in own)
        n_words.append(receipt.words)
    perplexity = found.fit.perplexity_mixed if weight else found.fit.perplexity_alone
    return {
        "recordings": len(recordings),
        "words": round(sum(n_words) / PARTS),
        "wer": round(word_error_rate(references, found.texts, resamples=0).rate, 4),
        "perplexity": round(perplexity or 0.0, 1),
        "unknown": found.n_unknown,
        "made_s": round(max(found.made_s), 3),
        "ms_per_s": round(1000 * found.search_s / sum(one.duration_s for one in recordings), 2),
    }


if __name__ == "__main__":
    main()
