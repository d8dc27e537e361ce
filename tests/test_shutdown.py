"""SIGTERM to a real `asr-sound serve`, with all that can be going on; only the model is a scripted one."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest

from asr.audio import SAMPLE_RATE
from service.settings import Settings
from tests.conftest import wav_bytes
from tests.scripted_speech import PATIENCE_S, SECRET, serving, wait_for

# Recordings of up to a second are heard once the file `short` is there, longer ones once `long` is.
SERVE = """
import sys, time
from pathlib import Path
import service.speech
from service import cli
from tests.scripted_speech import ScriptedSpeech

class Gated(ScriptedSpeech):
    def listen_batch(self, batch):
        longest_s = max(prepared.duration_s for prepared in batch)
        gate = Path(sys.argv[1]) / ("long" if longest_s > 1 else "short")
        while not gate.exists():
            time.sleep(0.01)
        return super().listen_batch(batch)

service.speech.load_speech = lambda _: Gated()
sys.exit(cli.main(["serve"]))
"""


class Log:
    """The lines of a process's JSON log, read as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.messages: list[str] = []
        self._reading = threading.Thread(target=self._read, args=(process,))
        self._reading.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.messages.append(json.loads(line)["message"])

    def wait_for(self, begins: str) -> str:
        """The first message that begins so."""
        wait_for(lambda: any(message.startswith(begins) for message in list(self.messages)))
        return next(message for message in self.messages if message.startswith(begins))

    def close(self) -> None:
        self._reading.join()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ASR_")}
    environment |= {"ASR_PORT": "0", "ASR_WORKERS": "2", "ASR_JOBS_DIR": str(tmp_path / "jobs")}
    environment |= {"ASR_ISOLATE_AUDIO": "false"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path)],
        env=environment,
        cwd=Path(__file__).parents[1],
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        yield started
        started.kill()


def test_sigterm_answers_what_was_admitted_refuses_the_rest_and_keeps_the_job(
    process: subprocess.Popen[str], tmp_path: Path
) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE)
    short, long = wav_bytes(noise[:SAMPLE_RATE]), wav_bytes(noise)
    log = Log(process)
    address = log.wait_for("Uvicorn running on").split()[3]
    log.wait_for("ready")
    with ThreadPoolExecutor(2) as callers:
        job = httpx2.post(f"{address}/v1/jobs", files={"file": long}).json()["id"]
        wait_for(lambda: httpx2.get(f"{address}/v1/jobs/{job}").json()["status"] == "running")
        wait_for(lambda: _in_flight(address) == 1)
        admitted = [
            callers.submit(httpx2.post, f"{address}/transcribe", files={"file": short}, timeout=PATIENCE_S)
            for _ in range(2)
        ]
        wait_for(lambda: _in_flight(address) == 3)
        with _upload_begun(address, short) as upload:
            process.send_signal(signal.SIGTERM)
            log.wait_for("Shutting down")
            with pytest.raises(httpx2.TransportError):
                httpx2.post(f"{address}/transcribe", files={"file": short})
            upload.sendall(short[len(short) // 2 :])
            answer = upload.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b'"code":"stopping"' in answer
        assert process.poll() is None
        (tmp_path / "short").touch()
        for answered in admitted:
            assert answered.result().status_code == 200
            assert answered.result().json()["text"] == SECRET
    log.wait_for("Waiting for application shutdown")
    (tmp_path / "long").touch()
    assert process.wait() == 0
    log.close()
    with serving(settings=Settings(jobs_dir=tmp_path / "jobs")) as client:
        wait_for(lambda: client.get(f"/v1/jobs/{job}").json()["status"] == "done")
        assert client.get(f"/v1/jobs/{job}").json()["result"]["text"] == SECRET


def _in_flight(address: str) -> float:
    lines = httpx2.get(f"{address}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("asr_in_flight "))


def _upload_begun(address: str, recording: bytes) -> socket.socket:
    """A connection on which half of a recording has been sent, and read by the service."""
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), PATIENCE_S)
    head = (
        f"POST /transcribe HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {len(recording)}\r\nExpect: 100-continue\r\n\r\n"
    )
    connection.sendall(head.encode())
    assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")
    connection.sendall(recording[: len(recording) // 2])
    return connection
