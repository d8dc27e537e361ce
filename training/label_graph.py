"""The sum over all label sequences that CTC-CRF (arXiv 1911.08747) holds a transcript against.

Z sums, over every path of CTC (one output a frame), its probability times that of its labels under a bigram.
-log P(labels) + log Z wants the right labels likely beside all that people could have said instead.

Shapes: B utterances, T frames, V outputs with the blank as 0, N = V - 1 labels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

UNIGRAM_COUNT = 3.0  # occurrences of a label that its unigram's share of what follows is worth
UNSEEN_COUNT = 0.1  # of every label, beside its true count


@dataclass(frozen=True)
class LabelGraph:
    """A bigram of labels, as probabilities."""

    start_N: torch.Tensor  # of the first label
    follow_NN: torch.Tensor  # of the second after the first
    end_V: torch.Tensor  # of no label at all, and of nothing more after each label

    @classmethod
    def estimate(
        cls, sequences: Iterable[Sequence[int]], n_outputs: int, device: torch.device | None = None
    ) -> "LabelGraph":
        """The sequences' bigram, interpolated with their unigrams. float32."""
        counts_VV = np.zeros((n_outputs, n_outputs))  # the row 0 is a sequence's start, the column 0 its end
        for labels in sequences:
            for one, next_one in pairwise((0, *labels, 0)):
                counts_VV[one, next_one] += 1
        unigram_V = counts_VV.sum(0) + UNSEEN_COUNT
        unigram_V /= unigram_V.sum()
        bigram_VV = counts_VV + UNIGRAM_COUNT * unigram_V
        bigram_VV /= bigram_VV.sum(1, keepdims=True)
        whole_VV = torch.from_numpy(bigram_VV).float().to(device)
        return cls(whole_VV[0, 1:].contiguous(), whole_VV[1:, 1:].contiguous(), whole_VV[:, 0].contiguous())

    def log_z(self, log_probs_BTV: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """(B,), with gradients: those of an utterance are how often its paths are at each output."""
        found_B: torch.Tensor = _LogZ.apply(
            log_probs_BTV, lengths_B, self.start_N, self.follow_NN, self.end_V
        )
        return found_B


class _LogZ(torch.autograd.Function):
    """Forward and backward sums in probabilities, those of a frame scaled to 1.

    A path is at a label, at a blank after one (`pause`), or at one before the first (`before`).
    """

    @staticmethod
    def forward(
        ctx: Any,
        log_probs_BTV: torch.Tensor,
        lengths_B: torch.Tensor,
        start_N: torch.Tensor,
        follow_NN: torch.Tensor,
        end_V: torch.Tensor,
    ) -> torch.Tensor:
        probs_BTV = log_probs_BTV.exp()
        n_batch, n_frames, n_outputs = probs_BTV.shape
        least = torch.finfo(probs_BTV.dtype).tiny
        real_TB1 = (torch.arange(n_frames, device=lengths_B.device)[:, None] < lengths_B)[..., None]
        label_TBN = probs_BTV.new_zeros(n_frames + 1, n_batch, n_outputs - 1)  # the first row is frame -1
        pause_TBN = torch.zeros_like(label_TBN)
        before_TB1 = probs_BTV.new_zeros(n_frames + 1, n_batch, 1)
        before_TB1[0] = 1.0
        scale_TB1 = torch.ones_like(before_TB1)
        changed_N = 1 - follow_NN.diagonal()  # a label that goes on is not followed by itself
        for t in range(n_frames):
            blank_B1 = probs_BTV[:, t, :1]
            either_BN = label_TBN[t] + pause_TBN[t]
            label_BN = torch.addcmul(either_BN @ follow_NN, label_TBN[t], changed_N)
            label_BN = label_BN.addcmul_(before_TB1[t], start_N).mul_(probs_BTV[:, t, 1:])
            pause_BN, before_B1 = either_BN * blank_B1, before_TB1[t] * blank_B1
            total_B1 = (label_BN + pause_BN).sum(1, keepdim=True) + before_B1
            scale_TB1[t + 1] = torch.where(real_TB1[t], total_B1.clamp_min(least), 1.0)
            label_TBN[t + 1] = torch.where(real_TB1[t], label_BN / scale_TB1[t + 1], label_TBN[t])
            pause_TBN[t + 1] = torch.where(real_TB1[t], pause_BN / scale_TB1[t + 1], pause_TBN[t])
            before_TB1[t + 1] = torch.where(real_TB1[t], before_B1 / scale_TB1[t + 1], before_TB1[t])
        ended_B = (label_TBN[-1] + pause_TBN[-1]) @ end_V[1:] + before_TB1[-1, :, 0] * end_V[0]
        ended_B = ended_B.clamp_min(least)
        ctx.save_for_backward(
            probs_BTV,
            real_TB1,
            label_TBN,
            pause_TBN,
            before_TB1,
            scale_TB1,
            ended_B,
            start_N,
            follow_NN,
            end_V,
        )
        return ended_B.log() + scale_TB1.log().sum(0)[:, 0]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (
            probs_BTV,
            real_TB1,
            label_TBN,
            pause_TBN,
            before_TB1,
            scale_TB1,
            ended_B,
            start_N,
            follow_NN,
            end_V,
        ) = ctx.saved_tensors
        (gradient_B,) = gradients
        changed_N, precede_NN = 1 - follow_NN.diagonal(), follow_NN.t().contiguous()
        # What a path is worth from here to its end, over Z.
        label_BN = pause_BN = end_V[1:] / ended_B[:, None]
        before_B1 = (end_V[0] / ended_B)[:, None]
        visits_BTV = torch.zeros_like(probs_BTV)
        for t in range(probs_BTV.shape[1] - 1, -1, -1):
            real_B1 = real_TB1[t]
            blanks_B1 = (pause_TBN[t + 1] * pause_BN).sum(1, keepdim=True) + before_TB1[t + 1] * before_B1
            visits_BV = torch.cat([blanks_B1, label_TBN[t + 1] * label_BN], dim=1)
            visits_BTV[:, t] = torch.where(real_B1, visits_BV, 0.0)
            blank_B1 = probs_BTV[:, t, :1] / scale_TB1[t + 1]
            worth_BN = probs_BTV[:, t, 1:] * label_BN / scale_TB1[t + 1]
            earlier_BN = torch.addcmul(worth_BN @ precede_NN, blank_B1, pause_BN)
            starting_B1 = (worth_BN * start_N).sum(1, keepdim=True) + blank_B1 * before_B1
            label_BN = torch.where(real_B1, torch.addcmul(earlier_BN, worth_BN, changed_N), label_BN)
            pause_BN = torch.where(real_B1, earlier_BN, pause_BN)
            before_B1 = torch.where(real_B1, starting_B1, before_B1)
        return visits_BTV * gradient_B[:, None, None], None, None, None, None
