"""Rows of log-probabilities that say pieces and phones: an acoustic model's two output layers side by side.

A row is the pieces' log-probabilities, then those of phones in `PHONE_FRAMES` frames that share its time:
people speak faster than one phone a row. Each part is normalised by itself.

Shapes: B utterances, T frames, V pieces, P phones; blanks included.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

PHONE_FRAMES = 2  # of phones to a frame of pieces


def with_phones(pieces_BTV: torch.Tensor, phones_BTP: torch.Tensor) -> torch.Tensor:
    """(B, T, V) and (B, 2T, P) as rows (B, T, V + 2P)."""
    return torch.cat([pieces_BTV, phones_BTP.reshape(*pieces_BTV.shape[:2], -1)], dim=-1)


def phone_log_probs(rows_BTC: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """The phones' part of rows (B, T, V + 2P): (B, 2T, P)."""
    n_batch, n_frames, n_columns = rows_BTC.shape
    n_phones = (n_columns - vocab_size) // PHONE_FRAMES
    return rows_BTC[..., vocab_size:].reshape(n_batch, n_frames * PHONE_FRAMES, n_phones)


def split_rows(
    rows_TC: NDArray[np.floating[Any]], vocab_size: int
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    """One recording's rows (T, V + 2P) as pieces (T, V) and phones (2T, P)."""
    n_frames, n_columns = rows_TC.shape
    n_phones = (n_columns - vocab_size) // PHONE_FRAMES
    return rows_TC[:, :vocab_size], rows_TC[:, vocab_size:].reshape(n_frames * PHONE_FRAMES, n_phones)
