"""Weights are searched on cached lists, and the bundle gets what the search found."""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from asr.bundle import EVALUATION, MODEL_CARD, Bundle
from asr.decoding.options import DecodingOptions, DecodingSettings, decoding_for_people
from asr.scoring import word_error_rate
from asr.transcriber import Transcriber
from tests.conftest import SENTENCES, wav_bytes
from training import tune
from training.manifest import Utterance, read_bytes, read_manifest, write_manifest
from training.svg_charts import surface_chart
from training.tuning import Candidate, Lists, Range, Weights, make_lists, merge, search, surface
from training.tuning_cache import TuningCache

EVERYWHERE = Range(Weights(0.0, -4.0, -20.0, 0.0), Weights(2.5, 5.0, 0.0, 1.5))


def test_search_finds_the_weight_that_tells_right_from_wrong() -> None:
    # The right text is acoustically worse by 1-3 and better for the n-gram by 4: alpha must pass 0.75.
    candidates = [
        [Candidate("wrong", -10.0, -14.0, 0, 1), Candidate("right", -10.0 - d, -10.0, 0, 1)]
        for d in (1, 2, 3)
    ]
    lists = make_lists(candidates, [[1, 0]] * 3, [1] * 3, ["a"] * 3, {})
    start = Weights(0.0, 0.0, 0.0)
    assert lists.objective(start) == 1.0
    found = search(lists, start, EVERYWHERE, seed=1)
    assert lists.objective(found.weights) == found.objective == 0.0
    assert found.start_objective == 1.0
    assert found.weights.alpha > 0.75
    assert search(lists, start, EVERYWHERE, seed=1).weights == found.weights


def _random_lists(seed: int, n_utterances: int = 20, n_hypotheses: int = 6) -> Lists:
    rng = np.random.default_rng(seed)
    candidates, errors = [], []
    for _ in range(n_utterances):
        rows = rng.normal(-20, 5, (int(rng.integers(1, n_hypotheses + 1)), 3))
        unknown = rng.integers(0, 2, len(rows)).tolist()
        words = rng.integers(3, 8, len(rows)).tolist()
        texts = [f"t{i}" for i in range(len(rows))]
        candidates.append(
            [Candidate(*c) for c in zip(texts, *rows.T[:2], unknown, words, rows.T[2], strict=True)]
        )
        errors.append(rng.integers(0, 5, len(rows)).tolist())
    sets = [("a", "b")[i % 2] for i in range(n_utterances)]
    return make_lists(candidates, errors, [5] * n_utterances, sets, {"a": 2.0})


@pytest.mark.parametrize("seed", range(4))
def test_search_is_never_worse_than_its_start_and_counts_thousands_of_settings(seed: int) -> None:
    lists = _random_lists(seed)
    start = Weights(0.5, 0.5, -8.0, 0.0)
    found = search(lists, start, EVERYWHERE, seed)
    assert (
        found.objective == lists.objective(found.weights) <= lists.objective(start) == found.start_objective
    )
    assert found.settings_scored > 5000
    for name in ("alpha", "beta", "unknown", "gamma"):
        ends = (getattr(EVERYWHERE.low, name), getattr(EVERYWHERE.high, name))
        assert ends[0] <= getattr(found.weights, name) <= ends[1]


def test_a_start_that_nothing_beats_is_kept_to_the_last_digit() -> None:
    lists = make_lists([[Candidate("only", -1.0, -1.0, 0, 1)]], [[1]], [2], ["a"], {})
    start = Weights(0.123456, 0.5, -8.0, 0.0)
    here = Range(start, start)
    found = search(lists, start, here, seed=0)
    assert (found.objective, found.weights.beta) == (0.5, 0.5)


def test_the_search_finds_what_only_all_weights_together_reach() -> None:
    """alpha and gamma are right only as a pair: every search along one axis from the start sees no gain."""
    candidates = [
        [Candidate("wrong", -10.0, -10.0, 0, 1, -10.0), Candidate("right", -11.0, -9.0 - d, 0, 1, -9.3 + d)]
        for d in np.linspace(-3, 3, 13)
    ]
    lists = make_lists(candidates, [[1, 0]] * 13, [1] * 13, ["a"] * 13, {})
    start = Weights(0.0, 0.0, 0.0, 0.0)
    both = lists.objective(Weights(0.9, 0.0, 0.0, 0.9))
    assert both == 0.0
    for alone in (Weights(0.9, 0.0, 0.0, 0.0), Weights(0.0, 0.0, 0.0, 0.9)):
        assert lists.objective(alone) > 0.3
    assert search(lists, start, EVERYWHERE, seed=3).objective == 0.0


def test_many_settings_at_once_give_what_each_gives_alone() -> None:
    lists = _random_lists(7, n_utterances=31, n_hypotheses=9)
    points = np.random.default_rng(1).uniform(-2, 2, (500, 4))
    together = lists.objectives(points)
    for point, objective in zip(points, together, strict=True):
        total = [
            lists.acoustic
            + point[0] * lists.ngram
            + point[1] * lists.words
            + point[2] * lists.unknown
            + point[3] * lists.gpt2
        ][0]
        errors = lists.errors[np.arange(31), total.argmax(axis=1)]
        expected = lists.set_weights @ (lists.in_set @ errors / lists.reference_words)
        assert objective == pytest.approx(expected, abs=1e-12)
        assert lists.objective(Weights(*point.tolist())) == pytest.approx(objective, abs=1e-12)


def test_a_surface_is_the_objective_over_two_weights() -> None:
    lists = _random_lists(2)
    at = Weights(0.7, 1.0, -5.0, 0.4)
    found = surface(lists, at, "beta", "gamma", EVERYWHERE)
    assert (found["x"], found["y"], found["at"]) == ("beta", "gamma", [1.0, 0.4])
    for i, gamma in list(enumerate(found["y_values"]))[::13]:
        for j, beta in list(enumerate(found["x_values"]))[::13]:
            expected = lists.objective(replace(at, beta=beta, gamma=gamma))
            assert found["objective"][i][j] == pytest.approx(expected, abs=0.02)
    picture = surface_chart(found)
    assert picture.count("<rect") == len(found["x_values"]) * len(found["y_values"])


def test_sets_are_weighed_not_pooled() -> None:
    candidates = [[Candidate("x", -1.0, -1.0, 0, 1)]] * 3
    lists = make_lists(candidates, [[1], [0], [5]], [10, 10, 10], ["cv", "cv", "libri"], {"cv": 2.0})
    weights = Weights(1.0, 0.0, 0.0)
    assert lists.set_wers(weights) == {"cv": 0.05, "libri": 0.5}
    assert lists.objective(weights) == pytest.approx((2 * 0.05 + 0.5) / 3)


def test_padding_is_never_chosen() -> None:
    candidates = [[Candidate("x", -500.0, -500.0, 3, 9)], [Candidate(t, -1.0, -1.0, 0, 1) for t in "abc"]]
    lists = make_lists(candidates, [[2], [1, 1, 1]], [1, 1], ["s", "s"], {})
    assert lists.set_wers(Weights(1.0, -5.0, -9.0)) == {"s": 1.5}
    assert lists.oracle() == {"s": 1.5}


def test_merge_keeps_the_higher_acoustic_score() -> None:
    low, high, other = (Candidate(t, a, -1.0, 0, 1) for t, a in (("x", -3.0), ("x", -2.0), ("y", -1.0)))
    assert merge([low, other], [high]) == [high, other]
    assert merge([], [low]) == [low]


def test_a_set_without_words_is_refused() -> None:
    with pytest.raises(ValueError, match="no reference words"):
        make_lists([[Candidate("", 0.0, 0.0, 0, 0)]], [[0]], [0], ["a"], {})


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    """A manifest of seeded noises with made-up transcripts: a task, if a hopeless one."""
    rng = np.random.default_rng(4)
    utterances = []
    for i, text in enumerate(SENTENCES):
        path = tmp_path / f"{i}.wav"
        path.write_bytes(wav_bytes(0.2 * rng.standard_normal(8000 + 1600 * i)))
        utterances.append(Utterance(path, text, 1.0, set="cv" if i % 2 else "libri", name=str(i)))
    write_manifest(tmp_path / "manifest.jsonl", utterances)
    return tmp_path / "manifest.jsonl"


def _arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    tune.add_arguments(parser)
    return parser.parse_args(given)


def test_the_bundle_decodes_as_the_report_says(tiny_bundle: Path, tmp_path: Path, dev: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    bundle = Bundle.load(folder)
    bundle.with_changes(bundle.settings, {EVALUATION: b"{}", MODEL_CARD: b"# of other weights"})
    options = ["--beam-widths", "4", "16", "--prior-weights", "0.2"]
    tune.main(_arguments(str(folder), "--manifest", str(dev), "--work", str(tmp_path / "work"), *options))
    report = json.loads((tmp_path / "work" / "tuning.json").read_text())
    assert report["beam_lm_rescore"]["objective"] <= report["beam_lm"]["objective"]
    assert report["beam_lm_rescore"]["objective"] <= report["beam_lm_rescore"]["before"]
    assert ElementTree.parse(tmp_path / "work" / "surface.svg").getroot().tag.endswith("svg")
    assert report["beam_lm"]["objective"] <= report["trials"][0]["objective"] + tune.WIDTH_TOLERANCE

    tuned = Transcriber.load(folder)
    assert decoding_for_people(tuned.settings) == report["decoding"]
    assert {trial["decoding"]["prior_weight"] for trial in report["trials"]} == {None, 0.2}
    assert tuned.sha256 == report["bundle"]["after"] != report["bundle"]["before"]
    assert not {EVALUATION, MODEL_CARD} & set(tuned.bundle.files)
    for decoder in ("beam_lm", "beam_lm_rescore"):
        for name, wer in report[decoder]["wer"].items():
            chosen = [u for u in read_manifest(dev) if u.set == name]
            texts = [tuned.transcribe(read_bytes(u), DecodingOptions(decoder)).text for u in chosen]
            assert word_error_rate([u.text for u in chosen], texts, resamples=0).rate == pytest.approx(wer)


def test_both_searches_weights_are_walked_to_where_each_needs_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Errors made up: least at beta -0.6 and phone_alpha 1.2, and a valley between them that turns."""
    searched: list[DecodingSettings] = []

    def errors(settings: DecodingSettings) -> float:
        beta, alpha = settings.beta + 0.6, (settings.phone_alpha or 0.0) - 1.2
        return 0.3 + 0.1 * (beta * beta + alpha * alpha + beta * alpha)

    def trial(
        _: object, __: object, ___: object, settings: DecodingSettings, *____: object
    ) -> SimpleNamespace:
        return SimpleNamespace(settings=settings, objective=errors(settings), wers={})

    monkeypatch.setattr(tune, "_search_beam", lambda _, __, settings, ___: searched.append(settings))
    monkeypatch.setattr(tune, "_best_joined", trial)
    start = DecodingSettings(
        alpha=0.6, beta=0.2, phone_alpha=0.9, pronunciation_weight=0.7, phone_beam_width=9
    )
    best = tune._walked(None, None, trial(None, None, None, start), (0.5, 0.5), rounds=3)  # type: ignore[arg-type]
    assert (best.settings.beta, best.settings.phone_alpha) == pytest.approx((-0.6, 1.2))
    assert best.settings.alpha == 0.6
    assert not best.settings.phone_prior_weight
    assert all(
        settings.phone_beam_width is None for settings in searched
    )  # the pieces' search knows no phones


def test_log_probs_are_heard_once_and_again_for_other_recordings(
    tiny_bundle: Path, tmp_path: Path, dev: Path
) -> None:
    bundle = Bundle.load(tiny_bundle)
    heard: list[int] = []
    utterances = read_manifest(dev)

    def listen(count: int) -> list[np.ndarray]:
        heard.append(count)
        return [np.full((i + 1, 3), i, np.float32) for i in range(count)]

    first, second = (
        TuningCache(tmp_path, bundle, utterances).log_probs(lambda: listen(len(utterances))) for _ in range(2)
    )
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    TuningCache(tmp_path, bundle, utterances[:2]).log_probs(lambda: listen(2))
    assert heard == [len(utterances), 2]


def test_a_second_run_starts_from_the_cached_components(
    tiny_bundle: Path, tmp_path: Path, dev: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bundle again: neither listening, nor beam search, nor GPT-2, and the same weights."""
    reports = []
    for _ in range(2):
        folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle", dirs_exist_ok=True))
        options = ["--manifest", str(dev), "--work", str(tmp_path / "work"), "--rounds", "1"]
        tune.main(_arguments(str(folder), *options))
        reports.append(json.loads((tmp_path / "work" / "tuning.json").read_text()))
        shutil.rmtree(folder)
        for name in ("_listen", "_candidates", "_score_gpt2"):
            monkeypatch.setattr(tune, name, lambda *_: pytest.fail("was cached"))
    for key in ("decoding", "beam_lm"):
        assert reports[0][key] == reports[1][key]
    assert reports[0]["beam_lm_rescore"]["surfaces"] == reports[1]["beam_lm_rescore"]["surfaces"]


@pytest.mark.slow
def test_worker_processes_give_what_one_process_gives(tiny_bundle: Path, dev: Path) -> None:
    utterances = read_manifest(dev)
    found = []
    for count in (1, 2):
        with tune.workers(tiny_bundle, count, "cpu") as pool:
            settings = replace(pool.transcriber.settings, beam_width=4)
            log_probs = list(pool.map(tune._listen, utterances))
            found.append(list(pool.map(tune._candidates, [(x, settings) for x in log_probs])))
    assert found[0] == found[1]


def test_set_weights_are_checked() -> None:
    assert tune._parse_set_weights(["libri=0.5"]) == {"cv": 2.0, "libri": 0.5}
    with pytest.raises(SystemExit, match="expected SET=WEIGHT"):
        tune._parse_set_weights(["libri"])
