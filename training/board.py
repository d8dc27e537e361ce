"""A run to look at: TensorBoard (`[log] tensorboard = true`) and Weights & Biases (`[log] wandb = true`).

Both show losses, learning rate, gradient norm, WER and CER per dev set, spectrograms of augmented training
utterances, the worst predictions with their recordings, and histograms of the weights. Neither package is
imported unless asked for. `tensorboard --logdir RUN/tensorboard`
"""

import importlib
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from asr.audio import SAMPLE_RATE, read_audio
from asr.errors import AsrError
from training.config import TrainConfig
from training.config_tables import ConfigError
from training.corpus import Corpus
from training.dev_scores import DevScores
from training.losses import Batch
from training.manifest import read_bytes

MAX_AUDIO_S = 30.0


class Sink(Protocol):
    """Where things to look at go."""

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...
    def image(self, name: str, image_HW: np.ndarray, step: int) -> None: ...
    def audio(self, name: str, samples: np.ndarray, step: int) -> None: ...
    def table(self, name: str, columns: list[str], rows: list[list[str]], step: int) -> None: ...
    def histogram(self, name: str, values: np.ndarray, step: int) -> None: ...
    def close(self) -> None: ...


class Board:
    """Every sink that the configuration asks for; none in most processes."""

    def __init__(self, sinks: list[Sink], examples: int) -> None:
        self._sinks, self._examples = sinks, examples

    @classmethod
    def open(cls, out: Path, config: TrainConfig, *, step: int, quiet: bool) -> "Board":
        """step: what the run goes on from; later entries of an earlier session are hidden.

        Raises ConfigError when a package is asked for that is not installed.
        """
        sinks: list[Sink] = []
        if config.log.tensorboard and not quiet:
            sinks.append(TensorBoardSink(out / "tensorboard", step))
        if config.log.wandb and not quiet:
            sinks.append(WandbSink(out, config))
        return cls(sinks, config.log.examples)

    def __bool__(self) -> bool:
        return bool(self._sinks)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for sink in self._sinks:
            sink.scalars(values, step)

    def spectrograms(self, batch: Batch, step: int) -> None:
        """The first utterances of a training batch as the model gets them, low frequencies at the bottom."""
        for sink in self._sinks:
            for row in range(min(self._examples, len(batch))):
                features_TF = batch.views[0][row, : int(batch.lengths_B[row])].float().cpu().numpy()
                sink.image(f"spectrogram/{row}", picture(features_TF), step)

    def scored(self, scores: DevScores, dev: Corpus, model: torch.nn.Module, step: int) -> None:
        """Error rates, worst predictions with their recordings, weights."""
        if not self._sinks:
            return
        rates = {f"dev/{name}/{key}": rate for name, rs in scores.sets.items() for key, rate in rs.items()}
        rows = [[p.reference, p.text, str(p.errors)] for p in scores.worst]
        recordings = [(place, _samples(dev, p.index)) for place, p in enumerate(scores.worst)]
        for sink in self._sinks:
            sink.scalars(rates, step)
            sink.table("worst", ["reference", "greedy", "wrong words"], rows, step)
            for place, samples in recordings:
                if samples is not None:
                    sink.audio(f"worst/{place}", samples, step)
            for name, parameter in model.named_parameters():
                sink.histogram(f"weights/{name}", parameter.detach().float().cpu().numpy(), step)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


class TensorBoardSink:
    def __init__(self, folder: Path, step: int) -> None:
        try:
            tensorboard = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise ConfigError(
                f"log.tensorboard = true needs pip install 'asr-sound[tensorboard]' ({error})"
            ) from error
        self._writer = tensorboard.SummaryWriter(str(folder), purge_step=step + 1)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, name: str, image_HW: np.ndarray, step: int) -> None:
        self._writer.add_image(name, image_HW, step, dataformats="HW")

    def audio(self, name: str, samples: np.ndarray, step: int) -> None:
        self._writer.add_audio(name, torch.from_numpy(samples)[None], step, sample_rate=SAMPLE_RATE)

    def table(self, name: str, columns: list[str], rows: list[list[str]], step: int) -> None:
        lines = [" | ".join(columns), " | ".join("---" for _ in columns), *(" | ".join(row) for row in rows)]
        self._writer.add_text(name, "\n".join(f"| {line} |" for line in lines), step)

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        self._writer.add_histogram(name, values, step)

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    def __init__(self, out: Path, config: TrainConfig) -> None:
        try:
            self._wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise ConfigError(f"log.wandb = true needs pip install wandb ({error})") from error
        id_file = out / "wandb_id"  # a resumed run goes on in the same place
        if not id_file.exists():
            id_file.write_text(uuid.uuid4().hex, encoding="utf-8")
        self._run = self._wandb.init(
            project=config.log.wandb_project,
            name=out.name,
            id=id_file.read_text(encoding="utf-8"),
            resume="allow",
            dir=str(out),
            config=asdict(config),
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def image(self, name: str, image_HW: np.ndarray, step: int) -> None:
        self._run.log({name: self._wandb.Image(image_HW)}, step=step)

    def audio(self, name: str, samples: np.ndarray, step: int) -> None:
        self._run.log({name: self._wandb.Audio(samples, sample_rate=SAMPLE_RATE)}, step=step)

    def table(self, name: str, columns: list[str], rows: list[list[str]], step: int) -> None:
        self._run.log({name: self._wandb.Table(columns=columns, data=rows)}, step=step)

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        self._run.log({name: self._wandb.Histogram(values)}, step=step)

    def close(self) -> None:
        self._run.finish()


def picture(features_TF: np.ndarray) -> np.ndarray:
    """Features as grey values, uint8 (F, T), low frequencies at the bottom; 2.5 deviations fill the range."""
    spread = max(float(features_TF.std()), 1e-6)
    scaled_TF = 127.5 + 51.0 * (features_TF - features_TF.mean()) / spread
    image_FT: np.ndarray = np.clip(scaled_TF, 0, 255).astype(np.uint8).T[::-1]
    return np.ascontiguousarray(image_FT)


def _samples(dev: Corpus, index: int) -> np.ndarray | None:
    """The recording, where it can still be read."""
    try:
        return read_audio(read_bytes(dev.utterances[index]), max_duration_s=MAX_AUDIO_S)
    except (AsrError, OSError):
        return None
