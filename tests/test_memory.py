"""Memory does not grow with the lengths of the recordings that a process has heard."""

import gc
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from service.memory import made_for_good

ROOT = Path(__file__).resolve().parents[1]
MANY_SHAPES = """
from service.cli import main
main(["key"])  # any command: it is the first thing that they do
import torch
torch.set_num_threads(1)
layers = torch.nn.Sequential(torch.nn.Conv2d(1, 32, 3, stride=2), torch.nn.Conv2d(32, 64, 3, stride=2))
with torch.inference_mode():
    for length in range(200, 260):
        layers(torch.zeros(1, 1, length, 80))
kept = 0
for line in open("/proc/self/maps"):
    addresses, access, _, _, inode, *_ = line.split()
    if "x" in access and inode == "0":  # code that belongs to no file: kernels made on the way
        first, end = (int(address, 16) for address in addresses.split("-"))
        kept += end - first
print(kept)
"""


def test_no_kernels_are_kept_for_every_length() -> None:
    """Without the limits these sixty lengths leave 14 MiB of code behind, where convolutions are compiled."""
    command = [sys.executable, "-c", MANY_SHAPES]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert int(output.splitlines()[-1]) < 2**20


def test_what_is_made_for_good_is_not_looked_through() -> None:
    gc.collect()
    try:
        with made_for_good():
            assert not gc.isenabled()
            kept = [[] for _ in range(10_000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() > len(kept)
        assert len(gc.get_objects()) < len(kept)
    finally:
        gc.unfreeze()


def test_the_collector_goes_on_after_a_failure() -> None:
    try:
        with suppress(ZeroDivisionError), made_for_good():
            raise ZeroDivisionError
        assert gc.isenabled()
    finally:
        gc.unfreeze()
