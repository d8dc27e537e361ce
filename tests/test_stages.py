"""Waves: stages of a run, each with its data, loss and schedule, from the weights of the one before."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from asr.acoustic.kinds import build
from asr.features import FeatureSettings
from tests.speech_of_tones import write_corpus
from training.config import ConformerConfig, ResidualGruConfig, TrainConfig, load_config
from training.config_tables import ConfigError
from training.prepare import find_utterances, prepare
from training.presets import PRESETS
from training.tokenizer import train_tokenizer
from training.train import train

TEXTS = ["a cat sat", "on the mat", "a bad dog", "the cat ran", "no"]
MINIMAL = '[data]\ntrain = "a"\ndev = "b"\ntokenizer = "c"\n'
WAVES = """
[optim]
epochs = 2
lr = 3e-3
batch_s = 3.0
[[stages]]
name = "one batch"
batches = 1
[[stages]]
name = "augmented"
[stages.data]
train = "{other}"
[stages.augment]
start_epoch = 0
[stages.loss]
inter_ctc = 0.3
[stages.optim]
lr = 1e-3
schedule = "onecycle"
"""


def _config(tmp_path: Path, text: str, overrides: tuple[str, ...] = ()) -> TrainConfig:
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    return load_config(tmp_path / "c.toml", list(overrides))


def test_a_stage_changes_single_keys_of_an_effect(tmp_path: Path) -> None:
    text = MINIMAL + "[augment.gain]\nprobability = 0.4\n[[stages]]\nname = 'later'\n[stages.augment.gain]\n"
    config = _config(tmp_path, text + "start_epoch = 2\n")
    (later,) = config.waves()
    assert later.config.augment.gain == replace(config.augment.gain, start_epoch=2)
    assert later.config.augment.gain.probability == 0.4


def test_a_stage_changes_what_it_names_and_keeps_the_rest(tmp_path: Path) -> None:
    config = _config(tmp_path, MINIMAL + WAVES.format(other="z"), ("stages.0.optim.lr=5e-3",))
    first, second = config.waves()
    assert (first.name, first.batches, first.config.optim.lr) == ("one batch", 1, 5e-3)
    assert first.config.data == config.data
    assert second.batches == 0
    assert second.config.data == replace(config.data, train="z")
    assert second.config.augment.start_epoch == 0
    assert (second.config.optim.lr, second.config.optim.epochs) == (1e-3, 2)
    assert first.config.seed == config.seed != second.config.seed
    assert not second.config.stages


def test_a_run_without_stages_is_one(tmp_path: Path) -> None:
    config = _config(tmp_path, MINIMAL)
    assert [wave.config for wave in config.waves()] == [config]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[stages]]\nname = "x"\n[stages.optim]\nrate = 1\n', r"unknown key stages\.0\.optim\.rate"),
        ('[[stages]]\nname = "x"\n[stages.model]\nwidth = 1\n', r"unknown key stages\.0\.model"),
        ('[[stages]]\nname = "x"\n[stages.data]\ntokenizer = "y"\n', r"stages\.0\.data\.tokenizer"),
        ("[[stages]]\nbatches = 1\n", r"missing key stages\.0\.name"),
        ("[stages]\nbatches = 1\n", r"stages must be a list"),
        ('[model]\npreset = "huge"\n', r"model\.preset must be one of 'gru-xs'"),
        ('[model]\nkind = "transformer"\n', r"model\.kind must be one of 'residual_gru', 'conformer'"),
        ('[model]\nkind = "conformer"\ngru_blocks = 3\n', r"unknown key model\.gru_blocks"),
        ("[model]\nsubsampling = 5\n", r"model\.subsampling must be 4 or 8"),
        ("[model]\nself_condition_every = 2\n", r"self_condition_every needs loss\.inter_ctc"),
        ("[model]\ngru_blocks = 1\n[loss]\ninter_ctc = 0.3\n", r"inter_ctc: the model has no block"),
        ("[loss]\ninter_ctc = 1.5\n", r"inter_ctc must be in 0\.\.1"),
        ("[loss]\nphone_ctc = 1.1\n", r"phone_ctc and crf must be in 0\.\.1"),
        ("[loss]\ncrf = 0.5\n", r"crf needs phone_ctc"),
        ("[loss]\nphone_ctc = 0.4\n", r"loss\.phone_ctc needs data\.lexicon"),
        ('[[stages]]\nname = "x"\n[stages.loss]\nphone_ctc = 0.4\n', r"loss\.phone_ctc needs data\.lexicon"),
        ('[[stages]]\nname = "x"\n[stages.data]\nlexicon = "y"\n', r"stages\.0\.data\.lexicon"),
        ("[optim]\naccumulate = 0\n", r"accumulate and evaluate_every must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _config(tmp_path, MINIMAL + text)


@pytest.mark.parametrize("override", ["stages.3.optim.lr=1", "stages.0.name.x.y=1", "stages.x=1"])
def test_overrides_of_what_is_not_there_are_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        _config(tmp_path, MINIMAL + WAVES.format(other="z"), (override,))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_make_a_model_and_can_be_changed(tmp_path: Path, name: str) -> None:
    config = _config(tmp_path, MINIMAL + f'[model]\npreset = "{name}"\ndropout = 0.2\nsubsampling = 8\n')
    assert isinstance(config.model, ResidualGruConfig if name.startswith("gru") else ConformerConfig)
    assert (config.model.dropout, config.model.subsampling) == (0.2, 8)
    assert config.model.width == PRESETS[name]["width"]
    plain = _config(tmp_path, MINIMAL + f'[model]\npreset = "{name}"\n').model
    with torch.device("meta"):
        size = sum(p.numel() for p in build(plain.settings(vocab_size=256, n_mels=80)).parameters())
    documented = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    assert re.search(rf"^\| `{name}` \|.*\| {size / 1e6:.1f} \|$", documented, re.MULTILINE)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    for name, texts in (("a", TEXTS), ("b", [*TEXTS, "go on and on"])):
        write_corpus(folder / f"corpus-{name}", texts)
        prepare(find_utterances(folder / f"corpus-{name}"), folder / name, FeatureSettings(), workers=1)
    (folder / "tokenizer.model").write_bytes(train_tokenizer(TEXTS, 55, kind="char").model_proto)
    return folder


MODELS = {
    "gru": """\
subsampling = 8
upsampling = 2
conv_channels = 4
conv_blocks = 0
width = 16
gru_hidden = 8
gru_blocks = 2
dropout = 0.0""",
    "conformer": """\
kind = "conformer"
conv_channels = 4
width = 16
heads = 2
blocks = 2
kernel = 5
expansion = 2
dropout = 0.0""",
}


@pytest.mark.parametrize("model", MODELS)
def test_a_stage_starts_from_the_last_ones_weights(corpora: Path, tmp_path: Path, model: str) -> None:
    text = f"""
[data]
train = "{corpora / "a"}"
dev = "{corpora / "a"}"
tokenizer = "{corpora / "tokenizer.model"}"
[model]
{MODELS[model]}
{WAVES.format(other=corpora / "b")}
"""
    config = _config(tmp_path, text)
    train(config, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    scored = [(row["stage"], row["epoch"], row["step"]) for row in rows if "dev" in row]
    assert scored[:2] == [(0, 1, 1), (0, 2, 2)]  # one batch: a step an epoch
    assert [place[:2] for place in scored[2:]] == [(1, 1), (1, 2)]
    assert scored[-1][2] > 4
    summary = json.loads((tmp_path / "run" / "train.json").read_text())
    assert summary["acoustic"]["kind"] == config.model.kind
    assert summary["data"].startswith("a: 5 utterances")
    assert "b: 6 utterances" in summary["data"]

    # the second stage by itself, from the first one's weights, gives the run's result
    train(config.waves()[1].config, tmp_path / "second", init=tmp_path / "run" / "stage-1.safetensors")
    weights, alone = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "second"))
    assert all(torch.equal(value, alone[name]) for name, value in weights.items())
    first = load_file(tmp_path / "run" / "stage-1.safetensors")
    assert not torch.equal(weights["output.bias"], first["output.bias"])


def test_compiled_steps_are_the_steps(corpora: Path, tmp_path: Path) -> None:
    """`torch.compile`'s tracer, without a code generator, on batches of several lengths."""
    text = f"""
[data]
train = "{corpora / "b"}"
dev = "{corpora / "a"}"
tokenizer = "{corpora / "tokenizer.model"}"
[model]
{MODELS["conformer"]}
[optim]
epochs = 1
batch_s = 3.0
[log]
every_steps = 1
"""
    losses = []
    for backend in ("", "eager"):
        config = _config(tmp_path, text, (f'optim.compile="{backend}"',))
        train(config, tmp_path / f"run-{backend}")
        rows = (tmp_path / f"run-{backend}" / "log.jsonl").read_text().splitlines()
        losses.append([json.loads(row)["loss"] for row in rows if "train_loss" not in row])
    assert len(losses[0]) > 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
