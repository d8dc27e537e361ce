"""CTC, intermediate CTC and the agreement of two views: what a training step minimises.

InterCTC (arXiv 2102.03216): (1 - w) CTC(last block) + w mean of CTC(inner blocks).
CR-CTC (arXiv 2410.05101): two differently masked views of each utterance; the mean of their CTC losses plus
w/2 sum over frames of KL(sg(b) || a) + KL(sg(a) || b), sg stopping the gradient.
Phones, where the model has a layer for them: (1 - s) of all that + s of theirs, which is 0.75 CTC(last block)
+ 0.25 mean of CTC(inner blocks), agreement at half its weight, and for CTC-CRF (arXiv 1911.08747) w log Z.
With s = 1 that is the phone tower's, which learns alone; where it hears pieces, too, (1 - t) of its phones' +
t of its pieces' CTC and agreement.

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
from asr.acoustic.phone_tower import ROW_FEATURES
from asr.acoustic.phones import PHONE_FRAMES, phone_log_probs
from asr.acoustic.residual_gru import ResidualGru
from training.config import LossConfig, OptimConfig
from training.label_graph import LabelGraph

PARTS = ("ctc", "inter_ctc", "cr_ctc", "phone_ctc", "phone_log_z")  # unweighted, per label (of the pieces)
INNER_PHONES = 0.25  # share of the phones' CTC that inner blocks get, where they have a loss
AUTOCAST = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Batch:
    """Utterances of one step or of a part of it."""

    views: tuple[torch.Tensor, ...]  # (B, T, F) each: one, or two for CR-CTC
    lengths_B: torch.Tensor  # frames
    targets_BL: torch.Tensor
    target_lengths_B: torch.Tensor
    phones_BL: torch.Tensor | None = None  # for the phone layer, with their lengths
    phone_lengths_B: torch.Tensor | None = None

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
            None if self.phones_BL is None else self.phones_BL[rows],
            None if self.phone_lengths_B is None else self.phone_lengths_B[rows],
        )


class Objective:
    """(batch, labels in the whole step) -> (loss, its parts)."""

    def __init__(
        self,
        model: AcousticModel,
        loss: LossConfig,
        optim: OptimConfig,
        phone_graph: LabelGraph | None = None,
    ) -> None:
        """phone_graph: for `loss.crf`."""
        self._loss, self._phone_graph = loss, phone_graph
        self._vocab_size = model.settings.vocab_size
        self._blocks = loss.blocks(model.settings)
        self._dtype = AUTOCAST[optim.autocast]
        self._tower = model.tower if loss.phone_ctc == 1.0 and isinstance(model, ResidualGru) else None
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
            if self._tower is not None:
                of_tower = self._tower(features_BTF, lengths_B)
            else:
                outputs, out_lengths_B = self._at_blocks(features_BTF, lengths_B, self._blocks)
        if self._tower is not None:
            return self._of_tower(*of_tower, lengths_B, targets_BL, target_lengths_B, batch, n_labels)
        phones = [] if batch.phones_BL is None else [phone_log_probs(o, self._vocab_size) for o in outputs]
        *inner, last_BTV = [o[..., : self._vocab_size] for o in outputs] if phones else outputs
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
        phone_ctc = log_z = torch.zeros_like(ctc)
        if phones:
            loss, phone_ctc, log_z = self._of_phones(phones, PHONE_FRAMES * out_lengths_B, batch, n_labels)
            total = (1 - self._loss.phone_ctc) * total + self._loss.phone_ctc * loss
        return total, torch.stack([ctc, inter, cr, phone_ctc, log_z]).detach()

    def _of_tower(
        self,
        phones_BTP: torch.Tensor,
        pieces_BTV: torch.Tensor | None,
        lengths_B: torch.Tensor,
        targets_BL: torch.Tensor,
        target_lengths_B: torch.Tensor,
        batch: Batch,
        n_labels: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `__call__`, where the phone tower learns alone."""
        out_lengths_B = -(-lengths_B // ROW_FEATURES)
        total, phone_ctc, log_z = self._of_phones([phones_BTP], PHONE_FRAMES * out_lengths_B, batch, n_labels)
        ctc, cr = phone_ctc, torch.zeros_like(phone_ctc)
        if pieces_BTV is not None:
            n_views = len(batch.views)
            ctc = ctc_sum(pieces_BTV, out_lengths_B, targets_BL, target_lengths_B) / (n_views * n_labels)
            if n_views > 1:
                cr = disagreement_sum(pieces_BTV, out_lengths_B) / n_labels
            share = self._loss.tower_pieces
            total = (1 - share) * total + share * (ctc + self._loss.cr_ctc * cr)
        return total, torch.stack([ctc, torch.zeros_like(ctc), cr, phone_ctc, log_z]).detach()

    def _of_phones(
        self, outputs: list[torch.Tensor], lengths_B: torch.Tensor, batch: Batch, n_labels: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The phones' loss, and of it the last block's CTC and log Z. outputs: (views x B, T, V) each."""
        n_views = len(batch.views)
        phones_BL, n_phones_B = batch.phones_BL.repeat(n_views, 1), batch.phone_lengths_B.repeat(n_views)
        *inner, last_BTV = outputs
        ctc, *inner_ctc = (
            ctc_sum(log_probs_BTV, lengths_B, phones_BL, n_phones_B) / (n_views * n_labels)
            for log_probs_BTV in (last_BTV, *inner)
        )
        total, log_z = ctc, torch.zeros_like(ctc)
        if inner:
            total = (1 - INNER_PHONES) * ctc + INNER_PHONES * torch.stack(inner_ctc).mean()
        if self._phone_graph:
            fit_B = _needed_frames(phones_BL, n_phones_B) <= lengths_B
            log_z_B = self._phone_graph.log_z(last_BTV, lengths_B)
            log_z = torch.where(fit_B, log_z_B, 0.0).sum() / (n_views * n_labels)
            total = total + self._loss.crf * log_z
        if n_views > 1:
            cr = disagreement_sum(last_BTV, lengths_B) / n_labels
            total = total + 0.5 * self._loss.cr_ctc * cr
        return total, ctc, log_z


def _needed_frames(labels_BL: torch.Tensor, label_lengths_B: torch.Tensor) -> torch.Tensor:
    """Fewest frames on which CTC can write these labels: a blank must part repeats. (B,)"""
    repeats_BL = labels_BL[:, 1:] == labels_BL[:, :-1]
    within_BL = torch.arange(labels_BL.shape[1], device=labels_BL.device)[1:] < label_lengths_B[:, None]
    return label_lengths_B + (repeats_BL & within_BL).sum(1)


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
