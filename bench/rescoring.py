"""GPT-2 rescoring, packed as token tries and not: python -m bench.rescoring [--bundle models/default]

CPU seconds for scoring one recording's n-best list of 50 (and of 10) in four ways, in turns in one process
on one thread, the least of the repeats: the texts one by one, as a padded batch (right-padded, texts of like
length together, at most 1024 tokens a batch), as token tries (what the product does), and all recordings'
lists as tries in one call; each in float32 and bfloat16. The largest difference is against one by one in
float32, in nats a text. Models: the bundle's own, and one of GPT-2 small's size, random. The lists
are beam search's on real recordings (a prepared manifest, or `speech/test` below ASR_DATA).
Results go to bench/results/rescoring.json.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import GPT2Config, GPT2LMHeadModel

from asr.decoding.options import DecodingOptions
from asr.decoding.rescoring import Gpt2Scorer, Precision, read_by_transformers
from asr.decoding.token_trie import packed
from asr.transcriber import Transcriber
from bench.real_time import _utterances
from training.manifest import read_bytes

RESULTS = Path(__file__).parent / "results" / "rescoring.json"
PADDED_TOKENS = 1024
LIST_SIZES = (10, 50)
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")

Lists = list[list[str]]  # one n-best list a recording


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--manifest", type=Path, help="default: speech/test below ASR_DATA")
    parser.add_argument("--recordings", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument(
        "--small", action=argparse.BooleanOptionalAction, default=True, help="GPT-2 small too"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    transcriber = Transcriber.load(args.bundle, "cpu")
    lists = _lists(transcriber, args.manifest, args.recordings)
    rows = [
        row
        for name, make in _models(transcriber, args.bundle, args.small).items()
        for row in _measure(name, make, lists, args.repeats)
    ]
    result = {
        "bundle": transcriber.sha256,
        "machine": platform.machine(),
        "recordings": len(lists),
        "words_per_text": round(sum(len(t.split()) for row in lists for t in row) / sum(map(len, lists)), 1),
        "rows": rows,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    _show(rows)


def _lists(transcriber: Transcriber, manifest: Path | None, wanted: int) -> Lists:
    """Beam search's lists of 50 texts, of the first recordings that have so many."""
    lists: Lists = []
    for utterance in _utterances(manifest, 20 * wanted):
        options = DecodingOptions("beam_lm", nbest=LIST_SIZES[-1])
        texts = [h.text for h in transcriber.transcribe(read_bytes(utterance), options).hypotheses]
        if len(texts) == LIST_SIZES[-1]:
            lists.append(texts)
        if len(lists) == wanted:
            return lists
    raise SystemExit(f"only {len(lists)} recordings have lists of {LIST_SIZES[-1]}")


def _models(
    transcriber: Transcriber, bundle: Path, small: bool
) -> dict[str, Callable[[Precision], Gpt2Scorer]]:
    models: dict[str, Callable[[Precision], Gpt2Scorer]] = {
        "the bundle's": lambda precision: Gpt2Scorer(
            *read_by_transformers(str(bundle / "gpt2"), True), "cpu", precision
        )
    }
    if small:
        models["GPT-2 small, random"] = lambda precision: _random_small(transcriber, precision)
    return models


def _random_small(transcriber: Transcriber, precision: Precision) -> Gpt2Scorer:
    """124 million seeded weights behind the bundle's tokenizer."""
    torch.manual_seed(0)
    return Gpt2Scorer(GPT2LMHeadModel(GPT2Config()), transcriber.gpt2._tokenizer, "cpu", precision)


def _measure(
    name: str, make: Callable[[Precision], Gpt2Scorer], lists: Lists, repeats: int
) -> list[dict[str, Any]]:
    rows = []
    exact: dict[int, list[float]] = {}
    for precision in PRECISIONS:
        scorer = make(precision)
        ways: dict[str, Callable[[Lists], list[float]]] = {
            "one by one": lambda ls, s=scorer: [x for row in ls for t in row for x in s.score([t])],
            "padded batch": lambda ls, s=scorer: [x for row in ls for x in _padded(s, row)],
            "tries": lambda ls, s=scorer: [x for row in ls for x in s.score(row)],
            "tries, all in one call": lambda ls, s=scorer: s.score([t for row in ls for t in row]),
        }
        for size in LIST_SIZES:
            short = [row[:size] for row in lists]
            taken: dict[str, float] = {}
            scores: dict[str, list[float]] = {}
            for _ in range(repeats):
                for way, function in ways.items():
                    began = time.process_time()
                    scores[way] = function(short)
                    seconds = (time.process_time() - began) / len(lists)
                    taken[way] = min(seconds, taken.get(way, seconds))
            exact.setdefault(size, scores["one by one"])
            for way in ways:
                rows.append(
                    {
                        "model": name,
                        "precision": precision,
                        "texts": size,
                        "way": way,
                        "cpu_s": round(taken[way], 4),
                        "times_padded": round(taken["padded batch"] / taken[way], 2),
                        "largest_difference": max(
                            abs(a - b) for a, b in zip(scores[way], exact[size], strict=True)
                        ),
                        "tokens_read": _tokens_read(scorer, short, way),
                    }
                )
    return rows


@torch.inference_mode()
def _padded(scorer: Gpt2Scorer, texts: Sequence[str]) -> list[float]:
    """The way before tries. B texts of a batch, L tokens."""
    inner = scorer._model
    found = [0.0] * len(texts)
    ids = [[scorer._begin_id, *scorer._encode(text), scorer._end_id] for text in texts]
    for batch in _batches(ids):
        longest = max(len(ids[i]) for i in batch)
        tokens_BL = torch.tensor([ids[i] + [scorer._end_id] * (longest - len(ids[i])) for i in batch])
        logits_BLV = inner(input_ids=tokens_BL[:, :-1], use_cache=False).logits.float()
        chosen_BL = logits_BLV.gather(2, tokens_BL[:, 1:, None])[:, :, 0] - logits_BLV.logsumexp(dim=2)
        for row, i in enumerate(batch):
            found[i] = float(chosen_BL[row, : len(ids[i]) - 1].double().sum())
    return found


def _batches(ids: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices of texts of like length."""
    batches: list[list[int]] = [[]]
    for i in sorted(range(len(ids)), key=lambda i: len(ids[i])):
        if batches[-1] and (len(batches[-1]) + 1) * len(ids[i]) > PADDED_TOKENS:
            batches.append([])
        batches[-1].append(i)
    return batches


def _tokens_read(scorer: Gpt2Scorer, lists: Lists, way: str) -> int:
    """Tokens that go through the model per recording, padding included."""
    total = 0
    for row in lists:
        ids = [scorer._encode(text) for text in row]
        if way.startswith("tries"):
            windows = [w for i, text in enumerate(ids) for w in scorer._windows(i, text)]
            total += sum(len(pack.inputs) for pack in packed(windows, 512))
        elif way == "padded batch":
            full = [[0, *text, 0] for text in ids]
            total += sum(len(b) * max(len(full[i]) - 1 for i in b) for b in _batches(full))
        else:
            total += sum(len(text) + 1 for text in ids)
    return total // len(lists)


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table(
        "model", "precision", "texts", "way", "tokens read", "CPU s", "x padded", "largest difference"
    )
    for row in rows:
        table.add_row(
            row["model"],
            row["precision"],
            str(row["texts"]),
            row["way"],
            str(row["tokens_read"]),
            f"{row['cpu_s']:.3f}",
            f"{row['times_padded']:.2f}",
            f"{row['largest_difference']:.1e}",
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
