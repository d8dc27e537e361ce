"""Augmentation on raw log-mel features, T frames by F bands.

Every draw comes from the generator handed in; what was drawn is told to the list `told`, for people.
"""

import numpy as np

from training.augment_config import AugmentConfig

EDGE_FRAMES = 5  # of quiet that stay beside the speech: 50 ms
QUIET_DB = 30.0  # frames this far under the loudest are quiet


def augment(
    log_mels_TF: np.ndarray,
    config: AugmentConfig,
    rng: np.random.Generator,
    *,
    epoch: int | None = None,
    min_frames: int = 1,
    told: list[str] | None = None,
) -> np.ndarray:
    """Warped, stretched, noisy and cropped log-mels, before normalisation; float32 (T', F).

    epoch: for the start epochs; None has everything on. min_frames: as few frames as the labels need; no draw
    gives fewer, unless there are fewer already.
    """

    def chosen(probability: float, start_epoch: int) -> bool:
        drawn = rng.random() < probability
        return drawn and (epoch is None or config.on(start_epoch, epoch))

    told = [] if told is None else told
    if chosen(config.warp_probability, config.warp_start_epoch):
        factor = rng.uniform(1 - config.warp, 1 + config.warp)
        log_mels_TF = _warp(log_mels_TF, factor)
        told.append(f"frequencies x {1 / factor:.2f}")
    if chosen(config.stretch_probability, config.stretch_start_epoch):
        factor = rng.uniform(1 - config.stretch, 1 + config.stretch)
        factor = max(factor, min(1.0, min_frames / len(log_mels_TF)))
        log_mels_TF = _stretch(log_mels_TF, factor)
        told.append(f"stretched x {factor:.2f}")
    if chosen(config.noise_probability, config.noise_start_epoch):
        snr_db = rng.uniform(config.noise_snr_low_db, config.noise_snr_high_db)
        log_mels_TF = _noisy(log_mels_TF, snr_db, rng)
        told.append(f"log-mel noise at {snr_db:.0f} dB")
    if config.crop_probability and chosen(config.crop_probability, config.crop_start_epoch):
        before = len(log_mels_TF)
        log_mels_TF = _cropped(log_mels_TF, *rng.random(2), min_frames)
        told.append(f"cropped by {(before - len(log_mels_TF)) / 100:.2f} s")
    return log_mels_TF


def mask(
    features_TF: np.ndarray,
    config: AugmentConfig,
    rng: np.random.Generator,
    *,
    epoch: int | None = None,
    told: list[str] | None = None,
) -> np.ndarray:
    """SpecAugment with adaptive time masks (arXiv 1912.05533) on normalised features, in place:

    masked values are 0.
    """
    if rng.random() >= config.masks_probability or not (
        epoch is None or config.on(config.masks_start_epoch, epoch)
    ):
        return features_TF
    n_frames, n_mels = features_TF.shape
    for _ in range(config.frequency_masks):
        width = int(rng.integers(0, min(config.frequency_mask_bands, n_mels) + 1))
        start = int(rng.integers(0, n_mels - width + 1))
        features_TF[:, start : start + width] = 0.0
    n_time_masks = max(1, min(10, round(config.time_masks_per_s * n_frames / 100)))
    for _ in range(n_time_masks):
        width = int(rng.integers(0, max(1, int(config.time_mask_fraction * n_frames)) + 1))
        start = int(rng.integers(0, n_frames - width + 1))
        features_TF[start : start + width] = 0.0
    if told is not None:
        told.append(f"{config.frequency_masks} frequency masks, {n_time_masks} time masks")
    return features_TF


def _stretch(log_mels_TF: np.ndarray, factor: float) -> np.ndarray:
    """Tempo changed by linear interpolation between frames; factor > 1 is slower."""
    n_frames = len(log_mels_TF)
    positions = np.linspace(0, n_frames - 1, max(1, round(n_frames * factor)), dtype=np.float32)
    below = positions.astype(np.int64)
    above = np.minimum(below + 1, n_frames - 1)
    part = (positions - below)[:, None]
    stretched: np.ndarray = log_mels_TF[below] * (1 - part) + log_mels_TF[above] * part
    return stretched


def _warp(log_mels_TF: np.ndarray, factor: float) -> np.ndarray:
    """The frequency axis scaled by linear interpolation between bands;

    the last band is repeated beyond the top.
    """
    n_mels = log_mels_TF.shape[1]
    positions = np.clip(np.arange(n_mels) * factor, 0, n_mels - 1)
    below = positions.astype(np.int64)
    above = np.minimum(below + 1, n_mels - 1)
    part = (positions - below).astype(np.float32)
    return log_mels_TF[:, below] * (1 - part) + log_mels_TF[:, above] * part


def _noisy(log_mels_TF: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Coloured noise, tilted by up to 26 dB, `snr_db` below the recording's mean power."""
    n_frames, n_mels = log_mels_TF.shape
    level = np.log(np.mean(np.exp(log_mels_TF))) - snr_db * np.log(10) / 10
    tilt_F = rng.uniform(-3, 3) * np.linspace(-1, 1, n_mels, dtype=np.float32)
    noise_TF = rng.standard_normal((n_frames, n_mels), dtype=np.float32) * 0.6 + tilt_F + np.float32(level)
    noisy: np.ndarray = np.logaddexp(log_mels_TF, noise_TF)
    return noisy


def _cropped(log_mels_TF: np.ndarray, first: float, last: float, min_frames: int) -> np.ndarray:
    """Without a part (0..1 each) of the quiet frames on either side: no label loses its sound."""
    power_T = np.exp(log_mels_TF).sum(axis=1)
    loud = np.flatnonzero(power_T >= power_T.max() * 10 ** (-QUIET_DB / 10))
    start = int(first * max(0, loud[0] - EDGE_FRAMES))
    end = len(power_T) - int(last * max(0, len(power_T) - 1 - loud[-1] - EDGE_FRAMES))
    return log_mels_TF[start:end] if end - start >= min_frames else log_mels_TF
