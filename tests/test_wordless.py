"""Recordings in which nobody speaks: made from a seed, prepared without a transcript, learned as silence."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from asr.audio import SAMPLE_RATE, read_audio
from tests.speech_of_tones import spoken, write_corpus, write_wav
from training.cli import main as asr_train
from training.manifest import WORDLESS, Utterance, read_bytes, read_manifest
from training.wordless import FEWEST_VOICES, LONGEST_S, SHORTEST_S, babble, pieces
from training.wordless_sounds import SOUNDS

WORDS = ["a cat sat", "on the mat", "a bad dog", "no"]


@pytest.mark.parametrize("kind", list(SOUNDS))
def test_sounds_are_heard_and_never_the_same(kind: str) -> None:
    one, again, other = (SOUNDS[kind][1](np.random.default_rng(seed), 3 * SAMPLE_RATE) for seed in (1, 1, 2))
    assert one.shape == (3 * SAMPLE_RATE,)
    assert np.isfinite(one).all()
    assert one.std() > 0
    np.testing.assert_array_equal(one, again)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.5


def test_pieces_have_the_lengths_and_levels_promised() -> None:
    for kinds, samples, _ in islice(pieces([], seed=3), 12):
        assert "babble" not in kinds  # there is no speech to make it of
        assert SHORTEST_S * SAMPLE_RATE - 1 <= len(samples) <= LONGEST_S * SAMPLE_RATE
        assert 0 < np.abs(samples).max() <= 1


def test_no_voice_stands_out_of_babble(tmp_path: Path) -> None:
    """Voices that are one tone each: the spectrum shows how loud each of them is."""
    times_s = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    voices = []
    for number in range(12):
        path = tmp_path / f"{number}.wav"
        loudness = 0.02 * (1 + number)
        write_wav(path, (loudness * np.sin(2 * np.pi * 500 * (number + 1) * times_s)).astype(np.float32))
        voices.append(Utterance(path, "a", 2.0))
    mixed = babble(np.random.default_rng(0), 2 * SAMPLE_RATE, voices)
    power = np.abs(np.fft.rfft(mixed))[1000::1000][:12] ** 2
    heard = power[power > power.max() / 100]
    assert len(heard) >= FEWEST_VOICES
    assert heard.max() / heard.min() < 10**0.42  # 4 dB, and what clipping the tones' edges adds


def test_corpus_is_prepared_without_transcripts_and_trained_on(tmp_path: Path) -> None:
    """One command each: sounds, features, a run that learns to write words on speech and none on sounds."""
    write_corpus(tmp_path / "speech", WORDS * 3)
    _prepare(tmp_path / "speech", out=tmp_path / "speech-data")
    asr_train(
        [
            "wordless",
            "--manifest",
            str(tmp_path / "speech-data" / "manifest.jsonl"),
            "--minutes",
            "0.5",
            "--seed",
            "5",
            "--out",
            str(tmp_path / "wordless"),
        ]
    )
    _prepare(tmp_path / "speech", tmp_path / "wordless", out=tmp_path / "data")
    rows = read_manifest(tmp_path / "data" / "manifest.jsonl")
    sounds = [u for u in rows if u.corpus == WORDLESS]
    assert [u.text for u in rows if u.corpus != WORDLESS] == WORDS * 3
    assert {(u.text, u.set) for u in sounds} == {("", WORDLESS)}
    assert sum(u.duration_s for u in sounds) >= 30
    for sound in sounds:
        assert len(read_audio(read_bytes(sound), max_duration_s=20)) == pytest.approx(
            sound.duration_s * SAMPLE_RATE, abs=20
        )
    asr_train(
        [
            "tokenizer",
            "--manifest",
            str(tmp_path / "data" / "manifest.jsonl"),
            "--kind",
            "char",
            "--out",
            str(tmp_path),
        ]
    )
    (tmp_path / "run.toml").write_text(
        f"""
seed = 1
[data]
train = "{tmp_path / "data"}"
dev = "{tmp_path / "data"}"
tokenizer = "{tmp_path / "tokenizer.model"}"
[model]
subsampling = 4
conv_channels = 4
conv_blocks = 0
width = 32
gru_hidden = 32
gru_blocks = 1
[augment]
start_epoch = 1
stretch_probability = 1.0
[optim]
epochs = 2
lr = 4e-3
batch_s = 12.0
""",
        encoding="utf-8",
    )
    asr_train(["train", str(tmp_path / "run.toml"), "--out", str(tmp_path / "run")])
    summary = json.loads((tmp_path / "run" / "train.json").read_text())
    assert summary["dev_greedy"].keys() == {"speech", WORDLESS}
    assert summary["dev_greedy"][WORDLESS] == {"wer": 0.0, "cer": 0.0}


def test_other_corpora_still_need_transcripts(tmp_path: Path) -> None:
    for corpus in ("speech", WORDLESS):
        (tmp_path / corpus).mkdir()
        write_wav(tmp_path / corpus / "a.wav", spoken("a"))
        (tmp_path / corpus / "a.txt").write_text("\n")
    _prepare(tmp_path / WORDLESS, tmp_path / "speech", out=tmp_path / "data")
    assert [u.corpus for u in read_manifest(tmp_path / "data" / "manifest.jsonl")] == [WORDLESS]
    assert "empty transcript" in (tmp_path / "data" / "left-out.jsonl").read_text()


def _prepare(*sources: Path, out: Path) -> None:
    asr_train(["prepare", *map(str, sources), "--out", str(out), "--workers", "1"])
