"""CTC, intermediate CTC and the agreement of two views: what a training step minimises.

InterCTC (arXiv 2102.03216): (1 - w) CTC(last block) + w mean of CTC(inner blocks).
CR-CTC (arXiv 2410.05101): two differently masked views of each utterance; the mean of their CTC losses plus
w/2 sum over frames of KL(sg(b) || a) + KL(sg(a) || b), sg stopping the gradient.

Everything is summed over utterances and divided by the labels of the whole step, over all processes and
accumulated batches: however a step is cut into parts, their gradients add up to the same.

Shapes: B utterances, T frames, F mel bands, L labels, V outputs, P parts of the loss.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from asr.acoustic.kinds import AcousticModel
from asr.acoustic.masking import frame_mask
from training.config import LossConfig, OptimConfig

PARTS = ("ctc", "inter_ctc", "cr_ctc")  # unweighted, per label
AUTOCAST = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Batch:
    """Utterances of one step or of a part of it."""

    views: tuple[torch.Tensor, ...]  # (B, T, F) each: one, or two for CR-CTC
    lengths_B: torch.Tensor  # frames
    targets_BL: torch.Tensor
    target_lengths_B: torch.Tensor

    def __len__(self) -> int:
        return len(self.lengths_B)

    def halves(self) -> tuple["Batch", "Batch"]:
        """The same utterances in two batches, each padded to its own longest."""
        middle = len(self) // 2
        return self._part(slice(None, middle)), self._part(slice(middle, None))

    def _part(self, rows: slice) -> "Batch":
        n_frames, n_labels = int(self.lengths_B[rows].max()), int(self.target_lengths_B[rows].max())
        return Batch(
            tuple(view_BTF[rows, :n_frames] for view_BTF in self.views),
            self.lengths_B[rows],
            self.targets_BL[rows, :n_labels],
            self.target_lengths_B[rows],
        )


class Objective:
    """(batch, labels in the whole step) -> (loss, its parts)."""

    def __init__(self, model: AcousticModel, loss: LossConfig, optim: OptimConfig) -> None:
        self._loss = loss
        self._blocks = loss.blocks(model.settings)
        self._dtype = AUTOCAST[optim.autocast]
        self._at_blocks: Callable[..., tuple[list[torch.Tensor], torch.Tensor]] = model.at_blocks
        if optim.compile:
            self._at_blocks = torch.compile(model.at_blocks, backend=optim.compile, dynamic=True)

    def __call__(self, batch: Batch, n_labels: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss to differentiate, and `PARTS` without gradients, (P,)."""
        n_views = len(batch.views)
        features_BTF = torch.cat(batch.views) if n_views > 1 else batch.views[0]
        lengths_B, targets_BL, target_lengths_B = (
            values.repeat(n_views, *[1] * (values.ndim - 1))
            for values in (batch.lengths_B, batch.targets_BL, batch.target_lengths_B)
        )
        with torch.autocast(features_BTF.device.type, self._dtype, enabled=self._dtype is not None):
            outputs, out_lengths_B = self._at_blocks(features_BTF, lengths_B, self._blocks)
        *inner, last_BTV = outputs
        losses = [
            ctc_sum(log_probs_BTV, out_lengths_B, targets_BL, target_lengths_B) / (n_views * n_labels)
            for log_probs_BTV in (last_BTV, *inner)
        ]
        ctc, total = losses[0], losses[0]
        inter = cr = torch.zeros_like(ctc)
        if inner:
            inter = torch.stack(losses[1:]).mean()
            total = (1 - self._loss.inter_ctc) * ctc + self._loss.inter_ctc * inter
        if n_views > 1:
            cr = disagreement_sum(last_BTV, out_lengths_B) / n_labels
            total = total + self._loss.cr_ctc * cr
        return total, torch.stack([ctc, inter, cr]).detach()


def ctc_sum(
    log_probs_BTV: torch.Tensor,
    lengths_B: torch.Tensor,
    targets_BL: torch.Tensor,
    target_lengths_B: torch.Tensor,
) -> torch.Tensor:
    """-log P(labels), summed over utterances; those whose labels need more frames count nothing."""
    return functional.ctc_loss(
        log_probs_BTV.transpose(0, 1),
        targets_BL,
        lengths_B,
        target_lengths_B,
        reduction="sum",
        zero_infinity=True,
    )


def disagreement_sum(log_probs_BTV: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """The symmetric divergence of CR-CTC, summed over frames and utterances.

    log_probs_BTV: first all utterances' first views, then in the same order their second.
    """
    views_2BTV = torch.stack(log_probs_BTV.chunk(2))
    others_2BTV = views_2BTV.flip(0).detach()
    divergence_2BT = functional.kl_div(views_2BTV, others_2BTV, reduction="none", log_target=True).sum(-1)
    mask_BT = frame_mask(lengths_B[: len(lengths_B) // 2], log_probs_BTV.shape[1])
    return 0.5 * torch.where(mask_BT, divergence_2BT, 0.0).sum()
