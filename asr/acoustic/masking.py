"""Lengths and masks of padded batches. B utterances, C channels, T frames, F bands."""

import torch


def frame_mask(lengths_B: torch.Tensor, n_frames: int) -> torch.Tensor:
    """True where a frame is real, (B, T)."""
    return torch.arange(n_frames, device=lengths_B.device)[None, :] < lengths_B[:, None]


def zero_padding(x_BCTF: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """Zeros past each utterance's length, so that a convolution over time sees what it would see alone.

    x_BCTF: (B, C, T, F), F being 1 where there is no second axis to convolve over.
    """
    return x_BCTF * frame_mask(lengths_B, x_BCTF.shape[2])[:, None, :, None]


def reversed_within_lengths(values_BTD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """Each utterance's real frames back to front; padding stays behind them. Its own inverse."""
    n_frames = values_BTD.shape[1]
    positions_BT = torch.arange(n_frames, device=values_BTD.device).expand(len(lengths_B), n_frames)
    mirrored_BT = lengths_B[:, None] - 1 - positions_BT
    index_BT = torch.where(mirrored_BT >= 0, mirrored_BT, positions_BT)
    return values_BTD.gather(1, index_BT[:, :, None].expand_as(values_BTD))
