"""Training state on disk: one safetensors file, nothing pickled, written under a temporary name and renamed.

Tensors are named `model.*`, `ema.*`, `exp_avg.*` and `exp_avg_sq.*`; the counters are the file's metadata.
Every random draw of a run derives from seed, epoch, step and utterance, so counters are all that resuming
exactly needs.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from training.whole_file import write_tensors


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    step: int  # optimiser steps done
    epoch: int  # of the next step
    batch: int  # of the next step, within its epoch
    seconds: float  # of training so far, over all sessions


def save_checkpoint(
    path: Path,
    progress: Progress,
    model: torch.nn.Module,
    ema: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write everything that `load_checkpoint` needs."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in ema.items()}
    for name, parameter in model.named_parameters():
        for key in ("exp_avg", "exp_avg_sq"):
            if state := optimizer.state.get(parameter):
                tensors[f"{key}.{name}"] = state[key]
    write_tensors(path, tensors, {"progress": json.dumps(asdict(progress))})


def load_checkpoint(
    path: Path, model: torch.nn.Module, ema: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> Progress:
    """Fill model, averaged weights and optimiser.

    Raises KeyError or RuntimeError naming what does not fit.
    """
    with safe_open(path, "pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
        progress = Progress(**json.loads(file.metadata()["progress"]))
    model.load_state_dict(_section(tensors, "model."), strict=True)
    for name in ema:
        ema[name].copy_(tensors[f"ema.{name}"])
    if progress.step:
        for name, parameter in model.named_parameters():
            optimizer.state[parameter] = {
                "step": torch.tensor(float(progress.step)),
                "exp_avg": tensors[f"exp_avg.{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameter.device),
            }
    return progress


def _section(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
