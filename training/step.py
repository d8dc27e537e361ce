"""One optimiser step that survives running out of memory."""

import gc
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from training.config import OptimConfig
from training.losses import PARTS, Batch, Objective
from training.optimisation import TrainingState
from training.processes import Processes, sum_gradients


@dataclass(frozen=True)
class StepResult:
    """Of the whole step, over all processes."""

    loss: float  # per label, CTC of the last block
    parts: dict[str, float]  # the other parts of the loss, per label and unweighted, where there are any
    grad_norm: float  # before clipping
    splits: int  # batches halved for want of memory
    lost: int  # utterances too long for the memory even alone
    skipped: bool  # the gradient was not finite: nothing was changed


def take_step(
    state: TrainingState,
    objective: Objective,
    batches: Iterable[Batch],
    n_labels: int,
    optim: OptimConfig,
    processes: Processes,
) -> StepResult:
    """One step on this process' parts of some batches with `n_labels` labels altogether, everywhere.

    Gradients are summed over processes, the loss being divided by the labels of the whole step: as many
    processes and parts as you like give the same step.
    """
    optimizers, scaler = state.optimizers, state.scaler
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    tally = torch.zeros(len(PARTS) + 2, device=processes.device)  # parts, splits, lost
    for batch in batches:
        if len(batch):
            tally += _add_gradients(objective, batch, n_labels, parameters, scaler)
    tally = sum_gradients(parameters, tally, processes)
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, optim.clip_norm))
    skipped = not math.isfinite(norm)
    if scaler.is_enabled() or not skipped:  # one broken batch must not end a long run; a scaler sees to it
        for optimizer in optimizers:
            scaler.step(optimizer)
    scaler.update()
    ctc, *others, splits, lost = tally.tolist()
    parts = {name: value for name, value in zip(PARTS[1:], others, strict=True) if value}
    return StepResult(ctc, parts, norm, round(splits), round(lost), skipped)


def _add_gradients(
    objective: Objective,
    batch: Batch,
    n_labels: int,
    parameters: list[torch.nn.Parameter],
    scaler: torch.amp.GradScaler,
) -> torch.Tensor:
    """Add a batch's gradients to `.grad`: all of them or, out of memory, those of its halves.

    Returns what `take_step` tallies.
    """
    result = _gradients(objective, batch, n_labels, parameters, scaler)
    if result is None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1:
            return batch.lengths_B.new_tensor([0] * len(PARTS) + [0, 1], dtype=torch.float32)
        first, second = (
            _add_gradients(objective, half, n_labels, parameters, scaler) for half in batch.halves()
        )
        return first + second + first.new_tensor([0] * len(PARTS) + [1, 0])
    gradients, parts_P = result
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    return torch.cat([parts_P.float(), parts_P.new_zeros(2, dtype=torch.float32)])


def _gradients(
    objective: Objective,
    batch: Batch,
    n_labels: int,
    parameters: list[torch.nn.Parameter],
    scaler: torch.amp.GradScaler,
) -> tuple[tuple[torch.Tensor | None, ...], torch.Tensor] | None:
    """Gradients and loss parts, or None when memory ran out: then nothing was changed and all is let go."""
    try:
        loss, parts_P = objective(batch, n_labels)
        return torch.autograd.grad(scaler.scale(loss), parameters, allow_unused=True), parts_P
    except torch.OutOfMemoryError:
        return None
    except RuntimeError as error:
        if "can't allocate memory" in str(error):  # what the CPU's allocator says
            return None
        raise
