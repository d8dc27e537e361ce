"""The processes of a run: set up by accelerate as torchrun (or `accelerate launch`) says, one device each."""

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
