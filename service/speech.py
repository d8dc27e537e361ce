"""The loaded models as the service sees them, and whether they are there yet."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from asr.audio import Source
from asr.decoding.options import DecodingOptions
from asr.decoding.result import NBest, Transcript
from asr.drift import Signs
from asr.long_audio import Part, Steps
from asr.recording import Posteriors
from asr.transcriber import Transcriber
from asr.windows import WindowSettings
from service.errors import NotReadyError
from service.settings import Settings

RETRY_WHILE_LOADING_S = 5

log = logging.getLogger(__name__)


class Speech(Steps, Protocol):
    """What the service needs of a Transcriber. Methods are called from several threads at once."""

    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def lms(self) -> tuple[str, ...]: ...

    def check(self, options: DecodingOptions) -> None: ...

    def transcribe(
        self,
        source: Source,
        options: DecodingOptions,
        *,
        max_duration_s: float,
        timeout_s: float | None = None,
        on_part: Callable[[Part], None] | None = None,
    ) -> Transcript: ...

    @property
    def windows(self) -> WindowSettings: ...

    def search(
        self, posteriors: Posteriors, options: DecodingOptions, *, deadline: float | None = None
    ) -> NBest: ...

    def rescore_batch(
        self, lists: Sequence[NBest], *, budget_s: float | None = None, deadline: float | None = None
    ) -> list[NBest]: ...

    def finish(self, posteriors: Posteriors, found: NBest, options: DecodingOptions) -> Transcript: ...

    def signs(self, posteriors: Posteriors, transcript: Transcript) -> Signs: ...

    def is_calibrated(self, options: DecodingOptions) -> bool: ...

    def self_test(self) -> None: ...


Loader = Callable[[Settings], Speech]


def load_speech(settings: Settings) -> Speech:
    """The bundle's Transcriber, with torch's threads set. Raises BundleError."""
    torch.set_num_threads(settings.torch_threads)
    return Transcriber.load(
        settings.bundle_dir,
        device=settings.device,
        rescore_precision=settings.rescore_precision,
        engine=None if settings.engine == "bundle" else settings.engine,
        acoustic_precision=settings.acoustic_precision,
    )


def uses_cuda(settings: Settings) -> bool:
    """Whether the models will run on a GPU."""
    return settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())


class Readiness:
    """Holds the models once they are loaded and self-tested; says why not until then."""

    def __init__(self) -> None:
        self.reasons: list[str] = ["the bundle is being loaded"]
        self.loaded_at: int = 0  # Unix time
        self._speech: Speech | None = None
        self._failed = False

    def load(self, settings: Settings, load: Loader) -> None:
        """Load and self-test; blocks. Keeps the reason and raises when that fails."""
        try:
            speech = load(settings)
            self.reasons = ["the bundle is being tested"]
            speech.self_test()
        except Exception as error:
            self._failed = True
            self.reasons = [f"the bundle cannot be served: {error}"]
            raise
        self._speech, self.loaded_at, self.reasons = speech, int(time.time()), []
        log.info("ready", extra={"model": speech.name, "sha256": speech.sha256, "device": str(speech.device)})

    @property
    def speech(self) -> Speech:
        """The models. Raises NotReadyError."""
        if self._speech is None:
            retry_after_s = None if self._failed else RETRY_WHILE_LOADING_S
            raise NotReadyError("; ".join(self.reasons), retry_after_s)
        return self._speech
