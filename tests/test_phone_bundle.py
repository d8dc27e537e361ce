"""A bundle whose acoustic model hears phones beside pieces: from audio to scores."""

import argparse
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asr.bundle import G2P, LEXICON, Bundle
from asr.decoding.options import DecodingOptions
from asr.decoding.pronunciation_scores import pronunciation_logps
from asr.errors import MismatchError, MissingFileError
from asr.scoring import word_error_rate
from asr.transcriber import Transcriber
from asr.windows import WindowSettings
from tests.conftest import wav_bytes
from training import tune
from training.graphones import train_graphones
from training.manifest import Utterance, read_bytes, read_manifest, write_manifest


@pytest.fixture(scope="module")
def transcriber(phone_bundle: Path) -> Transcriber:
    loaded = Transcriber.load(phone_bundle, "cpu")
    loaded.self_test()
    return loaded


def test_every_score_has_the_pronunciation_of_its_text(transcriber: Transcriber, recording: bytes) -> None:
    posteriors = transcriber.listen(recording)
    assert posteriors.phones is not None
    assert transcriber.pronunciations is not None
    assert posteriors.phones.shape == (2 * len(posteriors.log_probs), transcriber.pronunciations.n_outputs)
    assert np.exp(posteriors.phones).sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    found = transcriber.decode(posteriors, DecodingOptions("beam_lm", nbest=50)).hypotheses
    assert 1 < len(found) <= 12
    logps = pronunciation_logps(posteriors.phones, [h.text for h in found], transcriber.pronunciations)
    for hypothesis, logp in zip(found, logps, strict=True):
        scores = hypothesis.scores
        assert scores.pronunciation == pytest.approx(0.4 * logp)
        assert scores.total == pytest.approx(
            scores.acoustic + scores.pronunciation + scores.ngram + scores.length, abs=1e-9
        )
    assert [h.scores.total for h in found] == sorted((h.scores.total for h in found), reverse=True)


def test_gpt2_goes_on_from_both_readings(transcriber: Transcriber, recording: bytes) -> None:
    posteriors = transcriber.listen(recording)
    found = transcriber.decode(posteriors, DecodingOptions("beam_lm", nbest=50)).hypotheses
    searched = {h.text: h for h in found}
    rescored = transcriber.decode(posteriors, DecodingOptions("beam_lm_rescore", nbest=50)).hypotheses
    assert all(h.scores.gpt2 < 0 for h in rescored)
    assert all(h.scores.pronunciation == searched[h.text].scores.pronunciation for h in rescored)


def test_greedy_decoding_goes_by_the_pieces(transcriber: Transcriber, recording: bytes) -> None:
    transcript = transcriber.transcribe(recording, DecodingOptions("greedy", nbest=1, compare=True))
    assert transcript.hypotheses[0].scores.pronunciation == 0.0
    assert math.isfinite(transcript.hypotheses[0].scores.total)


def test_overlapping_stretches_join_their_phones_too(phone_bundle: Path) -> None:
    """Twelve seconds without a pause, read four at a time."""
    rng, time_s = np.random.default_rng(3), np.arange(12 * 16000) / 16000
    samples = 0.3 * np.sin(2 * np.pi * 3000 * time_s) * (np.sin(2 * np.pi * 3 * time_s) > 0)
    samples = (samples + 0.05 * rng.standard_normal(len(samples))).astype(np.float32)
    transcriber = Transcriber.load(phone_bundle, "cpu")
    transcriber.windows = WindowSettings(longest_s=4.0, shortest_s=1.0, overlap_s=1.0, longest_joined_s=60.0)
    options = DecodingOptions("beam_lm", nbest=3)
    whole = transcriber.transcribe(wav_bytes(samples), options)
    assert whole.hypotheses[0].scores.pronunciation < 0.0


def test_where_nothing_is_heard_rows_have_their_columns(transcriber: Transcriber, recording: bytes) -> None:
    """They are joined with those of other stretches."""
    silent = transcriber.listen(wav_bytes(np.zeros(16000, np.float32)))
    heard = transcriber.listen(recording)
    assert len(np.concatenate([silent.rows, heard.rows])) == len(heard.log_probs)


def test_what_is_missing_or_foreign_is_named(phone_bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(phone_bundle, tmp_path / "copy"))
    bundle = Bundle.load(copy)
    wrong = replace(bundle.settings.decoding, phone_prior_weight=0.5, phone_prior=(0.5, 0.5))
    bundle.with_changes(replace(bundle.settings, decoding=wrong), {})
    with pytest.raises(MismatchError, match=r"phone_prior is of 2 outputs, not \d+"):
        Transcriber.load(copy, "cpu")
    bundle.with_changes(bundle.settings, {LEXICON: None})
    with pytest.raises(MissingFileError, match=r"lists no lexicon\.txt: the acoustic model hears phones"):
        Transcriber.load(copy, "cpu")
    few = train_graphones(3 * [("a", ("A",)), ("do", ("D", "O"))])
    bundle.with_changes(bundle.settings, {G2P: few.to_json().encode(), LEXICON: b"do\tD O\n"})
    with pytest.raises(MismatchError, match=r"g2p\.json makes 7 outputs of its phones"):
        Transcriber.load(copy, "cpu")


def test_greedy_decoding_asks_for_no_phones(transcriber: Transcriber, recording: bytes) -> None:
    prepared = transcriber.prepare(recording)
    whole, pieces = transcriber.listen_batch([prepared, prepared.for_decoder("greedy")])
    assert whole.phones is not None
    assert pieces.phones is None
    np.testing.assert_array_equal(pieces.log_probs, whole.log_probs)
    assert prepared.for_decoder("beam_lm") == prepared.for_decoder("beam_lm_rescore")
    assert prepared.for_decoder("beam_lm").phones


@pytest.mark.parametrize("more", [[], ["--phone-beam-width", "40"]], ids=["one search", "two searches"])
def test_tuning_finds_a_share_that_is_no_worse_and_is_kept(
    phone_bundle: Path, tmp_path: Path, more: list[str]
) -> None:
    rng = np.random.default_rng(4)
    utterances = []
    for i, text in enumerate(("the cat sat on the mat", "a dog ran", "we don't know", "the mat is on a dog")):
        path = tmp_path / f"{i}.wav"
        path.write_bytes(wav_bytes(0.2 * rng.standard_normal(8000 + 1600 * i)))
        utterances.append(Utterance(path, text, 1.0, set="cv" if i % 2 else "libri", name=str(i)))
    write_manifest(tmp_path / "manifest.jsonl", utterances)
    folder = Path(shutil.copytree(phone_bundle, tmp_path / "bundle"))
    parser = argparse.ArgumentParser()
    tune.add_arguments(parser)
    given = [str(folder), "--manifest", str(tmp_path / "manifest.jsonl"), "--work", str(tmp_path / "work")]
    tune.main(parser.parse_args([*given, "--rounds", "1", *more]))
    report = json.loads((tmp_path / "work" / "tuning.json").read_text())
    assert report["beam_lm"]["objective"] <= report["beam_search"]["objective"]
    tuned = Transcriber.load(folder, "cpu")
    for decoder in ("beam_lm", "beam_lm_rescore"):
        for name, wer in report[decoder]["wer"].items():
            chosen = [u for u in read_manifest(tmp_path / "manifest.jsonl") if u.set == name]
            texts = [tuned.transcribe(read_bytes(u), DecodingOptions(decoder)).text for u in chosen]
            assert word_error_rate([u.text for u in chosen], texts, resamples=0).rate == pytest.approx(wer)
    if more:  # the bundle's own weights are among the points
        tune.main(parser.parse_args([*given, "--rounds", "0", *more]))
        again = json.loads((tmp_path / "work" / "tuning.json").read_text())
        assert again["beam_lm"]["objective"] <= report["beam_lm"]["objective"]
