"""Evaluation reports what the Transcriber answers, per set."""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asr.bundle import Bundle
from asr.decoding.options import DECODERS, DecodingOptions
from asr.scoring import word_error_rate, word_errors
from asr.transcriber import Transcriber
from tests.conftest import wav_bytes
from training import evaluate
from training.manifest import Utterance, read_bytes, read_manifest, write_manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Four seeded noises in two sets, inside one file, as in a tar."""
    rng = np.random.default_rng(9)
    recordings = [wav_bytes(0.2 * rng.standard_normal(6000 + 3000 * i)) for i in range(4)]
    (tmp_path / "audio.tar").write_bytes(b"".join(recordings))
    offsets = np.cumsum([0, *map(len, recordings)])
    utterances = [
        Utterance(
            tmp_path / "audio.tar",
            "the cat sat",
            1.0,
            set="cv" if i < 2 else "libri",
            offset=int(offsets[i]),
            size=len(recordings[i]),
            name=f"u{i}",
            speaker=f"s{i}",
            corpus="noises",
            accent=("scottish", "", "indian", "indian")[i],
            age=("9", "31", "twenties", "")[i],
        )
        for i in range(4)
    ]
    write_manifest(tmp_path / "manifest.jsonl", utterances)
    return tmp_path / "manifest.jsonl"


def _evaluate(*given: str | Path) -> None:
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    evaluate.main(parser.parse_args([str(item) for item in given]))


def test_every_text_and_rate_is_the_transcribers(tiny_bundle: Path, manifest: Path, tmp_path: Path) -> None:
    _evaluate(tiny_bundle, "--manifest", manifest, "--out", tmp_path / "results.json")
    report = json.loads((tmp_path / "results.json").read_text())
    transcriber = Transcriber.load(tiny_bundle)
    assert report["bundle"] == {"name": "tiny", "measured_sha256": transcriber.bundle.measured_sha256}
    utterances = read_manifest(manifest)
    assert [row["name"] for row in report["utterances"]] == [u.name for u in utterances]
    for row, utterance in zip(report["utterances"], utterances, strict=True):
        assert (row["speaker"], row["corpus"]) == (utterance.speaker, "noises")
        assert (row["accent"], row["age"]) == (utterance.accent, utterance.age)
        place = row["audio"]
        assert (place["path"], place["offset"]) == (str(utterance.audio), utterance.offset)
        assert row["errors"] == {d: word_errors(row["reference"], t) for d, t in row["texts"].items()}
        for decoder in DECODERS:
            answer = transcriber.transcribe(read_bytes(utterance), DecodingOptions(decoder, nbest=1))
            assert row["texts"][decoder] == answer.text
            parts = dict(row["parts"][decoder])
            assert parts.pop("total") == pytest.approx(answer.hypotheses[0].scores.total, abs=1e-4)
            assert sum(parts.values()) == pytest.approx(answer.hypotheses[0].scores.total, abs=1e-3)
            assert row["duration_s"] == answer.duration_s
    assert list(report["sets"]) == ["cv", "libri"]
    for name, result in report["sets"].items():
        rows = [row for row in report["utterances"] if row["set"] == name]
        assert (result["utterances"], result["words"]) == (2, 6)
        for decoder in (*DECODERS, evaluate.ORACLE):
            expected = word_error_rate([r["reference"] for r in rows], [r["texts"][decoder] for r in rows])
            wer = result["decoders"][decoder]["wer"]
            assert wer["rate"] == pytest.approx(expected.rate, abs=1e-5)
            assert wer["interval"] == pytest.approx([expected.low, expected.high], abs=1e-5)
            if decoder != evaluate.ORACLE:
                assert result["decoders"][decoder]["real_time_factor"] > 0


def test_groups_that_the_manifest_knows_are_measured_apart(
    tiny_bundle: Path, manifest: Path, tmp_path: Path
) -> None:
    _evaluate(tiny_bundle, "--manifest", manifest, "--out", tmp_path / "results.json")
    report = json.loads((tmp_path / "results.json").read_text())
    cv, libri = report["sets"]["cv"]["groups"], report["sets"]["libri"]["groups"]
    assert set(cv) == {"accent", "age"}  # the corpus is the same everywhere
    assert set(cv["accent"]) == {"scottish", "not known"}
    assert set(cv["age"]) == {"child", "adult"}
    assert set(libri) == {"age"}
    assert set(libri["age"]) == {"twenties", "not known"}
    for groups in (cv["accent"], cv["age"], libri["age"]):
        for key in ("utterances", "speakers", "words"):
            assert sum(group[key] for group in groups.values()) == {"words": 6}.get(key, 2)
    rows = {row["accent"]: row for row in report["utterances"]}
    own = word_error_rate(["the cat sat"], [rows["scottish"]["texts"]["beam_lm"]]).rate
    assert cv["accent"]["scottish"]["wer"]["beam_lm"]["rate"] == pytest.approx(own, abs=1e-5)


@pytest.mark.parametrize(
    ("age", "group"), [("", ""), ("15", "child"), ("16", "adult"), (" 40 ", "adult"), ("teens", "teens")]
)
def test_ages_in_years_become_child_or_adult(age: str, group: str) -> None:
    assert evaluate.age_group(age) == group


def test_the_oracle_is_the_best_text_of_the_list_that_gpt2_ranks(
    tiny_bundle: Path, manifest: Path, tmp_path: Path
) -> None:
    bundle = Bundle.load(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    settings = replace(bundle.settings, decoding=replace(bundle.settings.decoding, rescore_nbest=3))
    bundle.with_changes(settings, {})
    transcriber = Transcriber.load(bundle.path)
    utterance = read_manifest(manifest)[0]
    ranked = transcriber.transcribe(read_bytes(utterance), DecodingOptions("beam_lm_rescore", nbest=50))
    assert len(ranked.hypotheses) == 3
    wanted = ranked.hypotheses[-1].text
    outcome = evaluate.judge(transcriber, replace(utterance, text=wanted))
    assert word_errors(wanted, outcome.texts[evaluate.ORACLE]) == 0


def test_limit_and_several_manifests(tiny_bundle: Path, manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "results.json"
    _evaluate(tiny_bundle, "--manifest", manifest, manifest, "--out", out, "--limit", "1")
    assert len(json.loads(out.read_text())["utterances"]) == 2


def test_a_recording_that_cannot_be_read_is_named(tiny_bundle: Path, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "audio.tar").write_bytes(b"not audio" * 9999)
    with pytest.raises(ValueError, match=r"audio.tar \(u0\)"):
        _evaluate(tiny_bundle, "--manifest", manifest, "--out", tmp_path / "results.json")
    assert not (tmp_path / "results.json").exists()
