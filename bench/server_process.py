"""The service as a process of its own, for measurements from outside."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

START_S = 120.0
_STARTED = re.compile(r"running on (http://\S+?)[\s\"]")


@dataclass(frozen=True)
class Server:
    address: str
    pid: int

    def memory_mib(self) -> float:
        """Resident memory of the process and its children."""
        return sum(_kib(pid, "VmRSS") for pid in self.pids()) / 1024

    def peak_memory_mib(self) -> float:
        """The most that each of them has ever had, added up."""
        return sum(_kib(pid, "VmHWM") for pid in self.pids()) / 1024

    def pids(self) -> list[int]:
        """The process and its children."""
        return [self.pid, *_children(self.pid)]


@contextmanager
def served(settings: Mapping[str, str]) -> Iterator[Server]:
    """`asr-sound serve` on a free port, ready. settings: `ASR_*` variables."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ASR_")}
    environment |= {"ASR_PORT": "0", "OMP_NUM_THREADS": "1", **settings}
    command = [sys.executable, "-m", "service.cli", "serve"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            address = _address(process.stderr)
            # The log goes on: somebody has to read it, or the pipe fills up.
            reader = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
            _wait_until_ready(address)
            yield Server(address, process.pid)
            if process.poll() is not None:
                raise RuntimeError(f"the service ended with {process.returncode}")
        finally:
            process.terminate()
            process.wait()
        reader.wait()


def _address(lines: Iterator[str]) -> str:
    for line in lines:
        if found := _STARTED.search(line):
            return found[1]
    raise RuntimeError("the service did not start")


def _wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + START_S
    while httpx2.get(f"{address}/readyz").status_code != 200:
        if time.monotonic() > deadline:
            raise RuntimeError("the service is not ready")
        time.sleep(0.1)


def _kib(pid: int, field: str) -> int:
    """A field of the process's status; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"{field}:\s+(\d+)", status)
    return int(found[1]) if found else 0


def _children(pid: int) -> list[int]:
    """Of every thread of the process: a child belongs to the one that started it."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += map(int, (thread / "children").read_text().split())
        except OSError:
            continue
    return found
