"""Batches from prepared features and from recordings: the same whoever makes them, wherever they start."""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from asr.audio import read_audio
from asr.features import FeatureSettings, log_mel
from asr.tokenizer import Tokenizer
from tests.speech_of_tones import flac_bytes, spoken
from training.cli import main as asr_train
from training.config import ConfigError, TrainConfig, load_config
from training.corpus import Corpus
from training.examples import Batch
from training.loader import Loader
from training.manifest import read_bytes
from training.tokenizer import train_tokenizer
from training.train import train

TEXTS = ["a cat sat", "on the mat", "a bad dog", "the cat ran", "dogs eat", "red cat", "no", "go on and on"]
CPU = torch.device("cpu")
LOUD = (
    "augment.start_epoch=1",
    "augment.speed.probability=0.5",
    "augment.pitch.probability=0.5",
    "augment.room.probability=0.5",
    "augment.coloured_noise.probability=0.5",
    "augment.gain.probability=0.5",
    "augment.codec.probability=0.5",
)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of FLAC files, prepared with and without features, and a run's TOML."""
    folder = tmp_path_factory.mktemp("loader")
    shards = folder / "shards"
    shards.mkdir()
    rows = []
    with tarfile.open(shards / "audio-00.tar", "w") as archive:
        for number, text in enumerate(TEXTS):
            content = flac_bytes(spoken(text, number))
            member = tarfile.TarInfo(f"u{number}.flac")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
            rows.append({"audio": member.name, "text": text, "corpus": "tones"})
    (shards / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _prepare(shards, folder / "features")
    _prepare(shards, folder / "audio", "--no-features")
    (folder / "tokenizer.model").write_bytes(train_tokenizer(TEXTS, 55, kind="char").model_proto)
    (folder / "run.toml").write_text(
        f"""
[data]
train = "{folder / "audio"}"
dev = "{folder / "audio"}"
tokenizer = "{folder / "tokenizer.model"}"
source = "audio"
[model]
subsampling = 4
conv_channels = 4
conv_blocks = 1
width = 16
gru_hidden = 8
gru_blocks = 1
[augment]
start_epoch = 1
[optim]
epochs = 2
batch_s = 4.0
"""
    )
    return folder


def _prepare(source: Path, out: Path, *more: str) -> None:
    asr_train(["prepare", str(source), "--out", str(out), "--workers", "1", *more])


def _corpus(workplace: Path, *overrides: str) -> tuple[Corpus, TrainConfig]:
    config = load_config(workplace / "run.toml", list(overrides))
    tokenizer = Tokenizer.load(Path(config.data.tokenizer))
    return Corpus(Path(config.data.train), tokenizer, config), config


def _equal(ones: Iterator[Batch], others: Iterator[Batch]) -> int:
    n = 0
    for one, other in zip(ones, others, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        n += 1
    return n


def test_recordings_give_the_services_features(workplace: Path) -> None:
    assert not (workplace / "audio" / "features.f16").exists()
    corpus, _ = _corpus(workplace)
    features_BTF, lengths_B, targets_BL, target_lengths_B = corpus.batch(np.arange(8), CPU)
    for row, utterance in enumerate(corpus.utterances):
        expected_TF = log_mel(read_audio(read_bytes(utterance), max_duration_s=30), FeatureSettings())
        assert torch.equal(features_BTF[row, : lengths_B[row]], expected_TF)
        assert not features_BTF[row, lengths_B[row] :].any()
        assert corpus.tokenizer.decode(targets_BL[row, : target_lengths_B[row]].tolist()) == utterance.text


def test_recordings_and_prepared_features_are_augmented_alike(workplace: Path) -> None:
    (audio, _), (features, _) = (
        _corpus(workplace, f'data.train="{workplace / kind}"', f"data.source={kind}")
        for kind in ("audio", "features")
    )
    draws = [(3, 0, place) for place in range(8)]
    for one, other in zip(
        audio.batch(np.arange(8), CPU, draws), features.batch(np.arange(8), CPU, draws), strict=True
    ):
        torch.testing.assert_close(one, other, atol=8e-3, rtol=0)


@pytest.mark.parametrize("source", ["audio", "features"])
def test_workers_make_the_same_batches_and_start_anywhere(workplace: Path, source: str) -> None:
    overrides = LOUD if source == "audio" else LOUD[:1]
    corpus, config = _corpus(
        workplace, f'data.train="{workplace / source}"', f"data.source={source}", *overrides
    )
    alone, two = (Loader(corpus.maker, CPU, workers=n, prefetch=2) for n in (0, 2))
    batches = corpus.batches(config, epoch=1)
    assert len(batches) > 3
    for first in (0, 2):  # the second stream ends the first, which is left half read
        half_read = two.stream(corpus.requests(batches, epoch=1))
        next(half_read)
        ones, others = (
            loader.stream(corpus.requests(batches, epoch=1, first=first)) for loader in (alone, two)
        )
        assert _equal(ones, others) == len(batches) - first
    if source == "audio":
        gone = replace(corpus.examples(np.array([0]))[0], name="u-gone", path=workplace / "gone.flac")
        for loader in (alone, two):
            with pytest.raises(ValueError, match=r"^u-gone, in .*gone\.flac"):
                next(loader.stream([[gone]]))
    two.close()


def test_processes_share_a_batch_without_changing_it(workplace: Path) -> None:
    corpus, config = _corpus(workplace, *LOUD, "optim.batch_s=9.0")
    batches = corpus.batches(config, epoch=1)
    whole = Loader(corpus.maker, CPU).stream(corpus.requests(batches, epoch=1))
    parts = [
        Loader(corpus.maker, CPU).stream(corpus.requests(batches, epoch=1, rank=r, world=3)) for r in range(3)
    ]
    for together, *shares in zip(whole, *parts, strict=True):
        for rank, (features_BTF, lengths_B, _, _) in enumerate(shares):
            assert torch.equal(lengths_B, together[1][rank::3])
            for mine_TF, all_TF, length in zip(features_BTF, together[0][rank::3], lengths_B, strict=True):
                assert torch.equal(mine_TF[:length], all_TF[:length])


def test_waveform_augmentation_starts_at_its_epoch_and_changes_every_time(workplace: Path) -> None:
    overrides = [
        f"augment.{name}.{key}=1"
        for name in ("gain", "coloured_noise")
        for key in ("probability", "start_epoch")
    ]
    corpus, _ = _corpus(workplace, "augment.start_epoch=9", *overrides)
    plain, before, after, again, other = (
        corpus.batch(np.arange(1), CPU, draws)[0]
        for draws in (None, [(0, 0, 0)], [(1, 0, 0)], [(1, 0, 0)], [(1, 1, 0)])
    )
    assert torch.equal(plain, before)
    assert torch.equal(after, again)
    assert not torch.equal(before, after)
    assert not torch.equal(after, other)


def test_training_from_recordings_resumes_exactly(workplace: Path, tmp_path: Path) -> None:
    _, config = _corpus(workplace, *LOUD)
    train(config, tmp_path / "unbroken")
    train(config, tmp_path / "broken", stop_after_steps=1)
    train(config, tmp_path / "broken", stop_after_steps=6)
    train(config, tmp_path / "broken")
    unbroken, broken = (load_file(tmp_path / name / "model.safetensors") for name in ("unbroken", "broken"))
    assert all(torch.equal(value, broken[name]) for name, value in unbroken.items())


def test_missing_recordings_are_counted_and_named(workplace: Path, tmp_path: Path) -> None:
    lines = (workplace / "audio" / "manifest.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows[2]["audio"] = str(tmp_path / "gone.tar")
    rows[5]["offset"] = 10**9
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus, _ = _corpus(workplace, f'data.train="{tmp_path}"')
    assert len(corpus) == 6
    assert "left out: 2 recording missing or too short: missing are u2 (" in corpus.summary
    assert "gone.tar" in corpus.summary
    (tmp_path / "manifest.jsonl").write_text(json.dumps(rows[2]) + "\n")
    with pytest.raises(ValueError, match=r"no utterance can be used .*gone\.tar"):
        _corpus(workplace, f'data.train="{tmp_path}"')


def test_a_transcript_outside_the_vocabulary_or_too_long_is_counted(workplace: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (workplace / "audio" / "manifest.jsonl").read_text().splitlines()]
    rows[0]["text"] = "caf\u00e9 42"
    rows[1]["text"] = "on the mat " * 20
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus, _ = _corpus(workplace, f'data.train="{tmp_path}"')
    assert len(corpus) == 6
    assert "1 not spellable" in corpus.summary
    assert "1 more labels than frames" in corpus.summary


def test_waveform_augmentation_of_features_is_refused(workplace: Path) -> None:
    features = (f'data.train="{workplace / "features"}"', "data.source=features")
    with pytest.raises(ValueError, match=r"augment\.gain changes the waveform: it needs"):
        _corpus(workplace, *features, "augment.gain.probability=0.5")


def test_impossible_data_settings_are_refused(workplace: Path) -> None:
    for override, message in (
        ("data.workers=-1", "workers must not be negative"),
        ("data.source=video", "must be one of 'features', 'audio'"),
        ("augment.gain.loud=1", r"unknown key augment\.gain\.loud"),
        ("augment.speed.low=0.1", r"augment\.speed.*0\.5\.\.2"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(workplace / "run.toml", [override])
