"""A prepared corpus as batches of tensors: which utterances, in which order, with which labels."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from asr.errors import TextError
from asr.features import FeatureSettings, n_frames
from asr.pronunciation import Pronunciations
from asr.tokenizer import Tokenizer
from training.batches import epoch_batches
from training.config import TrainConfig
from training.examples import Batch, BatchMaker, Draw, Example, n_samples_of
from training.features_store import FRAMES_FILE, FeatureStore
from training.manifest import Utterance, read_manifest

MISSING = "recording missing or too short"


@dataclass(frozen=True)
class AudioStore:
    """Stands where `FeatureStore` does when recordings are read as they are needed."""

    settings: FeatureSettings
    n_frames: np.ndarray  # of each utterance of the manifest, as its duration says

    def __len__(self) -> int:
        return len(self.n_frames)


class Corpus:
    """Utterances whose labels fit their frames, with where their features or recordings lie, and targets.

    Raises ValueError when manifest and features do not belong together or nothing is left. `summary` counts
    what was left out, and `missing` names the recordings that the manifest has and the disk has not.

    With pronunciations, `phones` are each utterance's labels for the phone layer: of each word the first.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        config: TrainConfig,
        pronunciations: Pronunciations | None = None,
    ) -> None:
        everything = read_manifest(folder / "manifest.jsonl")
        self.tokenizer, self._folder = tokenizer, folder
        self._audio = config.data.source == "audio"
        self.store = _audio_store(everything) if self._audio else FeatureStore(folder)
        if len(self.store) != len(everything):
            raise ValueError(
                f"{folder}: {len(everything)} utterances, features of {len(self.store)}: prepare again"
            )
        self.features = replace(self.store.settings, variance=config.data.variance)
        self.maker = BatchMaker.create(
            audio=self._audio, settings=self.features, augment=config.augment, seed=config.seed
        )
        self._acoustic = config.model.settings(tokenizer.vocab_size, self.features.n_mels)
        self._rows: list[int] = []
        self.targets: list[list[int]] = []
        self.utterances: list[Utterance] = []
        self.missing: list[str] = []
        reasons: Counter[str] = Counter()
        sizes = _file_sizes(everything) if self._audio else {}
        for row, utterance in enumerate(everything):
            try:
                target = tokenizer.encode(utterance.text)
            except TextError:
                reasons["not spellable"] += 1
                continue
            frames = self._acoustic.output_frames(int(self.store.n_frames[row]))
            if utterance.duration_s > config.data.max_duration_s:
                reasons["too long"] += 1
            elif frames < needed_frames(target):
                reasons["more labels than frames"] += 1
            elif self._audio and sizes[utterance.audio] < max(1, utterance.offset + utterance.size):
                reasons[MISSING] += 1
                self.missing.append(f"{utterance.name} ({utterance.audio})")
            else:
                self._rows.append(row)
                self.targets.append(target)
                self.utterances.append(utterance)
        if not self.utterances:
            raise ValueError(f"{folder}: no utterance can be used ({dict(reasons)}){self._first_missing()}")
        self.phones = [_phones(u.text, pronunciations) for u in self.utterances] if pronunciations else None
        self._starts = np.concatenate([[0], np.cumsum(self.store.n_frames)])  # in the features file
        self.durations_s = np.array([u.duration_s for u in self.utterances])
        self._repeats = np.array([_repeat(u.corpus, config.data.repeat) for u in self.utterances])
        left_out = ", ".join(f"{n} {reason}" for reason, n in reasons.items() if n)
        self.summary = (
            f"{folder.name}: {len(self)} utterances, {self.durations_s.sum() / 3600:.2f} h, "
            f"{(self.durations_s * self._repeats).sum() / 3600:.2f} h an epoch"
            + (f"; left out: {left_out}{self._first_missing()}" if left_out else "")
        )

    def __len__(self) -> int:
        return len(self.utterances)

    def batches(self, config: TrainConfig, *, epoch: int) -> list[np.ndarray]:
        """Indices of every step of an epoch."""
        batch_s, seed = config.optim.batch_s, config.seed
        return epoch_batches(self.durations_s, self._repeats, batch_s=batch_s, seed=seed, epoch=epoch)

    def batch(self, indices: np.ndarray, device: torch.device, draws: Sequence[Draw] | None = None) -> Batch:
        """The utterances' tensors (training/examples.py) on a device.

        draws: one per utterance, what its augmentation is drawn from; None for no augmentation at all.
        """
        return tuple(tensor.to(device) for tensor in self.maker.batch(self.examples(indices, draws)))

    def examples(self, indices: np.ndarray, draws: Sequence[Draw] | None = None) -> list[Example]:
        """What `maker` needs for these utterances, with a draw each or None at all."""
        return [self._example(int(i), draws[n] if draws else None) for n, i in enumerate(indices)]

    def requests(
        self, batches: Sequence[np.ndarray], *, epoch: int, first: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[list[Example]]:
        """The examples of each of an epoch's steps from step `first` on, for one of `world` processes."""
        for number in range(first, len(batches)):
            draws = [(epoch, number, place) for place in range(rank, len(batches[number]), world)]
            yield self.examples(batches[number][rank::world], draws)

    def _example(self, index: int, draw: Draw | None) -> Example:
        row, utterance = self._rows[index], self.utterances[index]
        target = tuple(self.targets[index])
        min_frames = self._least_features(list(target))
        if self._audio:
            path, start, count = utterance.audio, utterance.offset, utterance.size
        else:
            path, start = self._folder / FRAMES_FILE, int(self._starts[row])
            count = int(self.store.n_frames[row])
        phones = self.phones[index] if self.phones else None
        return Example(utterance.name, path, start, count, target, min_frames, draw, phones)

    def _least_features(self, target: list[int]) -> int:
        """Fewest features that give the model frames enough for these labels."""
        model_frames = max(1, -(-needed_frames(target) // self._acoustic.upsampling))
        return (model_frames - 1) * self._acoustic.subsampling + 1

    def _first_missing(self) -> str:
        if not self.missing:
            return ""
        more = f" and {len(self.missing) - 3} more" if len(self.missing) > 3 else ""
        return ": missing are " + ", ".join(self.missing[:3]) + more


def needed_frames(target: list[int]) -> int:
    """Fewest frames on which CTC can write these labels: a blank must part repeats."""
    return len(target) + sum(a == b for a, b in pairwise(target))


def _phones(text: str, pronunciations: Pronunciations) -> tuple[int, ...]:
    return tuple(phone for word in text.split() for phone in pronunciations.of(word)[0])


def _repeat(corpus: str, repeats: dict[str, int]) -> int:
    return next((n for prefix, n in repeats.items() if corpus.startswith(prefix)), 1)


def _audio_store(utterances: Sequence[Utterance]) -> AudioStore:
    settings = FeatureSettings()
    frames = [n_frames(n_samples_of(u.duration_s), settings) for u in utterances]
    return AudioStore(settings, np.array(frames, dtype=np.int64))


def _file_sizes(utterances: Sequence[Utterance]) -> dict[Path, int]:
    """Bytes of every file that is named; 0 for what is not there."""
    sizes = {}
    for path in {utterance.audio for utterance in utterances}:
        try:
            sizes[path] = os.stat(path).st_size
        except OSError:
            sizes[path] = 0
    return sizes
