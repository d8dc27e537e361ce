"""Beam search beside pyctcdecode and flashlight-text: CPU time, WER, flat posteriors, threads, hotwords.

    pip install '.[bench]'
    python -m bench.decoding --dev data/dev/manifest.jsonl --test data/test/manifest.jsonl --set cv

All engines get the same log-probabilities (heard once, kept under --cache; divided by the labels' prior where
the bundle does so) and the same n-gram, the bundle's (its arrays are written as ARPA for KenLM). Beam 100;
each engine's alpha and beta are tuned on dev, from the bundle's on to better neighbours until there is none;
--weights takes those that an earlier run wrote, which spares most of its time.
Then all decode test in turns, utterance by utterance, on one thread. CPU time is the process's. Where the
bundle's model hears phones, `native+phones` is all that the service does for `beam_lm`: a search over phones
beside it where the bundle says so (beam 100, too), and both lists' texts scored by pieces and phones.
Prints a table and writes --out.
"""

import argparse
import functools
import json
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr.acoustic.phones import split_rows
from asr.bundle import UNIGRAMS
from asr.decoding.array_ngram import ArrayNgram
from asr.decoding.languages import Languages
from asr.decoding.native_beam import NativeBeamDecoder
from asr.decoding.ngram import NgramLM
from asr.decoding.options import DEFAULT_LM, DecodingSettings
from asr.decoding.posteriors import divided_by_prior
from asr.decoding.two_searches import search_both
from asr.pronunciation import Pronunciations
from asr.scoring import word_errors
from asr.tokenizer import Tokenizer
from asr.transcriber import Transcriber
from bench.rival_decoders import Decode, FlashlightLexicon, arpa_of, pyctcdecode
from training.manifest import Utterance, read_bytes, read_manifest
from training.tuning_cache import LogProbs, TuningCache

# Of a step in alpha (a factor) and in beta, in search of the best: first long ones, then short ones.
STEPS = ((1.2, 0.6), (1.08, 0.25))
FLAT_S = 30.0
HOTWORDS = 1000
ROUNDS = 5


@dataclass(frozen=True)
class Heard:
    """A set of recordings as posteriors: rows of pieces and, where the model hears them, phones."""

    log_probs: Sequence[np.ndarray]  # (T, V + 2P) each, see `asr.acoustic.phones`
    references: Sequence[str]
    duration_s: float

    @property
    def words(self) -> int:
        return sum(len(reference.split()) for reference in self.references)


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    transcriber, lm = loaded(args.bundle)
    tokenizer = transcriber.tokenizer
    dev, test = (_heard(transcriber, m, args) for m in (args.dev, args.test))
    # `_heard` has divided by the prior already, for all engines.
    base = replace(transcriber.settings, beam_width=100, prior_weight=None, label_prior=None)
    arpa = args.cache / f"{lm_name(transcriber)}.arpa"
    if not arpa.exists():
        arpa_of(lm, arpa)
    kenlm = NgramLM.load(arpa, args.bundle / UNIGRAMS)
    makers = {"native": lambda settings: _native(NativeBeamDecoder(tokenizer, lm, settings))}
    if (pronunciations := transcriber.pronunciations) is not None:
        makers["native+phones"] = lambda settings: _as_served(tokenizer, lm, pronunciations, settings)
    makers["pyctcdecode"] = lambda settings: pyctcdecode(tokenizer, kenlm, settings)
    if not args.no_flashlight:
        makers["flashlight"] = FlashlightLexicon(tokenizer, sorted(lm.words), arpa).decode
    for name in makers.keys() - {"native+phones"}:
        makers[name] = functools.partial(_of_pieces, makers[name], tokenizer.vocab_size)
    tuned = _weighted(base, args.weights) if args.weights else {}
    tuned = {name: tuned.get(name) or _tuned(make, dev, base, name) for name, make in makers.items()}
    decoders = {name: makers[name](settings) for name, settings in tuned.items()}
    for decode in decoders.values():
        decode(test.log_probs[0])  # compiles what making it has not
    rows = _side_by_side(decoders, test)
    flat = _flat(tokenizer.vocab_size, test.log_probs[0].shape[1], transcriber.frame_s)
    flat_s = _in_turns(decoders, flat)
    for name, decode in decoders.items():
        rows[name]["flat_ms_per_s"] = round(1000 * flat_s[name] / FLAT_S, 2)
        if name != "pyctcdecode":  # Python throughout, under the GIL
            rows[name]["two_threads"] = round(_two_threads(decode, test), 2)
        rows[name] |= {"alpha": tuned[name].alpha, "beta": tuned[name].beta}
    pieces = [_pieces(rows_TC, tokenizer.vocab_size) for rows_TC in test.log_probs]
    searcher = NativeBeamDecoder(tokenizer, lm, tuned["native"])
    hotwords = {"native": _hotwords(searcher.decode, lm, replace(test, log_probs=pieces))}
    if pronunciations is not None:
        served = _as_served(tokenizer, lm, pronunciations, tuned["native+phones"])
        hotwords["native+phones"] = _hotwords(served, lm, test)
    report = {
        "command": shlex.join(["python", "-m", "bench.decoding", *sys.argv[1:]]),
        "machine": platform.processor() or platform.machine(),
        "bundle": transcriber.sha256,
        "test": {"set": args.set, "utterances": len(test.references), "seconds": round(test.duration_s, 1)},
        "engines": rows,
        "hotwords": hotwords,
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _print(report)


def loaded(bundle: Path) -> tuple[Transcriber, ArrayNgram]:
    """A bundle's models, and its n-gram. Ends the program where that is none in arrays."""
    transcriber = Transcriber.load(bundle, "cpu")
    if not isinstance(transcriber.lm, ArrayNgram):
        raise SystemExit(f"{bundle} holds no n-gram in arrays: make it again with `asr-train ngram`")
    return transcriber, transcriber.lm


def listened(transcriber: Transcriber, utterances: Sequence[Utterance], folder: Path) -> LogProbs:
    """The pieces that the acoustic model hears in recordings, kept in a folder."""
    rows = listened_rows(transcriber, utterances, folder)
    return [_pieces(rows_TC, transcriber.tokenizer.vocab_size) for rows_TC in rows]


def listened_rows(transcriber: Transcriber, utterances: Sequence[Utterance], folder: Path) -> LogProbs:
    """The same with the phones."""
    cache = TuningCache(folder, transcriber.bundle, utterances)
    return cache.log_probs(lambda: [transcriber.listen(read_bytes(u)).rows for u in utterances])


def lm_name(transcriber: Transcriber) -> str:
    return transcriber.bundle.files["ngram.arrays"].sha256[:16]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--dev", type=Path, required=True, help="manifest to tune on")
    parser.add_argument("--test", type=Path, required=True, help="manifest to measure on")
    parser.add_argument("--set", default="cv", help="of both manifests")
    parser.add_argument("--limit", type=int, help="only so many utterances of each")
    parser.add_argument("--weights", type=Path, help="an earlier run's --out, instead of tuning")
    parser.add_argument("--cache", type=Path, default=Path("runs/bench-decoding"))
    parser.add_argument("--no-flashlight", action="store_true", help="where it is not installed")
    parser.add_argument("--out", type=Path, default=Path("bench/results/decoding.json"))
    return parser.parse_args()


def _heard(transcriber: Transcriber, manifest: Path, args: argparse.Namespace) -> Heard:
    utterances: list[Utterance] = [u for u in read_manifest(manifest) if u.set == args.set][: args.limit]
    rows = listened_rows(transcriber, utterances, args.cache)
    settings, n_pieces = transcriber.settings, transcriber.tokenizer.vocab_size
    if settings.prior_weight and settings.label_prior:
        prior_V = np.array(settings.label_prior)
        pieces = [divided_by_prior(rows_TC[:, :n_pieces], prior_V, settings.prior_weight) for rows_TC in rows]
        rows = [
            np.concatenate([pieces_TV, rows_TC[:, n_pieces:]], axis=1)
            for pieces_TV, rows_TC in zip(pieces, rows, strict=True)
        ]
    return Heard(rows, [u.text for u in utterances], sum(u.duration_s for u in utterances))


def _native(decoder: NativeBeamDecoder) -> Decode:
    return lambda log_probs_TV: [h.text for h in decoder.decode(log_probs_TV)]


def _of_pieces(make: Any, n_pieces: int, settings: DecodingSettings) -> Decode:
    """An engine that reads nothing but pieces."""
    decode: Decode = make(settings)
    return lambda rows_TC: decode(_pieces(rows_TC, n_pieces))


def _pieces(rows_TC: np.ndarray, n_pieces: int) -> np.ndarray:
    return np.ascontiguousarray(rows_TC[:, :n_pieces])


def _as_served(
    tokenizer: Tokenizer, lm: ArrayNgram, pronunciations: Pronunciations, settings: DecodingSettings
) -> Decode:
    if settings.phone_beam_width:
        settings = replace(settings, phone_beam_width=settings.beam_width)
    languages = Languages(tokenizer, {DEFAULT_LM: lm}, settings, pronunciations=pronunciations)

    def decode(rows_TC: np.ndarray, hotwords: Sequence[str] = ()) -> list[str]:
        pieces_TV, phones_TP = split_rows(rows_TC, tokenizer.vocab_size)
        language = languages.default
        found = search_both(language, pieces_TV, phones_TP, pronunciations, settings, hotwords=hotwords)
        return [h.text for h in found]

    return decode


def _weighted(base: DecodingSettings, earlier: Path) -> dict[str, DecodingSettings]:
    """By engine, with the alpha and beta of an earlier run's report."""
    engines = json.loads(earlier.read_text(encoding="utf-8"))["engines"]
    return {name: replace(base, alpha=row["alpha"], beta=row["beta"]) for name, row in engines.items()}


def _tuned(make: Any, dev: Heard, base: DecodingSettings, name: str) -> DecodingSettings:
    """The best alpha and beta on dev: the bundle's were tuned for one of the engines."""

    @functools.cache
    def errors(alpha: float, beta: float) -> int:
        decode = make(replace(base, alpha=alpha, beta=beta))
        texts = [decode(log_probs_TV)[0] for log_probs_TV in dev.log_probs]
        return sum(word_errors(r, t) for r, t in zip(dev.references, texts, strict=True))

    best = (base.alpha, base.beta)
    for factor, step in STEPS:
        moved = True
        while moved:
            around = [
                (round(best[0] * factor**i, 6), round(best[1] + step * j, 6))
                for i in (-1, 0, 1)
                for j in (-1, 0, 1)
            ]
            nearest = min(around, key=lambda point: errors(*point))
            moved = errors(*nearest) < errors(*best)
            best = nearest if moved else best
    alpha, beta = best
    print(
        f"{name}: alpha {alpha:.3f} beta {beta:.2f}, dev WER {errors(*best) / dev.words:.2%} "
        f"({errors.cache_info().currsize} settings tried)",
        flush=True,
    )
    return replace(base, alpha=alpha, beta=beta)


def _side_by_side(decoders: Mapping[str, Decode], test: Heard) -> dict[str, dict[str, Any]]:
    """All engines on each utterance in turns, so that a busy machine is busy for all of them."""
    seconds, errors, oracle = (dict.fromkeys(decoders, 0.0) for _ in range(3))
    for log_probs_TV, reference in zip(test.log_probs, test.references, strict=True):
        for name, decode in decoders.items():
            started = time.process_time()
            texts = decode(log_probs_TV)
            seconds[name] += time.process_time() - started
            errors[name] += word_errors(reference, texts[0])
            oracle[name] += min(word_errors(reference, text) for text in texts)
    return {
        name: {
            "ms_per_s": round(1000 * seconds[name] / test.duration_s, 2),
            "wer": round(errors[name] / test.words, 4),
            "oracle_wer": round(oracle[name] / test.words, 4),
        }
        for name in decoders
    }


def _flat(n_pieces: int, n_columns: int, frame_s: float) -> np.ndarray:
    """Posteriors with every label within e^-5 of the best."""
    logits = np.random.default_rng(0).uniform(-5.0, 0.0, size=(round(FLAT_S / frame_s), n_columns))
    pieces_TV, phones_TP = split_rows(logits, n_pieces)
    pieces_TV = pieces_TV - np.logaddexp.reduce(pieces_TV, axis=1, keepdims=True)
    if phones_TP.size:
        phones_TP = phones_TP - np.logaddexp.reduce(phones_TP, axis=1, keepdims=True)
    rows_TC = np.concatenate([pieces_TV, phones_TP.reshape(len(logits), -1)], axis=1)
    return rows_TC.astype(np.float32)  # as models hear


def _in_turns(decoders: Mapping[str, Decode], rows_TC: np.ndarray) -> dict[str, float]:
    """CPU seconds of one recording by each engine, the median of `ROUNDS` turns."""
    taken: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(ROUNDS):
        for name, decode in decoders.items():
            started = time.process_time()
            decode(rows_TC)
            taken[name].append(time.process_time() - started)
    return {name: float(np.median(seconds)) for name, seconds in taken.items()}


def _two_threads(decode: Decode, test: Heard) -> float:
    """How many times the throughput of one thread two have, each at its best of some rounds in turns.

    2 needs two cores with nothing else to do.
    """
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for n, taken in seconds.items():
            started = time.perf_counter()
            with ThreadPoolExecutor(n) as pool:
                list(pool.map(decode, test.log_probs))
            taken.append(time.perf_counter() - started)
    return min(seconds[1]) / min(seconds[2])


def _hotwords(decode: Any, lm: ArrayNgram, test: Heard) -> dict[str, Any]:
    """CPU time with 1,000 words that nobody says against none, in turns; median of `ROUNDS` each."""
    spoken = {word for reference in test.references for word in reference.split()}
    terms = [word for word in sorted(lm.words) if word not in spoken and len(word) > 3]
    terms = terms[:: len(terms) // HOTWORDS][:HOTWORDS]
    taken: dict[int, list[float]] = {0: [], len(terms): []}
    for _ in range(ROUNDS):
        for n, given in ((0, []), (len(terms), terms)):
            started = time.process_time()
            for log_probs_TV in test.log_probs:
                decode(log_probs_TV, hotwords=given)
            taken[n].append(time.process_time() - started)
    none, many = (1000 * float(np.median(t)) / test.duration_s for t in taken.values())
    return {
        "terms": len(terms),
        "none_ms_per_s": round(none, 2),
        "ms_per_s": round(many, 2),
        "times": round(many / none, 2),
    }


def _print(report: dict[str, Any]) -> None:
    print("| engine | CPU ms per s of audio | flat posteriors | two threads / one | WER | oracle WER |")
    print("|---|---|---|---|---|---|")
    for name, row in report["engines"].items():
        print(
            f"| {name} | {row['ms_per_s']} | {row['flat_ms_per_s']} | {row.get('two_threads', '')} "
            f"| {row['wer']:.2%} | {row['oracle_wer']:.2%} |"
        )
    for name, row in report["hotwords"].items():
        print(
            "hotwords, {}: {terms} terms {ms_per_s} ms, none {none_ms_per_s} ms: {times} times".format(
                name, **row
            )
        )


if __name__ == "__main__":
    main()
