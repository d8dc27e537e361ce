"""Training state on disk: one safetensors file, nothing pickled, written under a temporary name and renamed.

Tensors are named `model.*`, `ema.*`, `mean.*`, `optimizer.<state>.*`, `tokenizer` and `rng.*`; progress, the
run's configuration, the loss scale, Python's and NumPy's generators and a SHA-256 of the tensors are its
metadata. The steps of a run draw from seed, epoch, step and utterance alone; the generators' states are kept
for whatever draws beside that. The file before the last is kept as `checkpoint.previous.safetensors`.
"""

import contextlib
import hashlib
import json
import os
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from training.optimisation import Progress, TrainingState
from training.whole_file import write_tensors

MOMENTS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")  # AdamW's, and Muon's
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"


class CheckpointError(ValueError):
    """A checkpoint that cannot be gone on from."""


def save_checkpoint(
    folder: Path, state: TrainingState, config: Mapping[str, Any], tokenizer_proto: bytes
) -> None:
    """Write everything that `Checkpoint` restores.

    Raises OSError when it cannot be written; the one that was there is then untouched.
    """
    tensors = {f"model.{k}": v for k, v in state.model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in state.average.ema.items()}
    tensors |= {f"mean.{k}": v for k, v in state.average.mean.items()}
    for name, parameter in state.model.named_parameters():
        for key, value in state.moments(parameter).items():
            tensors[f"optimizer.{key}.{name}"] = value
    tensors["tokenizer"] = torch.frombuffer(bytearray(tokenizer_proto), dtype=torch.uint8)
    tensors["rng.torch"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {
        "progress": json.dumps(asdict(state.progress)),
        "config": json.dumps(config),
        "scaler": json.dumps(state.scaler.state_dict()),
        "averaged_epochs": str(state.average.n_epochs),
        "generators": _generators(),
        "sha256": _digest(tensors),
    }
    path, link = folder / CHECKPOINT, folder / "checkpoint.link"
    if path.exists():
        with contextlib.suppress(OSError):  # a file system without links keeps one checkpoint only
            link.unlink(missing_ok=True)
            os.link(path, link)
            link.replace(folder / PREVIOUS)
    write_tensors(path, tensors, metadata)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read whole."""

    path: Path
    progress: Progress
    config: Mapping[str, Any]  # of the run that wrote it; empty in files of before it was kept
    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Raises CheckpointError when the file is damaged, saying what can be done."""
        try:
            with safe_open(path, "pt") as file:
                metadata = dict(file.metadata() or {})
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
            progress = _progress(json.loads(metadata["progress"]))
            config = json.loads(metadata.get("config", "{}"))
            damage = "sha256" in metadata and metadata["sha256"] != _digest(tensors)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is no whole checkpoint ({error}){_remedy(path)}") from error
        if damage:
            raise CheckpointError(f"{path} is damaged: its contents have another SHA-256{_remedy(path)}")
        return cls(path, progress, config, tensors, metadata)

    def restore(self, state: TrainingState, tokenizer_proto: bytes) -> None:
        """Fill a state that was made for this checkpoint's stage, and the random generators.

        Raises CheckpointError naming what does not fit.
        """
        written_with = self.tensors.get("tokenizer")
        if written_with is not None and written_with.numpy().tobytes() != tokenizer_proto:
            raise CheckpointError(f"{self.path} has another tokenizer: its outputs mean other pieces")
        try:
            state.model.load_state_dict(self._section("model."), strict=True)
            for name, value in state.average.ema.items():
                value.copy_(self.tensors[f"ema.{name}"])
        except (RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[:2][-1].strip()  # torch lists every tensor: the first will do
            raise CheckpointError(
                f"{self.path} has another model than this configuration: {reason}"
            ) from error
        device = next(state.model.parameters()).device
        state.average.mean = {name: value.to(device) for name, value in self._section("mean.").items()}
        state.average.n_epochs = int(self.metadata.get("averaged_epochs", 0))
        for name, parameter in state.model.named_parameters():
            if moments := self._moments(name):
                on_device = {k: v if k == "step" else v.to(device) for k, v in moments.items()}
                state.moments(parameter).update(on_device)
        if scaler := json.loads(self.metadata.get("scaler", "{}")):
            state.scaler.load_state_dict(scaler)
        state.progress = self.progress
        self._restore_generators()

    def _moments(self, name: str) -> dict[str, torch.Tensor]:
        """An optimiser's of one parameter; files of before it was kept whole have two of AdamW's three."""
        found = {key: self.tensors.get(f"optimizer.{key}.{name}") for key in MOMENTS}
        if found["step"] is None and f"exp_avg.{name}" in self.tensors:
            found = {key: self.tensors[f"{key}.{name}"] for key in ("exp_avg", "exp_avg_sq")}
            found["step"] = torch.tensor(float(self.progress.step))
        return {key: value for key, value in found.items() if value is not None}

    def _section(self, prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    def _restore_generators(self) -> None:
        if "rng.torch" in self.tensors:
            torch.set_rng_state(self.tensors["rng.torch"])
        if "rng.cuda" in self.tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.tensors["rng.cuda"])
        if "generators" in self.metadata:
            states = json.loads(self.metadata["generators"])
            version, internal, gauss = states["python"]
            random.setstate((version, tuple(internal), gauss))
            name, keys, *rest = states["numpy"]
            np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))


def _progress(values: dict[str, Any]) -> Progress:
    """Files of before there were stages lack some fields."""
    known = {f.name for f in fields(Progress)}
    return Progress(**({"stage_step": values["step"]} | {k: v for k, v in values.items() if k in known}))


def _generators() -> str:
    """Python's and NumPy's global generators as JSON."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return json.dumps({"python": random.getstate(), "numpy": [name, keys.tolist(), *rest]})


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names and contents."""
    sha256 = hashlib.sha256()
    for name in sorted(tensors):
        sha256.update(name.encode())
        sha256.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def _remedy(path: Path) -> str:
    previous = path.with_name(PREVIOUS)
    if previous.exists():
        return f": put {previous.name}, the one before it, in its place to go on from there"
    return ": remove it to begin anew"
