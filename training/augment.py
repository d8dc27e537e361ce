"""Augmentation on raw log-mel features, T frames by F bands.

Every draw comes from the generator handed in.
"""

import numpy as np

from training.config import AugmentConfig


def augment(log_mels_TF: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Stretched and warped log-mels, before normalisation; float32 (T', F)."""
    if rng.random() < config.warp_probability:
        log_mels_TF = _warp(log_mels_TF, rng.uniform(1 - config.warp, 1 + config.warp))
    if rng.random() < config.stretch_probability:
        log_mels_TF = _stretch(log_mels_TF, rng.uniform(1 - config.stretch, 1 + config.stretch))
    if rng.random() < config.noise_probability:
        log_mels_TF = _noisy(log_mels_TF, rng.uniform(config.noise_snr_low_db, config.noise_snr_high_db), rng)
    return log_mels_TF


def mask(features_TF: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """SpecAugment with adaptive time masks (arXiv 1912.05533) on normalised features, in place:

    masked values are 0.
    """
    if rng.random() >= config.masks_probability:
        return features_TF
    n_frames, n_mels = features_TF.shape
    for _ in range(config.frequency_masks):
        width = int(rng.integers(0, min(config.frequency_mask_bands, n_mels) + 1))
        start = int(rng.integers(0, n_mels - width + 1))
        features_TF[:, start : start + width] = 0.0
    for _ in range(max(1, min(10, round(config.time_masks_per_s * n_frames / 100)))):
        width = int(rng.integers(0, max(1, int(config.time_mask_fraction * n_frames)) + 1))
        start = int(rng.integers(0, n_frames - width + 1))
        features_TF[start : start + width] = 0.0
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
