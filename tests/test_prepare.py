"""Corpora of all layouts to a manifest and features; bad files are listed and left out."""

import errno
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from asr.audio import SAMPLE_RATE, read_audio
from asr.features import FeatureSettings, raw_log_mel
from tests.speech_of_tones import flac_bytes, spoken, write_corpus, write_wav
from training.cli import main as asr_train
from training.features_store import FeatureStore, FeatureWriter
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
        (chapter / f"84-121123-{number:04}.flac").write_bytes(flac_bytes(spoken(text)))
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


def test_what_was_left_out_is_kept_in_a_file(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", TEXTS)
    (tmp_path / "corpus" / "utterance-01.txt").unlink()
    (tmp_path / "corpus" / "utterance-02.txt").write_bytes(b"caf\xe9")
    asr_train(["prepare", str(tmp_path / "corpus"), "--out", str(tmp_path / "out"), "--workers", "1"])
    rows = [json.loads(line) for line in (tmp_path / "out" / "left-out.jsonl").read_text().splitlines()]
    assert [(row["name"], row["reason"]) for row in rows] == [
        ("utterance-01", "no utterance-01.txt"),
        ("utterance-02", "utterance-02.txt is not UTF-8"),
    ]
    assert rows[0]["audio"] == str(tmp_path / "corpus" / "utterance-01.wav")


def test_common_voice_folder_takes_train_and_keeps_test_speakers_out(tmp_path: Path) -> None:
    folder = tmp_path / "en"
    (folder / "clips").mkdir(parents=True)
    for number, text in enumerate(TEXTS):
        (folder / "clips" / f"clip_{number}.mp3").write_bytes(flac_bytes(spoken(text)))
    header = "client_id\tpath\tsentence\tage\n"
    rows = [f'speaker{n}\tclip_{n}.mp3\t"{text.capitalize()}.\t\n' for n, text in enumerate(TEXTS)]
    (folder / "validated.tsv").write_text(header + "".join(rows))
    (folder / "test.tsv").write_text(header + rows[1])
    from_validated = find_utterances(folder)
    assert [u.name for u in from_validated] == ["clip_0", "clip_2"]
    (folder / "train.tsv").write_text(header + rows[2])
    kept, bad = prepare(find_utterances(folder), tmp_path / "out", FeatureSettings(), workers=1)
    assert not bad
    assert [(u.text, u.corpus, u.set, u.speaker) for u in kept] == [
        ("bad dog", "commonvoice", "train", "speaker2")
    ]
    assert [u.set for u in find_utterances(folder / "test.tsv")] == ["test"]
    (folder / "train.tsv").write_text("file\ttext\n")
    with pytest.raises(ValueError, match="lacks the columns `path` and `sentence`"):
        find_utterances(folder)


def test_manifest_lines_that_are_malformed_are_listed(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", TEXTS)
    lines = [
        {"audio_filepath": "corpus/utterance-00.wav", "text": "a cat sat", "duration": 1.0},
        {"audio_filepath": "corpus/utterance-01.wav", "text": "on a mat", "offset": 1.5, "duration": 1.0},
        {"audio": "corpus/utterance-01.wav"},
        {"audio": "corpus/gone.wav", "text": "on a mat"},
    ]
    manifest = tmp_path / "mine.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{not json\n")
    asr_train(["prepare", str(manifest), "--out", str(tmp_path / "out"), "--workers", "1"])
    assert [u.text for u in read_manifest(tmp_path / "out" / "manifest.jsonl")] == ["a cat sat"]
    rows = [json.loads(line) for line in (tmp_path / "out" / "left-out.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == [f"mine.jsonl, line {n}" for n in (2, 3, 5)] + ["gone"]
    assert "No such file" in rows[-1]["reason"]


def test_a_prepared_manifest_can_be_prepared_again(tmp_path: Path) -> None:
    _write_shards(tmp_path / "shards")
    prepare(
        find_utterances(tmp_path / "shards"), tmp_path / "out", FeatureSettings(), workers=1, features=False
    )
    assert not (tmp_path / "out" / "features.f16").exists()
    again, bad = prepare(find_utterances(tmp_path / "out"), tmp_path / "again", FeatureSettings(), workers=1)
    assert not bad
    assert [(u.text, u.speaker, u.set) for u in again] == [(t, f"s{n}", "cv") for n, t in enumerate(TEXTS)]
    _check_features(tmp_path / "again")


def test_speakers_who_name_their_files_alike(tmp_path: Path) -> None:
    for speaker in ("anna", "ben"):
        write_corpus(tmp_path / "audio" / speaker, [f"{speaker} said this"])
        (tmp_path / "transcriptions" / speaker).mkdir(parents=True)
        (tmp_path / "audio" / speaker / "utterance-00.txt").rename(
            tmp_path / "transcriptions" / speaker / "utterance-00.txt"
        )
    found = find_utterances(tmp_path)
    assert [(u.name, u.text.strip()) for u in found] == [
        (f"audio/{speaker}/utterance-00", f"{speaker} said this") for speaker in ("anna", "ben")
    ]


def test_several_processes_prepare_what_one_does(tmp_path: Path) -> None:
    _write_shards(tmp_path / "shards")
    found = find_utterances(tmp_path / "shards")
    for workers in (1, 2):
        prepare(found, tmp_path / str(workers), FeatureSettings(), workers=workers)
    for name in ("manifest.jsonl", "features.f16", "features.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_a_full_disk_leaves_the_corpus_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_shards(tmp_path / "shards")
    found = find_utterances(tmp_path / "shards")
    prepare(found[:2], tmp_path / "out", FeatureSettings(), workers=1)
    written = FeatureWriter.append
    monkeypatch.setattr(
        FeatureWriter,
        "append",
        lambda self, frames_TF: _disk_full() if len(self) else written(self, frames_TF),
    )
    with pytest.raises(SystemExit, match=r"asr-train prepare: .*No space left on device"):
        asr_train(["prepare", str(tmp_path / "shards"), "--out", str(tmp_path / "out"), "--workers", "1"])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "features.f16",
        "features.json",
        "manifest.jsonl",
    ]
    assert len(FeatureStore(tmp_path / "out")) == len(read_manifest(tmp_path / "out" / "manifest.jsonl")) == 2


def _disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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
