"""Files that are written whole or not at all: under a temporary name beside the place, then renamed."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save


def write_text(path: Path, text: str) -> None:
    """UTF-8; the folder is made if need be."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """The folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Indented, as people read it."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file, from any device, on the disk when this returns.

    Raises OSError when it cannot be written: what was there before is untouched.
    """
    temporary = path.with_suffix(".tmp")
    # as bytes: safetensors' own writer leaves a file of a random name behind when it is killed
    content = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, metadata)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written ({error}); what was there before is untouched") from error
