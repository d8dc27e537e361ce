"""Everything that a GPT-2 run needs to go on as if it had never stopped, in one safetensors file.

Tensors: `model.*`, `optimiser.<parameter>.*`, `torch_rng`; metadata: the run's settings and progress as JSON.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from training.sentence_store import Position
from training.whole_file import write_tensors


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    tokens: int = 0  # targets seen
    elapsed_s: float = 0.0  # of training, over all its sessions
    position: Position = field(default_factory=Position)


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimisers: Sequence[torch.optim.Optimizer],
    settings: dict[str, Any],
    progress: Progress,
) -> None:
    """Write the whole state, or leave the earlier checkpoint as it was."""
    tensors: dict[str, Tensor] = {"torch_rng": torch.get_rng_state()}
    for name, parameter in model.named_parameters():
        tensors[f"model.{name}"] = parameter.detach()
        for key, value in _of(parameter, optimisers).state[parameter].items():
            tensors[f"optimiser.{name}.{key}"] = torch.as_tensor(value)
    metadata = {"settings": json.dumps(settings), "progress": json.dumps(asdict(progress))}
    write_tensors(path, tensors, metadata)


def load_checkpoint(
    path: Path, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer], settings: dict[str, Any]
) -> Progress:
    """Put the saved state into model, optimiser and PyTorch's random numbers.

    Raises OSError when there is none, ValueError when it is of a run with other settings or of another model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no checkpoint to resume from")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        saved = json.loads(metadata["settings"])
        if saved != settings:
            changed = sorted(k for k in saved.keys() | settings.keys() if saved.get(k) != settings.get(k))
            raise ValueError(f"{path}: the run had other settings: {', '.join(changed)}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    parameters = dict(model.named_parameters())
    held = {name.removeprefix("model.") for name in tensors if name.startswith("model.")}
    if held != parameters.keys():
        raise ValueError(f"{path}: other parameters: {', '.join(sorted(held ^ parameters.keys()))}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors.pop(f"model.{name}"))
    torch.set_rng_state(tensors.pop("torch_rng"))
    for name, tensor in tensors.items():
        parameter_name, key = name.removeprefix("optimiser.").rsplit(".", 1)
        parameter = parameters[parameter_name]
        _of(parameter, optimisers).state[parameter][key] = tensor.to(parameter.device)
    progress = json.loads(metadata["progress"])
    return Progress(**{**progress, "position": Position(**progress["position"])})


def _of(parameter: Tensor, optimisers: Sequence[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    """The one that moves this parameter."""
    return next(
        o for o in optimisers for group in o.param_groups if any(p is parameter for p in group["params"])
    )
