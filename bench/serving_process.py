"""The servers that bench/serving.py compares, each as a process.

python -m bench.serving_process plain PORT BUNDLE

ours is `asr-sound serve`; plain and litserve are what one would write by hand around a Transcriber,
plain_torch the same around one whose acoustic model is torch's, in float32.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from asr.acoustic.listener import AcousticPrecision
from asr.decoding.options import DecodingOptions
from asr.transcriber import Transcriber
from bench.http_load import status_of
from bench.server_process import Server
from training.manifest import Utterance, read_bytes

START_S = 120.0
POLL_S = 0.1  # between two questions whether a server is ready: each takes time from one that is starting
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
BATCH = 16  # recordings that the bare Transcriber hears at once


@dataclass(frozen=True)
class Served:
    """A running server."""

    name: str
    port: int
    pid: int
    ready_s: float  # from the start of its process

    def memory_mib(self) -> float:
        """Of the process and those that it started, now; memory that they share counts for each."""
        return round(Server("", self.pid).memory_mib())

    def cpu_s(self) -> float:
        """Seconds of CPU that the process and those that it started, and that still run, have taken."""
        return sum(_cpu_ticks(stat, self.pid) for stat in Path("/proc").glob("[0-9]*/stat")) / TICKS_PER_S

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Lets them run; before and after, they stand still and take nothing from others."""
        os.killpg(self.pid, signal.SIGCONT)
        try:
            yield
        finally:
            os.killpg(self.pid, signal.SIGSTOP)


@asynccontextmanager
async def serve(name: str, bundle: Path, settings: Mapping[str, str] | None = None) -> AsyncIterator[Served]:
    """The server, ready; ended afterwards."""
    port = _free_port()
    ours = [sys.executable, "-m", "service.cli", "serve"]
    other = [sys.executable, "-m", "bench.serving_process", name, str(port), str(bundle)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ASR_")}
    environment |= {"ASR_PORT": str(port), "ASR_BUNDLE": str(bundle), "ASR_DEVICE": "cpu"}
    environment |= {"OMP_NUM_THREADS": "1", **(settings or {})}
    started = time.perf_counter()
    with subprocess.Popen(
        ours if name == "ours" else other,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            path = {"ours": "/readyz", "litserve": "/health"}.get(name, "/docs")
            while await status_of(port, path) != 200:
                if process.poll() is not None or time.perf_counter() - started > START_S:
                    raise RuntimeError(f"{name} did not start")
                await asyncio.sleep(POLL_S)
            yield Served(name, port, process.pid, round(time.perf_counter() - started, 2))
        finally:
            process.terminate()
            os.killpg(process.pid, signal.SIGCONT)
            process.wait()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # LitServe leaves its workers behind


class Bare:
    """The Transcriber alone: batches of recordings of like lengths, a thread per core."""

    def __init__(self, bundle: Path, chosen: Sequence[Utterance]) -> None:
        torch.set_num_threads(1)
        self._transcriber = Transcriber.load(bundle, "cpu")
        ordered = sorted(chosen, key=lambda utterance: utterance.duration_s)
        batches = [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]
        # The longest first: no thread is left with them at the end.
        self._recordings = [[read_bytes(utterance) for utterance in batch] for batch in batches[::-1]]

    def run(self, decoder: str) -> tuple[float, float]:
        """Seconds for all recordings, and of CPU."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            started, worked = time.perf_counter(), time.process_time()
            list(pool.map(partial(self._transcribe, DecodingOptions(decoder)), self._recordings))  # type: ignore[arg-type]
            return time.perf_counter() - started, time.process_time() - worked

    def _transcribe(self, options: DecodingOptions, batch: Sequence[bytes]) -> int:
        transcriber = self._transcriber
        prepared = [transcriber.prepare(recording).for_decoder(options.decoder) for recording in batch]
        heard = transcriber.listen_batch(prepared)
        return sum(len(transcriber.decode(posteriors, options).text) for posteriors in heard)


def _cpu_ticks(stat: Path, group: int) -> int:
    """Of a process of the group, user's and system's; 0 for all others, and when it is gone."""
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12]) if int(fields[2]) == group else 0


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def run_plain(port: int, bundle: str, acoustic_precision: AcousticPrecision = "int16") -> None:
    """One request at a time on a pool of threads."""
    import uvicorn
    from fastapi import FastAPI, UploadFile

    torch.set_num_threads(1)
    transcriber = Transcriber.load(bundle, "cpu", acoustic_precision=acoustic_precision)
    pool = ThreadPoolExecutor(os.cpu_count())
    app = FastAPI()

    @app.post("/transcribe")
    async def transcribe(file: UploadFile, decoder: str) -> dict[str, str]:
        content = await file.read()
        options = DecodingOptions(decoder)  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        transcript = await loop.run_in_executor(pool, transcriber.transcribe, content, options)
        return {"text": transcript.text, "decoder": transcript.decoder}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def run_litserve(port: int, bundle: str) -> None:
    """LitServe, where it is installed."""
    from bench import litserve_app

    litserve_app.run(port, bundle)


if __name__ == "__main__":
    servers: dict[str, Callable[[int, str], None]] = {
        "plain": run_plain,
        "plain_torch": partial(run_plain, acoustic_precision="float32"),
        "litserve": run_litserve,
    }
    servers[sys.argv[1]](int(sys.argv[2]), sys.argv[3])
