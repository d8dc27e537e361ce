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
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
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
                await asyncio.sleep(0.02)
            yield Served(name, port, process.pid, round(time.perf_counter() - started, 2))
        finally:
            process.terminate()
            process.wait()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # LitServe leaves its workers behind


def bare_throughput(bundle: Path, chosen: Sequence[Utterance], decoder: str) -> float:
    """Recordings a second of the Transcriber alone: batches of like lengths, a thread per core."""
    torch.set_num_threads(1)
    transcriber = Transcriber.load(bundle, "cpu")
    options = DecodingOptions(decoder)  # type: ignore[arg-type]
    ordered = sorted(chosen, key=lambda utterance: utterance.duration_s)
    batches = [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]
    recordings = [[read_bytes(utterance) for utterance in batch] for batch in batches]

    def work(batch: list[bytes]) -> int:
        prepared = [transcriber.prepare(recording).for_decoder(options.decoder) for recording in batch]
        heard = transcriber.listen_batch(prepared)
        return sum(len(transcriber.decode(posteriors, options).text) for posteriors in heard)

    work(recordings[0][:2])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = time.perf_counter()
        list(pool.map(work, recordings[::-1]))  # the longest first: no thread is left with them at the end
        return round(len(ordered) / (time.perf_counter() - started), 2)


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
