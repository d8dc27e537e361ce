"""The training loop on a made-up language:

it learns, resumes exactly and agrees with itself over processes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from asr.acoustic.kinds import build
from asr.acoustic.residual_gru import ResidualGruSettings
from asr.audio import read_audio
from asr.features import FeatureSettings, log_mel
from asr.tokenizer import Tokenizer
from tests.speech_of_tones import write_corpus
from training.cli import main
from training.config import OptimConfig, TrainConfig, load_config
from training.corpus import Corpus
from training.dev_scores import score_dev
from training.features_store import FeatureStore
from training.manifest import read_bytes
from training.optimisation import make_optimizers
from training.prepare import find_utterances, prepare
from training.tokenizer import train_tokenizer
from training.train import train

EIGHT = [
    "a cat sat",
    "on the mat",
    "a bad dog",
    "the cat ran",
    "dogs eat meat",
    "see the red cat",
    "no",
    "go on and on",
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    write_corpus(folder / "corpus", EIGHT)
    prepare(find_utterances(folder / "corpus"), folder / "data", FeatureSettings(), workers=1)
    (folder / "tokenizer.model").write_bytes(train_tokenizer(EIGHT, 55, kind="char").model_proto)
    (folder / "run.toml").write_text(
        f"""
seed = 3
[data]
train = "{folder / "data"}"
dev = "{folder / "data"}"
tokenizer = "{folder / "tokenizer.model"}"
[model]
subsampling = 4
conv_channels = 8
conv_blocks = 1
width = 64
gru_hidden = 48
gru_blocks = 1
[augment]
start_epoch = 2
[optim]
epochs = 4
lr = 4e-3
batch_s = 8.0
""",
        encoding="utf-8",
    )
    return folder


def _config(workplace: Path, *overrides: str) -> TrainConfig:
    return load_config(workplace / "run.toml", list(overrides))


def test_eight_utterances_are_overfitted_to_zero_errors(workplace: Path, tmp_path: Path) -> None:
    overrides = ("optim.epochs=90", "augment.start_epoch=999", "model.dropout=0.0", "optim.ema=0.9")
    config = _config(workplace, *overrides)
    train(config, tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "train.json").read_text())
    assert summary["dev_greedy"] == {"corpus": {"wer": 0.0, "cer": 0.0}}
    assert summary["steps"] == sum(1 for e in range(90) for _ in _corpus(config).batches(config, epoch=e))
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["dev"] == summary["dev_greedy"]
    # the weights that were kept are the ones that were scored
    weights = load_file(tmp_path / "run" / "model.safetensors")
    settings = config.model.settings(55, 80)
    scores = score_dev(settings, weights, _corpus(config), config.log, torch.device("cpu"))
    assert scores.sets == summary["dev_greedy"]
    assert [p.errors for p in scores.worst] == [0] * config.log.examples


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resumed_run_equals_the_unbroken_one_bit_for_bit(
    workplace: Path, tmp_path: Path, optimizer: str
) -> None:
    config = _config(workplace, f"optim.optimizer={optimizer}")
    train(config, tmp_path / "unbroken")
    train(config, tmp_path / "broken", stop_after_steps=2)
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    train(config, tmp_path / "broken", stop_after_steps=7)
    train(config, tmp_path / "broken")
    unbroken = load_file(tmp_path / "unbroken" / "model.safetensors")
    broken = load_file(tmp_path / "broken" / "model.safetensors")
    assert unbroken.keys() == broken.keys()
    for name, value in unbroken.items():
        assert torch.equal(value, broken[name]), name


def test_muon_moves_inner_matrices_and_adamw_the_rest() -> None:
    model = build(ResidualGruSettings(vocab_size=30, phones=20, tower_blocks=2))
    for parameter in model.gru_blocks[0].parameters():
        parameter.requires_grad_(False)
    adamw, muon = make_optimizers(model, OptimConfig(optimizer="muon"))
    names = {id(p): name for name, p in model.named_parameters()}
    moved = {
        one: {names[id(p)] for group in one.param_groups for p in group["params"]} for one in (adamw, muon)
    }
    assert not moved[adamw] & moved[muon]
    assert moved[adamw] | moved[muon] == {n for n, p in model.named_parameters() if p.requires_grad}
    assert {"tower.blocks.0.narrow.weight", "tower.projection.weight"} <= moved[muon]
    assert {"tower.output.weight", "tower.strides.0.weight", "tower.norm.weight"} <= moved[adamw]


def test_two_processes_take_the_step_of_one(workplace: Path, tmp_path: Path) -> None:
    """Same batches, same augmentation, gradients summed: the loss of every step agrees.

    Some batches have one utterance, so that the second process has none.
    """
    changes = (
        "model.dropout=0.0",
        "augment.start_epoch=0",
        "optim.lr=1e-4",
        "optim.batch_s=4",
        "optim.epochs=3",
    )
    config = _config(workplace, *changes)
    assert min(len(batch) for e in range(3) for batch in _corpus(config).batches(config, epoch=e)) == 1
    overrides = [part for change in (*changes, "log.every_steps=1") for part in ("--set", change)]
    arguments = ["-m", "training.cli", "train", str(workplace / "run.toml"), *overrides, "--out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[1]
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, launcher in (("one", []), ("two", two)):
        command = [sys.executable, *launcher, *arguments, str(tmp_path / name)]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    one, two_losses = (_step_losses(tmp_path / name) for name in ("one", "two"))
    assert len(one) > 12
    np.testing.assert_allclose(one, two_losses, rtol=1e-5)


def test_features_are_the_services_but_for_float16(workplace: Path) -> None:
    config = _config(workplace)
    corpus = _corpus(config)
    features_BTF, lengths_B, targets_BL, target_lengths_B = corpus.batch(np.arange(8), torch.device("cpu"))
    for row, utterance in enumerate(corpus.utterances):
        expected_TF = log_mel(read_audio(read_bytes(utterance), max_duration_s=30), FeatureSettings())
        assert lengths_B[row] == len(expected_TF)
        torch.testing.assert_close(features_BTF[row, : lengths_B[row]], expected_TF, atol=5e-3, rtol=0)
        assert corpus.tokenizer.decode(targets_BL[row, : target_lengths_B[row]].tolist()) == utterance.text


def test_augmentation_starts_at_its_epoch(workplace: Path) -> None:
    corpus = _corpus(_config(workplace))
    plain, before, after = (
        corpus.batch(np.arange(2), torch.device("cpu"), draws)[0]
        for draws in (None, [(1, 0, 0), (1, 0, 1)], [(2, 0, 0), (2, 0, 1)])
    )
    assert torch.equal(plain, before)
    assert plain.shape != after.shape or not torch.equal(plain, after)


def test_utterances_that_cannot_be_aligned_are_left_out_and_counted(workplace: Path, tmp_path: Path) -> None:
    config = _config(workplace, "model.subsampling=8", "data.max_duration_s=2.0")
    corpus = _corpus(config)
    assert 0 < len(corpus) < 8
    assert "too long" in corpus.summary
    assert len(FeatureStore(Path(config.data.train))) == 8


def test_unknown_config_key_ends_with_one_line(workplace: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"unknown key optim\.momentum"):
        main(
            [
                "train",
                str(workplace / "run.toml"),
                "--out",
                str(tmp_path / "x"),
                "--set",
                "optim.momentum=0.9",
            ]
        )


def _corpus(config: TrainConfig) -> Corpus:
    return Corpus(Path(config.data.train), Tokenizer.load(Path(config.data.tokenizer)), config)


def _step_losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]
