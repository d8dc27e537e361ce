"""A run that is killed at any moment, also while it saves, ends with the weights of the run that was not.

The killed runs are processes of their own that get SIGKILL, from a fork server, so that they start quickly.
"""

import dataclasses
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from asr.features import FeatureSettings
from asr.tokenizer import Tokenizer
from tests.speech_of_tones import write_corpus
from training import whole_file
from training.checkpoint import CHECKPOINT, PREVIOUS, Checkpoint, CheckpointError
from training.config import TrainConfig, load_config
from training.prepare import find_utterances, prepare
from training.tokenizer import train_tokenizer
from training.train import train

TEXTS = ["a cat sat", "on the mat", "a bad dog", "the cat ran", "no", "go on and on"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Two stages with every kind of state (dropout, augmentation, averages), a checkpoint at every step."""
    folder = tmp_path_factory.mktemp("resume")
    write_corpus(folder / "corpus", TEXTS)
    prepare(find_utterances(folder / "corpus"), folder / "data", FeatureSettings(), workers=1)
    (folder / "tokenizer.model").write_bytes(train_tokenizer(TEXTS, 55, kind="char").model_proto)
    (folder / "run.toml").write_text(
        f"""
checkpoint_minutes = 0.0
[data]
train = "{folder / "data"}"
dev = "{folder / "data"}"
tokenizer = "{folder / "tokenizer.model"}"
[model]
subsampling = 4
conv_channels = 4
conv_blocks = 1
width = 24
gru_hidden = 16
gru_blocks = 2
[augment]
start_epoch = 1
[loss]
inter_ctc = 0.3
cr_ctc = 0.2
[optim]
epochs = 2
batch_s = 3.0
[log]
every_steps = 1
[[stages]]
name = "one batch"
batches = 1
[stages.optim]
epochs = 3
evaluate_every = 3
[[stages]]
name = "all"
[stages.optim]
epochs = 6
accumulate = 2
average_epochs = 2
schedule = "noam"
""",
        encoding="utf-8",
    )
    return load_config(folder / "run.toml", [])


@pytest.fixture(scope="module")
def unbroken(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    train(config, out)
    return out


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.train", "tests.test_resume"])
    return context


def _train_until_the_save(config: TrainConfig, out: Path, nth: int) -> None:
    """Train, and die by SIGKILL in the middle of its nth writing of weights."""
    torch.set_num_threads(1)
    whole, left = whole_file.os.fsync, nth

    def fsync(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.ftruncate(descriptor, 1000)  # what a write that got no further leaves
            os.kill(os.getpid(), signal.SIGKILL)
        whole(descriptor)

    whole_file.os.fsync = fsync
    train(config, out)


def test_killed_at_any_moment_it_ends_with_the_weights_of_the_unbroken_run(
    config: TrainConfig, unbroken: Path, tmp_path: Path, processes: ForkServerContext
) -> None:
    out, rng, killed, killed_saving = tmp_path / "run", random.Random(5), 0, 0
    for attempt in range(30):
        if attempt in (1, 3):
            process = processes.Process(target=_train_until_the_save, args=(config, out, 2))
            process.start()
        else:
            process = processes.Process(target=train, args=(config, out))
            process.start()
            if attempt < 5:
                _wait_for_a_step(out, process)
                process.join(rng.uniform(0.0, 0.02))
                process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode == 0:
            break
        killed += 1
        killed_saving += any(out.glob("*.tmp"))
    assert killed >= 4
    assert killed_saving >= 2
    assert (out / "train.json").exists()
    _assert_equal_runs(out, unbroken)


def _wait_for_a_step(out: Path, process: multiprocessing.process.BaseProcess) -> None:
    """Until there is another checkpoint than now, or the process has ended."""
    checkpoint = out / CHECKPOINT
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    while process.is_alive():
        if checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:
            return
        time.sleep(0.002)


def _assert_equal_runs(one: Path, other: Path) -> None:
    """Bit for bit: every stage's weights, and what the log says of every step."""
    for name in ("stage-1.safetensors", "model.safetensors"):
        mine, theirs = load_file(one / name), load_file(other / name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine), name
    summaries = [json.loads((run / "train.json").read_text()) for run in (one, other)]
    for key in ("steps", "dev_greedy", "data"):
        assert summaries[0][key] == summaries[1][key]
    logs = [(run / "log.jsonl").read_text().splitlines() for run in (one, other)]
    rows = [[{k: v for k, v in json.loads(row).items() if k != "minutes"} for row in log] for log in logs]
    assert rows[0] == rows[1]


def test_the_same_seed_gives_the_same_run_and_another_another(
    config: TrainConfig, unbroken: Path, tmp_path: Path
) -> None:
    random.seed(99)  # whatever state the process is in
    torch.manual_seed(99)
    train(config, tmp_path / "again")
    _assert_equal_runs(tmp_path / "again", unbroken)
    train(dataclasses.replace(config, seed=2), tmp_path / "other", stop_after_steps=1)
    other = Checkpoint.read(tmp_path / "other" / CHECKPOINT).tensors
    first = load_file(unbroken / "model.safetensors")
    assert not any(torch.equal(other[f"model.{name}"], first[name]) for name in first if "weight" in name)


def test_a_checkpoint_carries_configuration_tokenizer_and_generators(
    config: TrainConfig, tmp_path: Path
) -> None:
    train(config, tmp_path / "run", stop_after_steps=4)
    state = (random.getstate(), torch.get_rng_state())
    saved = Checkpoint.read(tmp_path / "run" / CHECKPOINT)
    assert saved.config == json.loads(json.dumps(dataclasses.asdict(config)))
    tokenizer = Tokenizer(saved.tensors["tokenizer"].numpy().tobytes())
    assert tokenizer.pieces == Tokenizer.load(Path(config.data.tokenizer)).pieces
    random.seed(1)
    torch.manual_seed(1)
    saved._restore_generators()
    assert random.getstate() == state[0]
    assert torch.equal(torch.get_rng_state(), state[1])
    assert (saved.progress.step, saved.progress.stage, saved.progress.stage_step) == (4, 1, 1)


def test_another_tokenizer_or_model_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    train(config, tmp_path / "run", stop_after_steps=1)
    wider = dataclasses.replace(config, model=dataclasses.replace(config.model, width=32))
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors has another model.*size mismatch"):
        train(wider, tmp_path / "run")
    other = tmp_path / "other.model"
    other.write_bytes(train_tokenizer(TEXTS, 57, kind="unigram").model_proto)
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors has another tokenizer"):
        train(
            dataclasses.replace(config, data=dataclasses.replace(config.data, tokenizer=str(other))),
            tmp_path / "run",
        )


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty", "text"])
def test_a_corrupt_checkpoint_is_named_and_the_one_before_goes_on(
    config: TrainConfig, unbroken: Path, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    content = bytearray((out / CHECKPOINT).read_bytes())
    if damage == "altered":
        content[-2000] ^= 1
    changed = {"truncated": content[:-100], "altered": content, "empty": b"", "text": b"no tensors" * 9}
    (out / CHECKPOINT).write_bytes(changed[damage])
    with pytest.raises(CheckpointError, match=rf"checkpoint\.safetensors is .*{PREVIOUS}"):
        train(config, out)
    if damage == "truncated":
        (out / PREVIOUS).replace(out / CHECKPOINT)
        train(config, out)
        _assert_equal_runs(out, unbroken)


def test_a_full_disk_while_saving_leaves_the_checkpoint_that_was_there(
    config: TrainConfig, unbroken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train(config, out, stop_after_steps=3)
    (out / "checkpoint.tmp").symlink_to("/dev/full")  # every write to it says: no space left on device
    with pytest.raises(OSError, match=r"checkpoint\.safetensors cannot be written .*[Nn]o space left"):
        train(config, out)
    assert not (out / "checkpoint.tmp").is_symlink()
    assert Checkpoint.read(out / CHECKPOINT).progress.step == 3
    train(config, out)  # there is space again
    _assert_equal_runs(out, unbroken)


def test_a_resumed_run_says_what_its_configuration_changed(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config, tmp_path / "run", stop_after_steps=1)
    changed = dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=7e-4))
    train(changed, tmp_path / "run", stop_after_steps=2)
    said = capsys.readouterr().out
    assert "resumed at step 1" in said
    assert "optim.lr was 0.0015 in the checkpoint, is 0.0007" in said
