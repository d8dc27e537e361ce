"""What a corpus made as a step's batch, with two differently masked views of it where CR-CTC wants them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from training.augment import mask
from training.config import TrainConfig
from training.corpus import Corpus, Draw
from training.losses import Batch

N_VIEWS = 2


def corpus_config(config: TrainConfig) -> TrainConfig:
    """What a training corpus is made with: for CR-CTC without masks, which each view gets for itself."""
    if not config.loss.cr_ctc:
        return config
    return replace(config, augment=replace(config.augment, masks_probability=0.0))


def fetch(
    corpus: Corpus,
    indices: np.ndarray,
    draws: Sequence[Draw],
    config: TrainConfig,
    device: torch.device,
) -> Batch:
    """The utterances on the device. draws: one per utterance, see `Corpus.batch`."""
    return as_batch(corpus.batch(indices, torch.device("cpu"), draws), draws, config, device)


def as_batch(
    made: tuple[torch.Tensor, ...],
    draws: Sequence[Draw],
    config: TrainConfig,
    device: torch.device,
) -> Batch:
    """What a `BatchMaker` made, in as many views as the loss wants."""
    features_BTF, lengths_B, *labels = made
    views = [features_BTF]
    if config.loss.cr_ctc:
        views = [masked_view(features_BTF, lengths_B, draws, config, view) for view in range(N_VIEWS)]
    return Batch(
        tuple(view_BTF.to(device, non_blocking=True) for view_BTF in views),
        lengths_B.to(device),
        *(tensor.to(device) for tensor in labels),
    )


def masked_view(
    features_BTF: torch.Tensor,
    lengths_B: torch.Tensor,
    draws: Sequence[Draw],
    config: TrainConfig,
    view: int,
) -> torch.Tensor:
    """A copy with this view's own SpecAugment masks, once the epoch is one that has them."""
    view_BTF = features_BTF.clone()
    for features_TF, length, draw in zip(view_BTF, lengths_B.tolist(), draws, strict=True):
        if config.augment.on(config.augment.masks_start_epoch, draw[0]):
            rng = np.random.default_rng([config.seed, *draw, view])
            mask(features_TF[:length].numpy(), config.augment, rng)  # in place
    return view_BTF
