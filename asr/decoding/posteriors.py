"""Checks on the acoustic model's output that every decoder shares.

Shapes: T frames, V CTC outputs (blank included).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding import posterior_kernels
from asr.decoding.options import DecodingSettings

_NO_BEST = "log-probabilities hold a frame without a finite best label"
_NO_PRIOR = np.zeros(0)


def checked_log_probs(
    log_probs_TV: NDArray[np.floating[Any]], vocab_size: int | None = None
) -> NDArray[np.float64]:
    """The same natural-log posteriors (T, V) as float64.

    Raises ValueError when they are not a matrix, have another V than `vocab_size`, or hold a frame without a
    finite best label (NaN, or -inf everywhere): such a matrix is an acoustic model's fault and has no best
    path.
    """
    _check_shape(log_probs_TV, vocab_size)
    checked = np.asarray(log_probs_TV, dtype=np.float64)
    if not np.isfinite(checked.max(axis=1)).all():
        raise ValueError(_NO_BEST)
    return checked


def keep_best_tokens(
    log_probs_TV: NDArray[np.float64], min_logp: float, max_per_frame: int
) -> NDArray[np.float64]:
    """Log-probabilities with all but each frame's candidates set to -inf.

    A frame's candidates are its `max_per_frame` best labels (lower id first on ties) that reach `min_logp`,
    and always its best one. What remains is *not* renormalised: a path over kept labels scores exactly what
    it scored before.
    """
    kept_TV = np.empty(log_probs_TV.shape)
    _keep_best(log_probs_TV, _NO_PRIOR, min_logp, max_per_frame, kept_TV)
    return kept_TV


def search_candidates(
    log_probs_TV: NDArray[np.floating[Any]], vocab_size: int, settings: DecodingSettings
) -> NDArray[np.float64]:
    """What a beam search goes through: checked, divided by the labels' prior where the settings say so, and
    with nothing but each frame's candidates. Raises as `checked_log_probs` does."""
    _check_shape(log_probs_TV, vocab_size)
    prior_V = _NO_PRIOR
    if settings.prior_weight and settings.label_prior:
        prior_V = _weighted(np.array(settings.label_prior), settings.prior_weight, vocab_size)
    kept_TV = np.empty(log_probs_TV.shape)
    if not _keep_best(log_probs_TV, prior_V, settings.token_min_logp, settings.max_tokens_per_frame, kept_TV):
        raise ValueError(_NO_BEST)
    return kept_TV


def prior_divided(log_probs_TV: NDArray[np.float64], settings: DecodingSettings) -> NDArray[np.float64]:
    """By the labels' prior where the settings say so."""
    if not (settings.prior_weight and settings.label_prior):
        return log_probs_TV
    return divided_by_prior(log_probs_TV, np.array(settings.label_prior), settings.prior_weight)


def phones_divided(
    phones_TP: NDArray[np.floating[Any]], settings: DecodingSettings
) -> NDArray[np.floating[Any]]:
    """By the phones' prior where the settings say so."""
    if not (settings.phone_prior_weight and settings.phone_prior):
        return phones_TP
    return divided_by_prior(phones_TP, np.array(settings.phone_prior), settings.phone_prior_weight)


def divided_by_prior(
    log_probs_TV: NDArray[np.floating[Any]], prior_V: NDArray[np.float64], weight: float
) -> NDArray[np.float64]:
    """log p(label | frame) - weight x log prior, normalised again over each frame's labels (T, V).

    A CTC model that has heard little prefers what is frequent everywhere, blanks most of all, and deletes.
    What remains is nearer to a likelihood, beside which a language model is the only prior (as in hybrid
    recognisers; for CTC: Miao et al., "EESEN", arXiv 1507.08240, section 4). prior_V: above 0.
    """
    divided_TV = np.empty(log_probs_TV.shape)
    prior_V = _weighted(prior_V, weight, log_probs_TV.shape[1])
    posterior_kernels.divide(_as_float64(log_probs_TV), prior_V, divided_TV)
    return divided_TV


def mean_posterior(log_probs: Sequence[NDArray[np.floating[Any]]], floor: float = 1e-6) -> list[float]:
    """The mean over all frames of several recordings' posteriors, (V,); no label below `floor`."""
    total_V = np.sum([np.exp(log_probs_TV).sum(axis=0) for log_probs_TV in log_probs], axis=0)
    mean_V = total_V / sum(map(len, log_probs))
    return [float(f"{p:.4g}") for p in np.maximum(mean_V, floor)]


def _check_shape(log_probs_TV: NDArray[np.floating[Any]], vocab_size: int | None) -> None:
    if log_probs_TV.ndim != 2 or log_probs_TV.shape[1] == 0:
        raise ValueError(f"log-probabilities must be (frames, outputs), not {log_probs_TV.shape}")
    if vocab_size is not None and log_probs_TV.shape[1] != vocab_size:
        raise ValueError(
            f"log-probabilities have {log_probs_TV.shape[1]} outputs, the tokenizer {vocab_size}"
        )


def _keep_best(
    log_probs_TV: NDArray[np.floating[Any]],
    prior_V: NDArray[np.float64],
    min_logp: float,
    max_per_frame: int,
    kept_TV: NDArray[np.float64],
) -> bool:
    """False when a frame has no finite best label."""
    best = np.empty(min(max_per_frame, log_probs_TV.shape[1]), np.int64)
    rows_TV = _as_float64(log_probs_TV)
    return posterior_kernels.keep_best(rows_TV, prior_V, min_logp, best, kept_TV) == len(rows_TV)


def _weighted(prior_V: NDArray[np.float64], weight: float, n_outputs: int) -> NDArray[np.float64]:
    """Log-priors as the kernels take them. Raises ValueError when they are of other outputs."""
    if prior_V.shape != (n_outputs,):
        raise ValueError(f"the prior is of {prior_V.shape} outputs, the log-probabilities of {n_outputs}")
    weighted_V: NDArray[np.float64] = weight * np.log(prior_V)
    return weighted_V


def _as_float64(rows_TV: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """As the kernels take them: each other type would be compiled by itself."""
    return np.ascontiguousarray(rows_TV, dtype=np.float64)
