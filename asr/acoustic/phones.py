"""Rows of log-probabilities that say pieces and phones: an acoustic model's two output layers side by side.

A row is the pieces' log-probabilities, then those of phones in `PHONE_FRAMES` frames that share its time:
people speak faster than one phone a row. Each part is normalised by itself.

Shapes: B utterances, T frames, V pieces, P phones; blanks included.
"""

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Rows = TypeVar("Rows", NDArray[np.floating[Any]], torch.Tensor)

PHONE_FRAMES = 2  # of phones to a frame of pieces


def with_phones(pieces_BTV: torch.Tensor, phones_BTP: torch.Tensor) -> torch.Tensor:
    """(B, T, V) and (B, 2T, P) as rows (B, T, V + 2P)."""
    return torch.cat([pieces_BTV, phones_BTP.reshape(*pieces_BTV.shape[:2], -1)], dim=-1)


def phone_log_probs(rows: Rows, vocab_size: int) -> Rows:
    """The phones' part of rows (..., T, V + 2P): (..., 2T, P)."""
    *before, n_frames, n_columns = rows.shape
    n_phones = (n_columns - vocab_size) // PHONE_FRAMES
    return rows[..., vocab_size:].reshape(*before, n_frames * PHONE_FRAMES, n_phones)


def split_rows(
    rows_TC: NDArray[np.floating[Any]], vocab_size: int
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    """One recording's rows (T, V + 2P) as pieces (T, V) and phones (2T, P)."""
    return rows_TC[:, :vocab_size], phone_log_probs(rows_TC, vocab_size)


def mixed(of_layer_BTV: torch.Tensor, of_tower_BTV: torch.Tensor, share: float) -> torch.Tensor:
    """Two networks' log-probabilities as one: weighted, the tower's by `share`, and normalised."""
    if share == 1.0:
        return of_tower_BTV
    return torch.lerp(of_layer_BTV, of_tower_BTV, share).log_softmax(dim=-1)
