"""A scripted stand-in for Transcriber: real audio reading, fixed words, and a gate that a test can close."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastapi.testclient import TestClient

from asr.audio import SAMPLE_RATE, Source, read_audio
from asr.decoding.options import DecodingOptions
from asr.decoding.result import Hypothesis, Scores, Transcript, Word
from asr.long_audio import Part
from service.app import create_app
from service.settings import Settings

PATIENCE_S = 120.0  # for something that takes milliseconds: only a hang lasts this long
SECRET = "attack at dawn"  # the text it always writes


class ScriptedSpeech:
    """Writes SECRET for everything that is audio. `gate` holds transcriptions until it is set."""

    name = "scripted"
    sha256 = "5" * 64
    sample_rate = SAMPLE_RATE
    device = "cpu"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error  # raised by every transcription
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)  # released as each transcription begins
        self.calls: list[DecodingOptions] = []
        self.seconds_left: list[float] = []

    def transcribe(
        self,
        source: Source,
        options: DecodingOptions,
        *,
        max_duration_s: float,
        timeout_s: float | None = None,
        on_part: Callable[[Part], None] | None = None,
    ) -> Transcript:
        self.calls.append(options)
        self.seconds_left.append(timeout_s or 0.0)
        self.entered.release()
        assert self.gate.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        samples = read_audio(source, max_duration_s=max_duration_s)
        hypotheses = (
            Hypothesis(SECRET, Scores(-1.5, -2.25, 0.5, -3.0, 0.75)),
            Hypothesis("a tack", Scores(-9.0)),
        )
        transcript = Transcript(
            text=SECRET,
            decoder=options.decoder,
            duration_s=len(samples) / SAMPLE_RATE,
            words=(Word("attack", 0.1, 0.4, 0.9),) if options.word_timestamps else (),
            hypotheses=hypotheses[: options.nbest],
            timings_ms={"audio": 1.0, "acoustic": 2.0, "decoding": 3.0},
        )
        if on_part is not None:
            on_part(Part(0.0, transcript.duration_s, transcript))
        return transcript

    def self_test(self) -> None:
        """Nothing to test."""


@contextmanager
def serving(speech: ScriptedSpeech | None = None, settings: Settings | None = None) -> Iterator[TestClient]:
    """A client of a ready application."""
    app = create_app(settings or Settings(), load=lambda _: speech or ScriptedSpeech())
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def wait_until_ready(client: TestClient) -> None:
    """Returns when `/readyz` answers 200."""
    wait_for(lambda: client.get("/readyz").status_code == 200)


def wait_for(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds; fails when it has not for a long time."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def metric(client: TestClient, line_start: str) -> float:
    """The value on the `/metrics` line that starts so; 0 where there is none."""
    lines = client.get("/metrics").text.splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(line_start)), 0.0)
