"""AdamW, its schedules, averaged weights, and everything that changes in the course of a run."""

import math
from dataclasses import dataclass, field

import torch

from asr.acoustic.kinds import AcousticModel
from training.config import OptimConfig


def make_optimizer(model: torch.nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """Of what learns. Biases and norms are not decayed."""
    learning = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in learning if p.ndim >= 2]
    others = [p for p in learning if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": optim.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta_1, optim.beta_2))


def make_scaler(device: torch.device, optim: OptimConfig) -> torch.amp.GradScaler:
    """Keeps fp16 gradients from underflowing; does nothing for other arithmetic."""
    return torch.amp.GradScaler(device.type, enabled=optim.autocast == "fp16")


def learning_rate(step: int, n_steps: int, optim: OptimConfig) -> float:
    """Of a stage's step, from 0.

    Warm-up, then cosine to a hundredth of the peak; `onecycle` also rises along a cosine, from a 25th; `noam`
    falls with the inverse square root of the step (arXiv 1706.03762).
    """
    warmup = max(1, int(optim.warmup_fraction * n_steps))
    if step < warmup:
        part = (step + 1) / warmup
        if optim.schedule == "onecycle":
            return optim.lr * (0.04 + 0.96 * (1 - math.cos(math.pi * part)) / 2)
        return optim.lr * part
    if optim.schedule == "noam":
        return optim.lr * math.sqrt(warmup / (step + 1))
    part = min(1.0, (step - warmup) / max(1, n_steps - warmup))
    return optim.lr * (0.01 + 0.99 * (1 + math.cos(math.pi * part)) / 2)


class AveragedWeights:
    """The weights that a stage keeps: a running average, or the mean of its last epochs' ends."""

    def __init__(self, model: torch.nn.Module, optim: OptimConfig) -> None:
        self._optim = optim
        self.ema = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.mean: dict[str, torch.Tensor] = {}  # of the last epochs so far; empty before them
        self.n_epochs = 0  # in the mean

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return self.mean or self.ema

    @torch.no_grad()
    def after_step(self, model: torch.nn.Module, step: int) -> None:
        """step: of the stage, from 0. The average is younger at first: it forgets the initial weights."""
        decay = min(self._optim.ema, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            self.ema[name].lerp_(value, 1 - decay)

    @torch.no_grad()
    def after_epoch(self, model: torch.nn.Module, epochs_left: int) -> None:
        """Checkpoint averaging (arXiv 1706.03762) without the files."""
        if epochs_left >= self._optim.average_epochs:
            return
        self.n_epochs += 1
        for name, value in model.state_dict().items():
            if name in self.mean:
                self.mean[name].lerp_(value, 1 / self.n_epochs)
            else:
                self.mean[name] = value.detach().clone()


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0  # optimiser steps done, over all stages
    stage: int = 0  # from 0
    stage_step: int = 0  # steps done in this stage
    epoch: int = 0  # of the stage; the one of the next batch
    batch: int = 0  # of the next step, within its epoch; the number of batches when none is left
    loss_sum: float = 0.0  # of this epoch's steps so far
    loss_steps: int = 0
    seconds: float = 0.0  # of training so far, over all sessions
    data: list[str] = field(default_factory=list)  # what each stage so far learnt from, for people

    @property
    def mean_loss(self) -> float:
        """Of this epoch so far."""
        return self.loss_sum / max(1, self.loss_steps)

    def after_step(self, next_batch: int, loss: float, seconds: float) -> None:
        self.step, self.stage_step, self.batch = self.step + 1, self.stage_step + 1, next_batch
        self.loss_sum, self.loss_steps, self.seconds = self.loss_sum + loss, self.loss_steps + 1, seconds

    def next_epoch(self) -> None:
        self.epoch, self.batch, self.loss_sum, self.loss_steps = self.epoch + 1, 0, 0.0, 0


@dataclass
class TrainingState:
    """Everything that changes in the course of a run: what a checkpoint holds."""

    model: AcousticModel
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    average: AveragedWeights
    progress: Progress

    @classmethod
    def start(
        cls, model: AcousticModel, optim: OptimConfig, progress: Progress, device: torch.device
    ) -> "TrainingState":
        """A stage's first: new optimiser and averages around the model's weights as they are."""
        optimizer, scaler = make_optimizer(model, optim), make_scaler(device, optim)
        return cls(model, optimizer, scaler, AveragedWeights(model, optim), progress)
