"""A stack of residual blocks that can speak before its end: intermediate outputs and self-conditioning.

Intermediate CTC losses (InterCTC, arXiv 2102.03216) need log-probabilities after inner blocks;
self-conditioned CTC (arXiv 2104.02724) also adds a projection of those posteriors to the next block's
input, in training and in use. Both share the output layer with the last block.

Shapes: B utterances, T frames, D model width, V outputs.
"""

from collections.abc import Callable, Collection

import torch
from torch import nn


def through_blocks(
    blocks: nn.ModuleList,
    x_BTD: torch.Tensor,
    lengths_B: torch.Tensor,
    log_probs: Callable[[torch.Tensor], torch.Tensor],
    *,
    wanted: Collection[int],
    condition: nn.Module | None,
    condition_every: int,
) -> list[torch.Tensor]:
    """Log-probabilities after each block numbered in `wanted` (from 1), in order, and after the last block.

    log_probs: the output layer, (B, T, D) -> (B, kT, V). condition: (B, T, kV) -> (B, T, D), applied after
    every `condition_every`th block but the last; None for no self-conditioning.
    """
    outputs: list[torch.Tensor] = []
    for number, block in enumerate(blocks, start=1):
        x_BTD = block(x_BTD, lengths_B)
        last = number == len(blocks)
        conditioned = condition is not None and not last and number % condition_every == 0
        if not (last or conditioned or number in wanted):
            continue
        spoken_BTV = log_probs(x_BTD)
        if last or number in wanted:
            outputs.append(spoken_BTV)
        if condition is not None and conditioned:
            x_BTD = x_BTD + condition(spoken_BTV.exp().reshape(*x_BTD.shape[:2], -1))
    return outputs


def upsampled_log_probs(logits_BTV: torch.Tensor, upsampling: int) -> torch.Tensor:
    """Logits (B, T, kV) as log-probabilities of k output frames a frame, (B, kT, V), in float32."""
    if upsampling > 1:
        n_batch, n_frames, n_outputs = logits_BTV.shape
        logits_BTV = logits_BTV.reshape(n_batch, n_frames * upsampling, n_outputs // upsampling)
    return logits_BTV.float().log_softmax(dim=-1)
