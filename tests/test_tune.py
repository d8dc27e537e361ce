"""Weights are searched on cached lists, and the bundle gets what the search found."""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asr.bundle import EVALUATION, MODEL_CARD, Bundle
from asr.decoding.options import DecodingOptions
from asr.scoring import word_error_rate
from asr.transcriber import Transcriber
from tests.conftest import SENTENCES, wav_bytes
from training import tune
from training.manifest import Utterance, read_bytes, read_manifest, write_manifest
from training.tuning import Candidate, Range, Weights, make_lists, merge, search

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
    assert lists.objective(found) == 0.0
    assert found.alpha > 0.75
    assert search(lists, start, EVERYWHERE, seed=1) == found


@pytest.mark.parametrize("seed", range(5))
def test_search_is_never_worse_than_its_start(seed: int) -> None:
    rng = np.random.default_rng(seed)
    candidates, errors = [], []
    for _ in range(20):
        rows = rng.normal(-20, 5, (6, 3))
        candidates.append([Candidate(f"t{i}", a, n, 0, 5, g) for i, (a, n, g) in enumerate(rows)])
        errors.append(rng.integers(0, 5, 6).tolist())
    lists = make_lists(candidates, errors, [5] * 20, ["a", "b"] * 10, {"a": 2.0})
    start = Weights(0.5, 0.5, -8.0, 0.0)
    assert lists.objective(search(lists, start, EVERYWHERE, seed)) <= lists.objective(start)


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
    arguments = _arguments(
        str(folder), "--manifest", str(dev), "--work", str(tmp_path / "work"), "--beam-widths", "4", "16"
    )
    tune.main(arguments)
    report = json.loads((tmp_path / "work" / "tuning.json").read_text())
    assert report["beam_lm_rescore"]["objective"] <= report["beam_lm"]["objective"]
    assert report["beam_lm"]["objective"] <= report["trials"][0]["objective"] + tune.WIDTH_TOLERANCE

    tuned = Transcriber.load(folder)
    assert vars(tuned.settings) == report["decoding"]
    assert tuned.sha256 == report["bundle"]["after"] != report["bundle"]["before"]
    assert not {EVALUATION, MODEL_CARD} & set(tuned.bundle.files)
    for decoder in ("beam_lm", "beam_lm_rescore"):
        for name, wer in report[decoder]["wer"].items():
            chosen = [u for u in read_manifest(dev) if u.set == name]
            texts = [tuned.transcribe(read_bytes(u), DecodingOptions(decoder)).text for u in chosen]
            assert word_error_rate([u.text for u in chosen], texts, resamples=0).rate == pytest.approx(wer)


def test_log_probs_are_heard_once_and_again_for_another_model(
    tiny_bundle: Path, tmp_path: Path, dev: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    work = tmp_path / "work"
    heard: list[str] = []
    listen = tune._listen
    monkeypatch.setattr(tune, "_listen", lambda t, u: heard.append(u.name) or listen(t, u))
    utterances = read_manifest(dev)
    with tune.workers(folder, 1, "cpu") as pool:
        first = tune._cached_log_probs(pool, utterances, work)
        second = tune._cached_log_probs(pool, utterances, work)
        assert len(heard) == len(utterances)
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)
        tune._cached_log_probs(pool, utterances[:2], work)
    assert len(heard) == len(utterances) + 2


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
