"""What summing gradients costs two CPU processes: python -m bench.gradient_exchange

CPU milliseconds a step in each process, over the same batches in one run: no exchange at all, one message at
the step's end (what training does), and PyTorch's DistributedDataParallel with its hooks and buckets. The
three take turns, so that other load on the machine meets them alike.
"""

import argparse
import os
import time
from collections.abc import Callable

import torch
import torch.multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from asr.acoustic.kinds import build
from asr.acoustic.residual_gru import ResidualGruSettings
from training.losses import ctc_sum
from training.processes import Processes, join_processes, leave_processes, summed

WAYS = ("no exchange", "one message", "DistributedDataParallel")
LABELS_PER_UTTERANCE = 12


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8, help="utterances a process")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29533", "OMP_NUM_THREADS": "1"}
    torch.multiprocessing.spawn(_measure, args=(args,), nprocs=args.processes)


def _measure(rank: int, args: argparse.Namespace) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(args.processes), "LOCAL_WORLD_SIZE": str(args.processes)}
    torch.set_num_threads(1)
    processes = join_processes()
    torch.manual_seed(0)
    model = build(ResidualGruSettings(vocab_size=256, gru_blocks=4, dropout=0.0))
    wrapped = DistributedDataParallel(model)
    features_BTF = torch.randn(args.batch, int(args.seconds * 100), 80)

    def with_one_message() -> None:
        _backward(model, features_BTF)
        _one_message(model, processes)

    steps: dict[str, Callable[[], None]] = {
        WAYS[0]: lambda: _backward(model, features_BTF),
        WAYS[1]: with_one_message,
        WAYS[2]: lambda: _backward(wrapped, features_BTF),
    }
    cpu_s = dict.fromkeys(WAYS, 0.0)
    for number in range(args.steps + 1):
        for way, step in steps.items():
            model.zero_grad()
            began = time.process_time()
            step()
            if number:  # the first time warms up
                cpu_s[way] += time.process_time() - began
    if processes.first:
        bare = cpu_s[WAYS[0]]
        for way, seconds in cpu_s.items():
            print(f"{way:<26}{1000 * seconds / args.steps:>9.1f} ms a step {seconds / bare:>8.3f}")
    leave_processes()


def _backward(model: nn.Module, features_BTF: torch.Tensor) -> None:
    n_batch, n_frames, _ = features_BTF.shape
    targets_BL = torch.ones(n_batch, LABELS_PER_UTTERANCE, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        log_probs_BTV, lengths_B = model(features_BTF, torch.full((n_batch,), n_frames))
    lengths = torch.full((n_batch,), LABELS_PER_UTTERANCE)
    ctc_sum(log_probs_BTV, lengths_B, targets_BL, lengths).backward()


def _one_message(model: nn.Module, processes: Processes) -> None:
    parameters = [p for p in model.parameters() if p.grad is not None]
    flat = summed(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]), processes)
    start = 0
    for parameter in parameters:
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()


if __name__ == "__main__":
    main()
