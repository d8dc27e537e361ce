"""A scripted stand-in for Transcriber: real audio reading, fixed words, and a gate that a test can close."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from fastapi.testclient import TestClient

from asr.audio import SAMPLE_RATE, Samples, Source, read_audio
from asr.decoding.options import DecodingOptions
from asr.decoding.result import Hypothesis, NBest, Scores, Transcript, Word
from asr.drift import Signs
from asr.errors import OptionsError
from asr.recording import Posteriors, Prepared
from asr.windows import WindowSettings
from service.app import create_app
from service.settings import Settings

PATIENCE_S = 120.0  # for something that takes milliseconds: only a hang lasts this long
SECRET = "attack at dawn"  # the text it always writes


class ScriptedSpeech:
    """Writes SECRET for everything that is audio. `gate` holds the acoustic model until it is set."""

    name = "scripted"
    sha256 = "5" * 64
    sample_rate = SAMPLE_RATE
    device = "cpu"
    blank_id = 0
    frame_samples = 640
    windows = WindowSettings()
    lms = ("default", "legal")

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error  # raised by every search
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)  # released as each recording enters the acoustic model
        self.batches: list[list[float]] = []  # durations of what the acoustic model heard at once
        self.calls: list[DecodingOptions] = []  # of each search
        self.seconds_left: list[float] = []
        self.rescored: list[int] = []  # lists in each pass

    def check(self, options: DecodingOptions) -> None:
        if options.lm is not None and options.lm not in self.lms:
            raise OptionsError(f"lm must be one of {', '.join(self.lms)}, not {options.lm!r}")

    def prepare_samples(self, samples: Samples, timings_ms: dict[str, float] | None = None) -> Prepared:
        features = torch.zeros(len(samples) // 160, 1)
        return Prepared(features, len(samples) / SAMPLE_RATE, {"audio": 1.0})

    def listen_batch(self, batch: Sequence[Prepared]) -> list[Posteriors]:
        self.batches.append([prepared.duration_s for prepared in batch])
        for _ in batch:
            self.entered.release()
        assert self.gate.wait(PATIENCE_S)
        return [
            Posteriors(
                np.zeros((len(prepared.features) // 4, 2), dtype=np.float32),
                prepared.duration_s,
                prepared.timings_ms | {"acoustic": 2.0},
            )
            for prepared in batch
        ]

    def search(
        self, posteriors: Posteriors, options: DecodingOptions, *, deadline: float | None = None
    ) -> NBest:
        self.calls.append(options)
        self.seconds_left.append((deadline or 0.0) - time.monotonic())
        if self.error is not None:
            raise self.error
        hypotheses = (
            Hypothesis(SECRET, Scores(-1.5, -2.25, 0.5, -3.0, 0.75)),
            Hypothesis("a tack", Scores(-9.0)),
        )
        return NBest(hypotheses, timings_ms=posteriors.timings_ms | {"decoding": 3.0})

    def rescore_batch(
        self, lists: Sequence[NBest], *, budget_s: float | None = None, deadline: float | None = None
    ) -> list[NBest]:
        self.rescored.append(len(lists))
        return [replace(nbest, rescoring="done") for nbest in lists]

    def finish(self, posteriors: Posteriors, found: NBest, options: DecodingOptions) -> Transcript:
        return Transcript(
            text=SECRET,
            decoder=options.decoder,
            duration_s=posteriors.duration_s,
            words=(Word("attack", 0.1, 0.4, 0.9),) if options.word_timestamps else (),
            rescoring=found.rescoring,
            hypotheses=found.hypotheses[: options.nbest],
            timings_ms=found.timings_ms,
        )

    def decode(
        self, posteriors: Posteriors, options: DecodingOptions, *, deadline: float | None = None
    ) -> Transcript:
        return self.finish(posteriors, self.search(posteriors, options, deadline=deadline), options)

    def transcribe(
        self,
        source: Source,
        options: DecodingOptions,
        *,
        max_duration_s: float,
        timeout_s: float | None = None,
        on_part: object = None,
    ) -> Transcript:
        (heard,) = self.listen_batch(
            [self.prepare_samples(read_audio(source, max_duration_s=max_duration_s))]
        )
        return self.decode(heard, options)

    def goes_on(
        self, before: Transcript, after: Transcript, pause_s: float, options: DecodingOptions
    ) -> bool:
        return False

    def signs(self, posteriors: Posteriors, transcript: Transcript) -> Signs:
        return Signs(blank=0.5, unknown_words=0.0, perplexity=200.0, confidence=None)

    def is_calibrated(self, options: DecodingOptions) -> bool:
        return False

    def self_test(self) -> None:
        """Nothing to test."""


def in_one_process(settings: Settings | None) -> Settings:
    """The settings, audio being decoded in the test's own process unless they say otherwise: no start."""
    settings = settings or Settings()
    given = "isolate_audio" in settings.model_fields_set
    return settings if given else settings.model_copy(update={"isolate_audio": False})


@contextmanager
def serving(speech: ScriptedSpeech | None = None, settings: Settings | None = None) -> Iterator[TestClient]:
    """A client of a ready application."""
    app = create_app(in_one_process(settings), load=lambda _: speech or ScriptedSpeech())
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
