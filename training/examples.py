"""Batches of tensors from what the corpus points at. B utterances, T frames, F mel bands, L labels.

An `Example` says where an utterance's bytes lie and what its augmentation is drawn from; a `BatchMaker` turns
examples into a batch and holds nothing but settings. So worker processes need no corpus, and a batch is the
same whoever makes it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from asr.audio import SAMPLE_RATE, Samples, read_audio
from asr.errors import AsrError
from asr.features import FeatureSettings, normalised, raw_log_mel
from training.augment import augment, mask
from training.augment_config import AugmentConfig
from training.manifest import read_range
from training.waveform_draws import draw_effects, noise_files

# Epoch, step within it, place in the step's batch: what one utterance's augmentation is drawn from.
Draw = tuple[int, ...]
# (features_BTF, lengths_B, targets_BL, target_lengths_B), and with phones also (phones_BL, phone_lengths_B)
Batch = tuple[torch.Tensor, ...]

MAX_DURATION_S = 600.0  # of a decoded recording; the corpus leaves out long ones before
WAVEFORM_STREAM = 1  # beside a draw: so that waveform and features are not drawn from the same numbers


@dataclass(frozen=True)
class Example:
    """One utterance of one step."""

    name: str
    path: Path  # features file, or the file that holds the recording
    start: int  # first frame, or byte
    count: int  # frames, or bytes; -1: to the end
    target: tuple[int, ...]  # labels
    min_frames: int  # as few feature frames as the labels need
    draw: Draw | None  # None: no augmentation at all
    phones: tuple[int, ...] | None = None  # labels of the phone layer, for a model that has one


@dataclass(frozen=True)
class Trace:
    """An utterance on its way to the model, for people to hear and see."""

    samples: Samples | None  # as read; None where features are
    augmented_samples: Samples | None
    log_mels_TF: np.ndarray  # of the samples as read
    features_TF: np.ndarray  # what the model gets
    told: list[str]  # the draws


@dataclass(frozen=True)
class BatchMaker:
    """How examples become tensors."""

    audio: bool  # examples point at recordings; else at prepared log-mels
    settings: FeatureSettings
    augment: AugmentConfig
    seed: int
    noises: tuple[Path, ...] = ()

    @classmethod
    def create(
        cls, *, audio: bool, settings: FeatureSettings, augment: AugmentConfig, seed: int
    ) -> "BatchMaker":
        """Raises ValueError when waveform augmentation is asked for without audio, or without noise."""
        wanted = [name for name, probability in augment.waveform.items() if probability]
        if wanted and not audio:
            raise ValueError(
                f'augment.{wanted[0]} changes the waveform: it needs `source = "audio"` in [data]'
            )
        return cls(audio, settings, augment, seed, noise_files(augment))

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Tensors on the CPU, padded with zeros. Raises ValueError naming a recording that cannot be read."""
        features = [self.features(example) for example in examples]
        lengths_B = torch.tensor([len(f) for f in features], dtype=torch.int64)
        n_frames = max((len(f) for f in features), default=0)
        features_BTF = torch.zeros(len(features), n_frames, self.settings.n_mels)
        for row, one_TF in enumerate(features):
            features_BTF[row, : len(one_TF)] = torch.from_numpy(one_TF)
        made = features_BTF, lengths_B, *_labels([example.target for example in examples])
        phones = [example.phones for example in examples if example.phones is not None]
        return (*made, *_labels(phones)) if phones else made

    def features(self, example: Example) -> np.ndarray:
        """float32 (T, F), normalised as `asr.features.log_mel` does."""
        return self.trace(example).features_TF

    def trace(self, example: Example, *, for_people: bool = False) -> Trace:
        """Every stage of one utterance. for_people: with the log-mels as read, which training can spare."""
        told: list[str] = []
        samples = changed = None
        if self.audio:
            samples = _read(example)
            changed = self._heard(samples, example, told)
            log_mels_TF = raw_log_mel(changed, self.settings).numpy()
            before_TF = raw_log_mel(samples, self.settings).numpy() if for_people else log_mels_TF
        else:
            before_TF = log_mels_TF = _stored_frames(example, self.settings.n_mels)
        if example.draw is None:
            features_TF = normalised(torch.from_numpy(log_mels_TF), self.settings).numpy()
        else:
            features_TF = self._seen(log_mels_TF, example, example.draw, told)
        return Trace(samples, changed, before_TF, features_TF, told)

    def _heard(self, samples: Samples, example: Example, told: list[str]) -> Samples:
        """The waveform after its augmentation."""
        if example.draw is None:
            return samples
        rng = np.random.default_rng([self.seed, *example.draw, WAVEFORM_STREAM])
        fastest = len(samples) / (max(1, example.min_frames) * self.settings.hop_length)
        for effect in draw_effects(self.augment, example.draw[0], self.noises, rng, fastest=fastest):
            samples = effect.apply(samples)
            told.append(str(effect))
        return samples

    def _seen(self, log_mels_TF: np.ndarray, example: Example, draw: Draw, told: list[str]) -> np.ndarray:
        """Normalised features after their augmentation."""
        config, epoch, settings = self.augment, draw[0], self.settings
        if epoch < config.earliest_epoch:
            return normalised(torch.from_numpy(log_mels_TF), settings).numpy()
        rng = np.random.default_rng([self.seed, *draw])
        changed_TF = augment(log_mels_TF, config, rng, epoch=epoch, min_frames=example.min_frames, told=told)
        return mask(
            normalised(torch.from_numpy(changed_TF), settings).numpy(), config, rng, epoch=epoch, told=told
        )


def _labels(sequences: Sequence[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, L), padded with zeros, and (B,)."""
    labels = [torch.tensor(one, dtype=torch.int64) for one in sequences]
    labels_BL = (
        torch.nn.utils.rnn.pad_sequence(labels, batch_first=True)
        if labels
        else torch.zeros(0, 0, dtype=torch.int64)
    )
    return labels_BL, torch.tensor([len(one) for one in labels], dtype=torch.int64)


def _read(example: Example) -> Samples:
    try:
        content = read_range(example.path, example.start, example.count, example.name)
        return read_audio(content, max_duration_s=MAX_DURATION_S)
    except (AsrError, OSError) as error:
        raise ValueError(f"{example.name}, in {example.path}: {error}") from error


def _stored_frames(example: Example, n_mels: int) -> np.ndarray:
    """float32 (n_frames, n_mels) of a features file."""
    written = os.stat(example.path).st_mtime_ns
    frames = _memory_map(example.path, n_mels, written)[example.start : example.start + example.count]
    if len(frames) != example.count:
        raise ValueError(f"{example.path} ends before {example.name} does: prepare it again")
    return np.asarray(frames, dtype=np.float32)


@lru_cache(maxsize=16)
def _memory_map(path: Path, n_mels: int, written: int) -> np.ndarray:
    """`written` is when the file was: a corpus prepared again is not read from the old map."""
    return np.memmap(path, np.float16, "r").reshape(-1, n_mels)


def n_samples_of(duration_s: float) -> int:
    """Fewest samples of a recording whose duration a manifest gives in whole milliseconds."""
    return max(1, int((duration_s - 0.0005) * SAMPLE_RATE))
