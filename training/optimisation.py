"""AdamW and Muon, their schedules, averaged weights, and everything that changes in the course of a run."""

import math
from dataclasses import dataclass, field

import torch

from asr.acoustic.kinds import AcousticModel
from training.config import OptimConfig


def make_optimizers(model: torch.nn.Module, optim: OptimConfig) -> list[torch.optim.Optimizer]:
    """Of what learns; biases and norms are not decayed. Muon's steps have AdamW's size (arXiv 2502.16982)."""
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    inner = {n for n, p in learning.items() if p.ndim == 2 and not n.endswith("output.weight")}
    by_muon = inner if optim.optimizer == "muon" else set()
    decayed = [p for name, p in learning.items() if p.ndim >= 2 and name not in by_muon]
    others = [p for p in learning.values() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": optim.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta_1, optim.beta_2))
    ]
    if by_muon:
        matrices = [learning[name] for name in sorted(by_muon)]
        optimizers.append(
            torch.optim.Muon(matrices, weight_decay=optim.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers


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
    optimizers: list[torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    average: AveragedWeights
    progress: Progress

    def moments(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the parameter's optimiser remembers of it: the dictionary itself, to read or to fill."""
        for optimizer in self.optimizers:
            if any(p is parameter for group in optimizer.param_groups for p in group["params"]):
                held: dict[str, torch.Tensor] = optimizer.state[parameter]
                return held
        return {}

    @classmethod
    def start(
        cls, model: AcousticModel, optim: OptimConfig, progress: Progress, device: torch.device
    ) -> "TrainingState":
        """A stage's first: new optimiser and averages around the model's weights as they are."""
        optimizers, scaler = make_optimizers(model, optim), make_scaler(device, optim)
        return cls(model, optimizers, scaler, AveragedWeights(model, optim), progress)
