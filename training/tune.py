"""Search the decoding weights on dev: asr-train tune models/default --manifest data/dev/manifest.jsonl

Beam search with the present weights gives n-best lists; the best weights for these give the next search,
as lists depend on weights. The weights whose own search made the fewest errors stay. Then GPT-2 scores those
lists, and alpha, beta and gamma are searched jointly (`rescore_alpha`, `rescore_beta`, `gamma`); gamma 0 is
among the points, so that rescoring is never worse on the data it is tuned on. Where the acoustic model hears
phones too, their share and their prior's power are searched between the two, at beam search's weights; with
--phone-beam-width a search over phones adds its texts to the lists, and what both searches share is walked
together, a weight at a time, as long as dev gains: lists of one search do not know what the other would
find. The bundle gets the weights and loses evaluation and calibration, which measured others. Under --work
stay log-probabilities and the lists' components, from which a second run starts, `tuning.json`, and
`surface.svg`: WER over each pair of weights.
"""

import argparse
import functools
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from asr.bundle import MEASUREMENTS
from asr.decoding.beam import BeamDecoder, make_beam_decoder
from asr.decoding.languages import Languages
from asr.decoding.native_beam import NativeBeamDecoder
from asr.decoding.options import DEFAULT_LM, PRONUNCIATION_NBEST, DecodingSettings, decoding_for_people
from asr.decoding.posteriors import mean_posterior, phones_divided
from asr.decoding.pronunciation_scores import pronunciation_logps
from asr.recording import Posteriors
from asr.scoring import word_errors
from asr.transcriber import Transcriber
from training.manifest import Utterance, read_bytes, read_manifest
from training.svg_charts import beside, surface_chart
from training.tuning import Candidate, Found, Lists, Range, Weights, make_lists, merge, search, surface
from training.tuning_cache import TuningCache
from training.whole_file import write_json, write_text
from training.workers import Workers, workers

BEAM_RANGE = Range(Weights(0.0, -4.0, -40.0), Weights(2.5, 5.0, 0.0))
PHONE_PRIOR_WEIGHTS = (0.0, 0.2, 0.4, 0.6)
PRONUNCIATION_WEIGHTS = tuple(share / 20 for share in range(1, 17))
PHONE_ALPHAS = (0.6, 0.8, 1.0, 1.2)  # of the search over phones
JOINED_WEIGHTS = tuple(share / 20 for share in range(6, 19, 2))
NO_PHONES = dict.fromkeys(
    (
        "pronunciation_nbest",
        "pronunciation_weight",
        "phone_beam_width",
        "phone_alpha",
        "phone_prior_weight",
        "phone_prior",
    )
)
NOT_DIVIDED: dict[str, Any] = {"prior_weight": None, "label_prior": None}
WALK = {"beta": 0.2, "phone_prior_weight": 0.1, "phone_alpha": 0.1, "alpha": 0.06}  # of both searches: steps
WALK_GAIN = 0.0003  # of the objective: what a step must gain
WIDTH_TOLERANCE = 0.0005  # of the objective: what a narrower beam may cost


@dataclass(frozen=True)
class Dev:
    """The tuning data, heard once. U utterances."""

    utterances: Sequence[Utterance]
    log_probs: Sequence[NDArray[np.float32]]  # (T, V) each
    phones: Sequence[NDArray[np.float32]]  # (2T, P) each, of a model that hears phones; else none at all
    set_weights: Mapping[str, float]
    cache: TuningCache

    def lists(self, candidates: Sequence[Sequence[Candidate]]) -> Lists:
        pairs = list(zip(self.utterances, candidates, strict=True))
        return make_lists(
            candidates,
            errors=[[_errors(u.text, candidate.text) for candidate in row] for u, row in pairs],
            reference_words=[len(u.text.split()) for u in self.utterances],
            sets=[u.set for u in self.utterances],
            set_weights=self.set_weights,
        )


@dataclass(frozen=True)
class Trial:
    """One beam search over dev."""

    settings: DecodingSettings
    candidates: Sequence[Sequence[Candidate]]  # per utterance, best first by beam search
    lists: Lists
    seconds: float  # next to nothing where the lists were cached

    @property
    def objective(self) -> float:
        """Weighted mean WER of what beam search itself put first."""
        return float(self.lists.set_weights @ self._wers())

    @property
    def wers(self) -> dict[str, float]:
        return dict(zip(self.lists.sets, self._wers().tolist(), strict=True))

    def _wers(self) -> NDArray[np.float64]:
        wers: NDArray[np.float64] = self.lists.in_set @ self.lists.errors[:, 0] / self.lists.reference_words
        return wers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--manifest", type=Path, nargs="+", required=True, help="dev; never test")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/tune"), help="for log-probabilities and tuning.json"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes, one torch thread each")
    parser.add_argument("--rounds", type=int, default=3, help="searches with new weights")
    parser.add_argument("--limit", type=int, help="only so many utterances of each manifest")
    parser.add_argument(
        "--set-weight",
        action="append",
        default=[],
        metavar="SET=WEIGHT",
        help="of a set's WER in the mean that is minimised (default: cv=2, others 1)",
    )
    parser.add_argument(
        "--beam-widths",
        type=int,
        nargs="*",
        default=[],
        help="beside the bundle's: take the narrowest that loses nothing to speak of",
    )
    parser.add_argument(
        "--prior-weights",
        type=float,
        nargs="*",
        default=[],
        help="beside none: powers of the labels' prior, measured on dev, to divide posteriors by",
    )
    parser.add_argument(
        "--phone-beam-width", type=int, default=0, help="of a search over phones; 0: there is none"
    )
    parser.add_argument("--seed", type=int, default=1)


def main(args: argparse.Namespace) -> None:
    set_weights = _parse_set_weights(args.set_weight)
    utterances = [u for path in args.manifest for u in read_manifest(path)[: args.limit] if u.text]
    with workers(args.bundle, args.workers, "cpu") as pool:
        bundle = pool.transcriber.bundle
        cache = TuningCache(args.work, bundle, utterances)
        rows = cache.log_probs(lambda: _listen_to_all(pool, utterances))
        dev = _dev(pool.transcriber, utterances, rows, set_weights, cache)
        log_probs = dev.log_probs
        trials = _tune_beam(pool, dev, pool.transcriber.settings, args.rounds, args.seed)
        prior = tuple(mean_posterior(log_probs)) if args.prior_weights else None
        for weight in args.prior_weights:
            divided = {"prior_weight": weight, "label_prior": prior} if weight else NOT_DIVIDED
            start = replace(trials[0].settings, **divided)
            trials += _tune_beam(pool, dev, start, args.rounds, args.seed)
        best = min(trials, key=lambda trial: trial.objective)
        best = searched = _narrowed(pool, dev, best, args.beam_widths)
        if dev.phones and args.phone_beam_width:
            best = _tune_joined(pool, dev, searched, args.phone_beam_width, args.rounds)
        elif dev.phones:
            best = _tune_pronunciation(pool, dev, searched)
        settings, rescored = _tune_gpt2(pool, dev, best, args.seed)
    changed = bundle.with_changes(
        replace(bundle.settings, decoding=settings, calibration=None), dict.fromkeys(MEASUREMENTS)
    )
    report = {
        "command": shlex.join(["asr-train", *sys.argv[1:]]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "bundle": {"name": changed.settings.name, "before": bundle.sha256, "after": changed.sha256},
        "decoding": decoding_for_people(settings),
        "trials": [
            {
                "decoding": decoding_for_people(t.settings),
                "objective": t.objective,
                "wer": t.wers,
                "seconds": t.seconds,
            }
            for t in trials
        ],
        "beam_search": {"objective": searched.objective, "wer": searched.wers},
        "beam_lm": {"objective": best.objective, "wer": best.wers},
        "beam_lm_rescore": rescored,
    }
    write_json(args.work / "tuning.json", report)
    write_text(args.work / "surface.svg", beside([surface_chart(s) for s in rescored["surfaces"]]))
    shown = {"decoding": decoding_for_people(settings), "beam_lm": report["beam_lm"]}
    print(json.dumps(shown, indent=2))
    shown = {key: value for key, value in rescored.items() if key != "surfaces"}
    print(json.dumps({"beam_lm_rescore": shown}, indent=2))


def _tune_beam(pool: Workers, dev: Dev, settings: DecodingSettings, rounds: int, seed: int) -> list[Trial]:
    """Searches with better and better weights for beam search alone, these first."""
    trials: list[Trial] = []
    merged: list[list[Candidate]] = [[] for _ in dev.utterances]
    for number in range(rounds + 1):
        trial = _search_beam(pool, dev, settings, f"beam search {number}")
        print(f"{_shown(settings)}: {trial.objective:.2%} {_percent(trial.wers)}", flush=True)
        trials.append(trial)
        merged = [merge(old, new) for old, new in zip(merged, trial.candidates, strict=True)]
        start = Weights(settings.alpha, settings.beta, settings.unknown_word_logp)
        found = search(dev.lists(merged), start, BEAM_RANGE, seed + number).weights
        if found == start:
            break
        settings = replace(settings, alpha=found.alpha, beta=found.beta, unknown_word_logp=found.unknown)
    return trials


def _narrowed(pool: Workers, dev: Dev, best: Trial, widths: Sequence[int]) -> Trial:
    """The narrowest of the best trial's beam and these that costs no more than the tolerance."""
    trials = [best]
    for width in sorted({*widths} - {best.settings.beam_width}):
        trials.append(
            _search_beam(pool, dev, replace(best.settings, beam_width=width), f"beam width {width}")
        )
        print(f"beam width {width}: {trials[-1].objective:.2%} in {trials[-1].seconds:.0f} s", flush=True)
    bar = min(trial.objective for trial in trials) + WIDTH_TOLERANCE
    return min((t for t in trials if t.objective <= bar), key=lambda trial: trial.settings.beam_width)


def _dev(
    transcriber: Transcriber,
    utterances: Sequence[Utterance],
    rows: Sequence[NDArray[np.float32]],
    set_weights: Mapping[str, float],
    cache: TuningCache,
) -> Dev:
    n_pieces = transcriber.tokenizer.vocab_size
    heard = [Posteriors.of_rows(rows_TC, n_pieces, 0.0, {}) for rows_TC in rows]
    phones = [one.phones for one in heard if one.phones is not None]
    return Dev(utterances, [one.log_probs for one in heard], phones, set_weights, cache)


def _tune_pronunciation(pool: Workers, dev: Dev, searched: Trial) -> Trial:
    """The best trial's lists by pieces and phones, with the phones' best share: none is among the points."""
    best, prior = searched, tuple(mean_posterior(dev.phones))
    for power in PHONE_PRIOR_WEIGHTS:
        divided = _divided_phones(power, prior)
        settings = replace(searched.settings, pronunciation_nbest=PRONUNCIATION_NBEST, **divided)
        started = time.perf_counter()
        items = [
            (phones_TP, row[:PRONUNCIATION_NBEST], settings)
            for phones_TP, row in zip(dev.phones, searched.candidates, strict=True)
        ]
        logps = list(track(pool.map(_pronounced, items), description=f"phones {power}", total=len(items)))
        for share in PRONUNCIATION_WEIGHTS:
            both = [
                _ranked([_mixed(c, p, share) for c, p in zip(row, of_row, strict=False)], settings)
                for row, of_row in zip(searched.candidates, logps, strict=True)
            ]
            tried = replace(settings, pronunciation_weight=share)
            trial = Trial(tried, both, dev.lists(both), time.perf_counter() - started)
            if trial.objective < best.objective:
                best = trial
        print(f"phones, prior {power}: {best.objective:.2%} {_percent(best.wers)}", flush=True)
    return best


def _tune_joined(pool: Workers, dev: Dev, searched: Trial, width: int, rounds: int) -> Trial:
    """Both searches' texts by pieces and phones: how phones search, their share, then a walk."""
    best, prior = searched, tuple(mean_posterior(dev.phones))
    if (present := pool.transcriber.settings).phone_beam_width:
        best = min(best, _present_joined(pool, dev, present, width), key=_objective)
    for power in PHONE_PRIOR_WEIGHTS:
        divided = _divided_phones(power, prior)
        for alpha in PHONE_ALPHAS:
            settings = replace(
                searched.settings,
                pronunciation_nbest=PRONUNCIATION_NBEST,
                pronunciation_weight=JOINED_WEIGHTS[0],
                phone_beam_width=width,
                phone_alpha=alpha,
                **divided,
            )
            trial = _best_joined(pool, dev, searched, settings, JOINED_WEIGHTS)
            best = min(best, trial, key=_objective)
    return best if best is searched else _walked(pool, dev, best, prior, rounds)


def _present_joined(pool: Workers, dev: Dev, present: DecodingSettings, width: int) -> Trial:
    """Both searches with the bundle's weights as they stand, and priors as this model has them."""
    divided = _divided_phones(present.phone_prior_weight or 0.0, tuple(mean_posterior(dev.phones)))
    settings = replace(present, phone_beam_width=width, **divided)
    if present.prior_weight:
        settings = replace(settings, label_prior=tuple(mean_posterior(dev.log_probs)))
    searched = _search_beam(pool, dev, replace(settings, **NO_PHONES), "beam search, present weights")
    return _best_joined(pool, dev, searched, settings, JOINED_WEIGHTS)


def _walked(pool: Workers, dev: Dev, best: Trial, prior: tuple[float, ...], rounds: int) -> Trial:
    """Each weight of both searches up or down by steps, as long as that gains, over again while one does."""
    for _ in range(rounds):
        before = best
        for name, step in WALK.items():
            for direction in (-step, step):
                walked = _steps(pool, dev, best, prior, name, direction)
                if walked is not best:
                    best = walked
                    break
        if best is before:
            break
    return best


def _steps(
    pool: Workers, dev: Dev, best: Trial, prior: tuple[float, ...], name: str, direction: float
) -> Trial:
    while True:
        value = round((getattr(best.settings, name) or 0.0) + direction, 6)
        if value < 0.0 and name != "beta":
            return best
        change = _divided_phones(value, prior) if name == "phone_prior_weight" else {name: value}
        settings = replace(best.settings, **change)
        share = settings.pronunciation_weight or 0.0
        searched = _search_beam(pool, dev, replace(settings, **NO_PHONES), "beam search")
        near = [weight for weight in JOINED_WEIGHTS if abs(weight - share) < 0.11]
        trial = _best_joined(pool, dev, searched, settings, near)
        if trial.objective > best.objective - WALK_GAIN:
            return best
        best = trial


def _best_joined(
    pool: Workers, dev: Dev, searched: Trial, settings: DecodingSettings, shares: Sequence[float]
) -> Trial:
    """Of the phones' shares, the best."""
    trial = min(_joined_trials(pool, dev, searched, settings, shares), key=_objective)
    print(
        f"{_shown(settings)}, phones alpha {settings.phone_alpha} prior {settings.phone_prior_weight}, "
        f"share {trial.settings.pronunciation_weight}: {trial.objective:.2%} {_percent(trial.wers)}",
        flush=True,
    )
    return trial


def _objective(trial: Trial) -> float:
    return trial.objective


def _divided_phones(power: float, prior: tuple[float, ...]) -> dict[str, Any]:
    """Settings that divide phones by that power of their prior; 0: not at all."""
    return {"phone_prior_weight": power or None, "phone_prior": prior if power else None}


def _joined_trials(
    pool: Workers, dev: Dev, searched: Trial, settings: DecodingSettings, shares: Sequence[float]
) -> list[Trial]:
    """A trial's lists with a phone search's texts, for each share of the phones."""
    started = time.perf_counter()
    items = [
        (log_probs_TV, phones_TP, row[:PRONUNCIATION_NBEST], settings)
        for log_probs_TV, phones_TP, row in zip(dev.log_probs, dev.phones, searched.candidates, strict=True)
    ]
    heard = list(track(pool.map(_joined, items), description="phones", total=len(items)))
    trials = []
    for share in shares:
        both = [
            _ranked([_mixed(c, logp, share) for c, logp in zip(*row, strict=True)], settings) for row in heard
        ]
        tried = replace(settings, pronunciation_weight=share)
        trials.append(Trial(tried, both, dev.lists(both), time.perf_counter() - started))
    return trials


def _joined(
    transcriber: Transcriber,
    item: tuple[NDArray[np.float32], NDArray[np.float32], Sequence[Candidate], DecodingSettings],
) -> tuple[list[Candidate], list[float]]:
    """The candidates and what a search over phones finds, by the whole sums over pieces, and over phones."""
    log_probs_TV, phones_TP, candidates, settings = item
    assert transcriber.pronunciations is not None
    language = _both_searches(transcriber, settings).default
    assert language.phones is not None
    assert isinstance(language.beam, NativeBeamDecoder)
    by_text = {candidate.text: candidate for candidate in candidates}
    found = language.phones.decode(phones_TP, limit=PRONUNCIATION_NBEST)
    texts = list(dict.fromkeys([*by_text, *(hypothesis.text for hypothesis in found)]))
    both = []
    for hypothesis in language.beam.score(log_probs_TV, texts):
        known = by_text.get(hypothesis.text)
        if known is None:
            parts = transcriber.lm.parts(hypothesis.text)
            known = Candidate(hypothesis.text, 0.0, parts.logp, parts.n_unknown, parts.n_words)
        both.append(replace(known, acoustic=hypothesis.scores.acoustic))
    logps = pronunciation_logps(phones_divided(phones_TP, settings), texts, transcriber.pronunciations)
    return both, logps.tolist()


@functools.lru_cache(maxsize=1)
def _both_searches(transcriber: Transcriber, settings: DecodingSettings) -> Languages:
    ngrams = {DEFAULT_LM: transcriber.lm}
    return Languages(transcriber.tokenizer, ngrams, settings, pronunciations=transcriber.pronunciations)


def _mixed(candidate: Candidate, logp: float, share: float) -> Candidate:
    return replace(candidate, acoustic=(1 - share) * candidate.acoustic + share * logp)


def _ranked(candidates: Sequence[Candidate], settings: DecodingSettings) -> list[Candidate]:
    """Best first, as beam search's answer is after phones."""

    def total(c: Candidate) -> float:
        language = settings.alpha * c.ngram + settings.unknown_word_logp * c.n_unknown
        return c.acoustic + language + settings.beta * c.n_words

    return sorted(candidates, key=lambda c: (-total(c), c.text))


def _pronounced(
    transcriber: Transcriber,
    item: tuple[NDArray[np.float32], Sequence[Candidate], DecodingSettings],
) -> list[float]:
    phones_TP, candidates, settings = item
    assert transcriber.pronunciations is not None
    texts = [candidate.text for candidate in candidates]
    logps: list[float] = pronunciation_logps(
        phones_divided(phones_TP, settings), texts, transcriber.pronunciations
    ).tolist()
    return logps


def _tune_gpt2(pool: Workers, dev: Dev, best: Trial, seed: int) -> tuple[DecodingSettings, dict[str, Any]]:
    """The weights beside GPT-2 for the lists that it will get, and what they make of dev."""
    settings = best.settings
    short = [list(row[: settings.rescore_nbest]) for row in best.candidates]
    scored = dev.cache.lists(
        "gpt2",
        [asdict(settings), settings.rescore_nbest],
        lambda: list(track(pool.map(_score_gpt2, short), description="gpt2", total=len(short))),
    )
    lists = dev.lists(scored)
    start = Weights(settings.alpha, settings.beta, settings.unknown_word_logp, gamma=0.0)
    low = Weights(0.0, settings.beta - 1.0, start.unknown, 0.0)
    high = Weights(max(1.0, 1.5 * settings.alpha), settings.beta + 8.0, start.unknown, 1.5)
    present = _present(settings)
    candidates = [search(lists, at, Range(low, high), seed) for at in (start, present)]
    found = min(candidates, key=lambda c: c.objective)
    weights = found.weights
    pairs = (("alpha", "beta"), ("alpha", "gamma"), ("beta", "gamma"))
    report = {
        "objective": found.objective,
        "wer": lists.set_wers(weights),
        "oracle": lists.oracle(),
        "without_gpt2": lists.objective(start),
        "before": lists.objective(present),
        "without_own_weights": lists.objective(_gamma_alone(lists, start)),
        "search": _search_figures(found),
        "surfaces": [surface(lists, weights, x, y, Range(low, high)) for x, y in pairs],
    }
    tuned = replace(settings, gamma=weights.gamma, rescore_alpha=weights.alpha, rescore_beta=weights.beta)
    return tuned, report


def _present(settings: DecodingSettings) -> Weights:
    """What the bundle rescores with as it stands."""
    alpha = settings.alpha if settings.rescore_alpha is None else settings.rescore_alpha
    beta = settings.beta if settings.rescore_beta is None else settings.rescore_beta
    return Weights(alpha, beta, settings.unknown_word_logp, settings.gamma)


def _search_figures(found: Found) -> dict[str, float]:
    """How much was searched, in processor time."""
    per_minute = 60 * found.settings_scored / max(found.cpu_s, 1e-9)
    return {
        "settings": found.settings_scored,
        "cpu_seconds": round(found.cpu_s, 2),
        "settings_per_cpu_minute": round(per_minute),
    }


def _gamma_alone(lists: Lists, start: Weights) -> Weights:
    """The best gamma beside beam search's own alpha and beta: shows what weights of its own are worth."""
    return min((replace(start, gamma=g / 100) for g in range(0, 151)), key=lists.objective)


def _search_beam(pool: Workers, dev: Dev, settings: DecodingSettings, description: str) -> Trial:
    started = time.perf_counter()
    items = [(log_probs, settings) for log_probs in dev.log_probs]

    def decode() -> list[list[Candidate]]:
        return list(track(pool.map(_candidates, items), description=description, total=len(items)))

    candidates = dev.cache.lists("beam", asdict(settings), decode)
    return Trial(settings, candidates, dev.lists(candidates), time.perf_counter() - started)


def _candidates(
    transcriber: Transcriber, item: tuple[NDArray[np.float32], DecodingSettings]
) -> list[Candidate]:
    """Beam search's hypotheses with their parts unweighted, best first."""
    log_probs_TV, settings = item
    found = []
    for hypothesis in _decoder(transcriber, settings).decode(log_probs_TV):
        parts = transcriber.lm.parts(hypothesis.text)
        found.append(
            Candidate(hypothesis.text, hypothesis.scores.acoustic, parts.logp, parts.n_unknown, parts.n_words)
        )
    return found


@functools.lru_cache(maxsize=1)
def _decoder(transcriber: Transcriber, settings: DecodingSettings) -> BeamDecoder:
    """Making one takes part of a second, which every utterance of a search would pay."""
    return make_beam_decoder(transcriber.tokenizer, transcriber.lm, settings)


def _score_gpt2(transcriber: Transcriber, candidates: list[Candidate]) -> list[Candidate]:
    scores = transcriber.gpt2.score([candidate.text for candidate in candidates])
    return [replace(candidate, gpt2=score) for candidate, score in zip(candidates, scores, strict=True)]


def _listen(transcriber: Transcriber, utterance: Utterance) -> NDArray[np.float32]:
    return transcriber.listen(read_bytes(utterance)).rows


def _listen_to_all(pool: Workers, utterances: Sequence[Utterance]) -> list[NDArray[np.float32]]:
    return list(track(pool.map(_listen, utterances), description="listen", total=len(utterances)))


@functools.cache
def _errors(reference: str, text: str) -> int:
    """Most texts come up again in the next search."""
    return word_errors(reference, text)


def _parse_set_weights(given: Sequence[str]) -> dict[str, float]:
    weights = {"cv": 2.0}
    for item in given:
        name, _, weight = item.partition("=")
        try:
            weights[name] = float(weight)
        except ValueError:
            raise SystemExit(f"--set-weight {item}: expected SET=WEIGHT") from None
    return weights


def _shown(settings: DecodingSettings) -> str:
    prior = f" prior {settings.prior_weight}" if settings.prior_weight else ""
    return f"alpha {settings.alpha} beta {settings.beta} unknown {settings.unknown_word_logp}{prior}"


def _percent(wers: Mapping[str, float]) -> str:
    return " ".join(f"{name} {wer:.2%}" for name, wer in wers.items())
