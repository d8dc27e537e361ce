"""The processes of a run: set up by accelerate as torchrun (or `accelerate launch`) says, one device each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState


@dataclass(frozen=True)
class Processes:
    """This process' place among all of them."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """The one that writes files."""
        return self.rank == 0


def join_processes() -> Processes:
    """Meet the others: NCCL where there is CUDA, gloo on CPUs. A program started plainly is alone."""
    state = PartialState(cpu=not torch.cuda.is_available())
    return Processes(state.process_index, state.num_processes, state.device)


def wait_for_all() -> None:
    """Until every process is here."""
    PartialState().wait_for_everyone()


def leave_processes() -> None:
    """The counterpart of `join_processes`."""
    PartialState().destroy_process_group()


def summed(values_N: torch.Tensor, processes: Processes) -> torch.Tensor:
    """The element-wise sum over all processes, on each of them, in place."""
    if processes.count == 1:
        return values_N
    torch.distributed.all_reduce(values_N)  # accelerate's `reduce` would copy them first
    return values_N


def sum_gradients(
    parameters: Sequence[torch.nn.Parameter], tally: torch.Tensor, processes: Processes
) -> torch.Tensor:
    """Sum gradients and a tally (N,) over processes, in one message (docs/decisions.md); the summed tally.

    A parameter without a gradient gets zeros.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if processes.count == 1:
        return tally
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None] + [tally])
    flat = summed(flat, processes)
    start = 0
    for parameter in parameters:
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return flat[start:]
