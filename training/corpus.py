"""A prepared corpus as batches of tensors. B utterances, T frames, F mel bands, L labels."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from asr.errors import TextError
from asr.features import normalised
from asr.tokenizer import Tokenizer
from training.augment import augment, mask
from training.batches import epoch_batches
from training.config import TrainConfig
from training.features_store import FeatureStore
from training.manifest import read_manifest

Draw = tuple[
    int, int, int
]  # epoch, step within it, place in the step's batch: seeds one utterance's augmentation


class Corpus:
    """Utterances whose labels fit their frames, with their features and targets.

    Raises ValueError when manifest and features do not belong together or nothing is left.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, config: TrainConfig) -> None:
        everything = read_manifest(folder / "manifest.jsonl")
        self.tokenizer, self._config = tokenizer, config
        self.store = FeatureStore(folder)
        if len(self.store) != len(everything):
            raise ValueError(
                f"{folder}: {len(everything)} utterances, features of {len(self.store)}: prepare again"
            )
        acoustic = config.model.settings(tokenizer.vocab_size, self.store.settings.n_mels)
        self._rows: list[int] = []
        self.targets: list[list[int]] = []
        self.utterances = []
        reasons = {"too long": 0, "more labels than frames": 0, "not spellable": 0}
        for row, utterance in enumerate(everything):
            try:
                target = tokenizer.encode(utterance.text)
            except TextError:
                reasons["not spellable"] += 1
                continue
            frames = acoustic.output_frames(int(self.store.n_frames[row]))
            if utterance.duration_s > config.data.max_duration_s:
                reasons["too long"] += 1
            elif frames < needed_frames(target):
                reasons["more labels than frames"] += 1
            else:
                self._rows.append(row)
                self.targets.append(target)
                self.utterances.append(utterance)
        if not self.utterances:
            raise ValueError(f"{folder}: no utterance can be used ({reasons})")
        self.durations_s = np.array([u.duration_s for u in self.utterances])
        self._repeats = np.array([_repeat(u.corpus, config.data.repeat) for u in self.utterances])
        left_out = ", ".join(f"{n} {reason}" for reason, n in reasons.items() if n)
        self.summary = (
            f"{folder.name}: {len(self)} utterances, {self.durations_s.sum() / 3600:.2f} h, "
            f"{(self.durations_s * self._repeats).sum() / 3600:.2f} h an epoch"
            + (f"; left out: {left_out}" if left_out else "")
        )

    def __len__(self) -> int:
        return len(self.utterances)

    def batches(self, config: TrainConfig, *, epoch: int) -> list[np.ndarray]:
        """Indices of every step of an epoch."""
        batch_s, seed = config.optim.batch_s, config.seed
        return epoch_batches(self.durations_s, self._repeats, batch_s=batch_s, seed=seed, epoch=epoch)

    def batch(
        self, indices: np.ndarray, device: torch.device, draws: Sequence[Draw] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """(features_BTF, lengths_B, targets_BL, target_lengths_B).

        draws: one per utterance, what its augmentation is drawn from; None for no augmentation at all.
        """
        features = [self._features(int(i), draws[n] if draws else None) for n, i in enumerate(indices)]
        lengths_B = torch.tensor([len(f) for f in features], dtype=torch.int64)
        n_frames = max((len(f) for f in features), default=0)
        features_BTF = torch.zeros(len(features), n_frames, self.store.settings.n_mels)
        for row, one_TF in enumerate(features):
            features_BTF[row, : len(one_TF)] = torch.from_numpy(one_TF)
        targets = [torch.tensor(self.targets[i], dtype=torch.int64) for i in indices]
        targets_BL = (
            torch.nn.utils.rnn.pad_sequence(targets, batch_first=True) if targets else torch.zeros(0, 0)
        )
        target_lengths_B = torch.tensor([len(t) for t in targets], dtype=torch.int64)
        return (
            features_BTF.to(device),
            lengths_B.to(device),
            targets_BL.to(device),
            target_lengths_B.to(device),
        )

    def _features(self, index: int, draw: Draw | None) -> np.ndarray:
        """float32 (T, F), normalised as `asr.features.log_mel` does."""
        config = self._config.augment
        log_mels_TF = self.store[self._rows[index]]
        augmented = draw is not None and draw[0] >= config.start_epoch
        rng = np.random.default_rng([self._config.seed, *(draw or ())])
        if augmented:
            log_mels_TF = augment(log_mels_TF, config, rng)
        features_TF = normalised(torch.from_numpy(log_mels_TF), self.store.settings).numpy()
        return mask(features_TF, config, rng) if augmented else features_TF


def needed_frames(target: list[int]) -> int:
    """Fewest frames on which CTC can write these labels: a blank must part repeats."""
    return len(target) + sum(a == b for a, b in pairwise(target))


def _repeat(corpus: str, repeats: dict[str, int]) -> int:
    return next((n for prefix, n in repeats.items() if corpus.startswith(prefix)), 1)
