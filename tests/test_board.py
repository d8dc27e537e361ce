"""What TensorBoard and Weights & Biases are given: read back from event files and a stand-in for wandb."""

import importlib
import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from asr.bundle import NGRAM, UNIGRAMS
from asr.features import FeatureSettings
from tests.conftest import SENTENCES
from tests.speech_of_tones import write_corpus
from training.board import picture
from training.config import TrainConfig, load_config
from training.config_tables import ConfigError
from training.prepare import find_utterances, prepare
from training.tokenizer import train_tokenizer
from training.train import train

TEXTS = list(SENTENCES[:4])


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> TrainConfig:
    folder = tmp_path_factory.mktemp("board")
    write_corpus(folder / "corpus", TEXTS)
    prepare(find_utterances(folder / "corpus"), folder / "data", FeatureSettings(), workers=1)
    (folder / "tokenizer.model").write_bytes(train_tokenizer(SENTENCES, 55, kind="char").model_proto)
    (folder / "ngram").mkdir()
    (folder / "ngram" / NGRAM).write_bytes((tiny_bundle / NGRAM).read_bytes())
    (folder / "ngram" / "unigrams.txt").write_bytes((tiny_bundle / UNIGRAMS).read_bytes())
    (folder / "run.toml").write_text(
        f"""
[data]
train = "{folder / "data"}"
dev = "{folder / "data"}"
tokenizer = "{folder / "tokenizer.model"}"
[model]
subsampling = 8
upsampling = 2
conv_channels = 4
conv_blocks = 0
width = 16
gru_hidden = 8
gru_blocks = 2
[loss]
inter_ctc = 0.3
[optim]
epochs = 2
batch_s = 9.0
[log]
every_steps = 1
ngram = "{folder / "ngram"}"
beam_utterances = 2
examples = 2
""",
        encoding="utf-8",
    )
    return load_config(folder / "run.toml", [])


def test_tensorboard_has_the_run_and_goes_on_after_a_pause(config: TrainConfig, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    module = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    config = replace(config, log=replace(config.log, tensorboard=True))
    train(config, tmp_path / "run", stop_after_steps=2)
    train(config, tmp_path / "run")
    events = module.EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    tags = events.Tags()
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "train_loss" not in row]
    for key in ("loss", "inter_ctc", "lr", "grad_norm"):
        shown = {event.step: event.value for event in events.Scalars(f"train/{key}")}
        assert shown == pytest.approx({row["step"]: row[key] for row in steps}), key
    scored = [row for row in rows if "train_loss" in row]
    for key in ("wer", "cer", "beam_wer", "beam_cer"):
        shown = {event.step: event.value for event in events.Scalars(f"dev/corpus/{key}")}
        assert shown == pytest.approx({row["step"]: row["dev"]["corpus"][key] for row in scored}), key
    assert {"spectrogram/0", "spectrogram/1"} == set(tags["images"])
    picture_ = events.Images("spectrogram/0")[-1]
    assert picture_.height == 80
    assert {"worst/0", "worst/1"} == set(tags["audio"])
    assert events.Audio("worst/0")[-1].sample_rate == 16_000
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert {f"weights/{name}" for name in weights} == set(tags["histograms"])
    worst = events.Tensors("worst/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert any(text in worst for text in TEXTS)


class _Wandb(types.ModuleType):
    """Stands in for the package: keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.inits: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def init(self, **settings: Any) -> "_Wandb":
        self.inits.append(settings)
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1

    def Image(self, image: np.ndarray) -> tuple[str, tuple[int, ...]]:  # noqa: N802 - wandb's names
        return ("image", image.shape)

    def Audio(self, samples: np.ndarray, sample_rate: int) -> tuple[str, int]:  # noqa: N802
        return ("audio", sample_rate)

    def Table(self, columns: list[str], data: list[list[str]]) -> tuple[str, list[list[str]]]:  # noqa: N802
        return ("table", data)

    def Histogram(self, values: np.ndarray) -> tuple[str, int]:  # noqa: N802
        return ("histogram", values.size)


def test_weights_and_biases_gets_the_same(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = _Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config = replace(config, log=replace(config.log, wandb=True, wandb_project="speech"))
    train(config, tmp_path / "run", stop_after_steps=1)
    train(config, tmp_path / "run")
    first, second = wandb.inits
    assert (first["project"], first["resume"]) == ("speech", "allow")
    assert first["id"] == second["id"]
    assert first["config"]["optim"]["epochs"] == 2
    assert wandb.finished == 2
    values: dict[str, list[Any]] = {}
    for _, logged in wandb.logged:
        for name, value in logged.items():
            values.setdefault(name, []).append(value)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert values["train/loss"] == [row["loss"] for row in rows if "train_loss" not in row]
    assert values["dev/corpus/wer"] == [row["dev"]["corpus"]["wer"] for row in rows if "dev" in row]
    assert values["worst/0"] == [("audio", 16_000)] * 2
    kind, table = values["worst"][-1]
    assert kind == "table"
    assert table[0][0] in TEXTS
    steps = [step for step, _ in wandb.logged]
    assert steps == sorted(steps)


@pytest.mark.parametrize(("key", "package"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_an_absent_package_is_named_with_its_remedy(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"log\.{key} = true needs pip install"):
        train(replace(config, log=replace(config.log, **{key: True})), tmp_path / "run")


def test_neither_package_is_imported_unless_asked_for(config: TrainConfig, tmp_path: Path) -> None:
    source = (Path(__file__).parents[1] / "training" / "board.py").read_text()
    assert "\nimport wandb" not in source
    assert "\nfrom torch.utils.tensorboard" not in source
    train(config, tmp_path / "run", stop_after_steps=1)
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_spectrograms_low_bands_are_at_the_bottom() -> None:
    features_TF = np.zeros((30, 80), np.float32)
    features_TF[10:20, :8] = 3.0
    image_HW = picture(features_TF)
    assert image_HW.shape == (80, 30)
    assert image_HW.dtype == np.uint8
    assert image_HW[-4, 15] > image_HW[4, 15]
    assert picture(np.zeros((5, 80), np.float32)).std() == 0
