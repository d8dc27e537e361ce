"""Corpora of three layouts to a manifest and features; bad files are listed and left out."""

import io
import json
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from asr.audio import SAMPLE_RATE, read_audio
from asr.features import FeatureSettings, raw_log_mel
from tests.speech_of_tones import spoken, write_corpus, write_wav
from training.cli import main as asr_train
from training.features_store import FeatureStore
from training.manifest import read_bytes, read_manifest
from training.prepare import find_utterances, prepare

TEXTS = ["a cat sat", "on a mat", "bad dog"]


def test_folder_layout(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", TEXTS)
    asr_train(["prepare", str(tmp_path / "corpus"), "--out", str(tmp_path / "out"), "--workers", "1"])
    utterances = read_manifest(tmp_path / "out" / "manifest.jsonl")
    assert [u.text for u in utterances] == TEXTS
    assert utterances[0].duration_s == pytest.approx(len(spoken(TEXTS[0])) / SAMPLE_RATE, abs=1e-3)
    _check_features(tmp_path / "out")


def test_text_files_in_a_sibling_folder(tmp_path: Path) -> None:
    write_corpus(tmp_path / "audio", TEXTS)
    (tmp_path / "transcriptions").mkdir()
    for path in (tmp_path / "audio").glob("*.txt"):
        path.rename(tmp_path / "transcriptions" / path.name)
    assert [u.text.strip() for u in find_utterances(tmp_path)] == TEXTS


def test_librispeech_layout(tmp_path: Path) -> None:
    chapter = tmp_path / "LibriSpeech" / "dev-clean" / "84" / "121123"
    chapter.mkdir(parents=True)
    for number, text in enumerate(TEXTS):
        _write_flac(chapter / f"84-121123-{number:04}.flac", spoken(text))
    lines = [f"84-121123-{n:04} {t.upper()}" for n, t in enumerate(TEXTS)]
    (chapter / "84-121123.trans.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    kept, bad = prepare(find_utterances(tmp_path), tmp_path / "out", FeatureSettings(), workers=1)
    assert not bad
    assert [(u.text, u.speaker, u.name) for u in kept] == [
        (t, "84", f"84-121123-{n:04}") for n, t in enumerate(TEXTS)
    ]
    _check_features(tmp_path / "out")


def test_shards(tmp_path: Path) -> None:
    _write_shards(tmp_path / "shards")
    kept, bad = prepare(find_utterances(tmp_path / "shards"), tmp_path / "out", FeatureSettings(), workers=1)
    assert not bad
    assert [(u.text, u.set, u.speaker) for u in kept] == [(t, "cv", f"s{n}") for n, t in enumerate(TEXTS)]
    _check_features(tmp_path / "out")


def test_shard_that_is_cut_short_is_named(tmp_path: Path) -> None:
    _write_shards(tmp_path / "shards")
    (utterance, *_), shard = find_utterances(tmp_path / "shards"), tmp_path / "shards" / "audio-00.tar"
    shard.write_bytes(shard.read_bytes()[: utterance.offset + 100])
    with pytest.raises(OSError, match=utterance.name):
        read_bytes(utterance)


def test_bad_files_are_listed_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "corpus"
    write_corpus(corpus, TEXTS)
    for name, text in [
        ("digits", "in 1984"),
        ("wordless", "..."),
        ("noise", "not audio"),
        ("short", "a"),
        ("flat", "a"),
    ]:
        (corpus / f"{name}.txt").write_text(text, encoding="utf-8")
        write_wav(corpus / f"{name}.wav", spoken("a"))
    (corpus / "noise.wav").write_text("hello", encoding="utf-8")
    write_wav(corpus / "short.wav", spoken("a")[:1000])
    write_wav(corpus / "flat.wav", np.zeros(SAMPLE_RATE, np.float32))
    asr_train(["prepare", str(corpus), "--out", str(tmp_path / "out"), "--workers", "1"])
    assert [u.text for u in read_manifest(tmp_path / "out" / "manifest.jsonl")] == TEXTS
    said = " ".join(capsys.readouterr().out.split())
    for reason in (
        "spell it as spoken",
        "empty transcript",
        "not audio",
        "0.06 s long",
        "digital silence",
        "5 of 8",
    ):
        assert reason in said


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.wav").write_text("hello")
    (tmp_path / "corpus" / "a.txt").write_text("hello")
    with pytest.raises(SystemExit, match="nothing is left"):
        asr_train(["prepare", str(tmp_path / "corpus"), "--out", str(tmp_path / "out"), "--workers", "1"])


def test_unknown_layout_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no manifest\.jsonl, no \*\.trans\.txt"):
        find_utterances(tmp_path)


def test_malformed_manifest_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"audio": "a.wav", "text": "a", "duration": 1}\n{"audio": "b.wav"}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_manifest(tmp_path / "m.jsonl")


def test_what_a_stage_refuses_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text("{}\n")
    with pytest.raises(SystemExit, match=r"^asr-train tokenizer: .*m\.jsonl, line 1: KeyError\('audio'\)"):
        asr_train(["tokenizer", "--manifest", str(tmp_path / "m.jsonl"), "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^asr-train tokenizer: .*absent\.jsonl"):
        asr_train(["tokenizer", "--manifest", str(tmp_path / "absent.jsonl"), "--out", str(tmp_path)])


def test_features_that_do_not_match_their_index_are_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", TEXTS)
    prepare(find_utterances(tmp_path / "corpus"), tmp_path / "out", FeatureSettings(), workers=1)
    frames = tmp_path / "out" / "features.f16"
    frames.write_bytes(frames.read_bytes()[:-160])
    with pytest.raises(ValueError, match="prepare it again"):
        FeatureStore(tmp_path / "out")


def _check_features(folder: Path) -> None:
    """The store holds what the service would compute, to float16."""
    store = FeatureStore(folder)
    for number, utterance in enumerate(read_manifest(folder / "manifest.jsonl")):
        samples = read_audio(read_bytes(utterance), max_duration_s=30)
        expected_TF = raw_log_mel(samples, store.settings)
        torch.testing.assert_close(torch.from_numpy(store[number]), expected_TF, atol=8e-3, rtol=0)


def _write_shards(folder: Path) -> None:
    folder.mkdir()
    rows = []
    with tarfile.open(folder / "audio-00.tar", "w") as archive:
        for number, text in enumerate(TEXTS):
            write_wav(folder / "one.wav", spoken(text))
            content = (folder / "one.wav").read_bytes()
            member = tarfile.TarInfo(f"audio/u{number}.wav")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
            rows.append(
                {"audio": member.name, "text": text, "duration": 1.0, "speaker": f"s{number}", "set": "cv"}
            )
    (folder / "one.wav").unlink()
    (folder / "manifest.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def _write_flac(path: Path, samples: np.ndarray) -> None:
    with av.open(str(path), "w", format="flac") as out:
        stream = out.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            (samples * 32767).astype(np.int16)[None], format="s16", layout="mono"
        )
        frame.sample_rate = SAMPLE_RATE
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
