"""The steps from a recording to words, in order: what the service, the command line and evaluation all call.

Shapes: T output frames, F mel bands, V CTC outputs (blank included).
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from asr.acoustic.huggingface_ctc import HuggingFaceCtcSettings, normalised_samples
from asr.acoustic.kinds import AcousticModel, build
from asr.audio import SAMPLE_RATE, read_audio
from asr.bundle import ACOUSTIC, GPT2, NGRAM, TOKENIZER, UNIGRAMS, Bundle
from asr.decoding.beam import BeamDecoder
from asr.decoding.greedy import greedy
from asr.decoding.ngram import NgramLM
from asr.decoding.options import DECODERS, DecodingOptions
from asr.decoding.rescoring import Gpt2Scorer, Precision, rescore
from asr.decoding.result import Hypothesis, RescoringState, Scores, Transcript, Word
from asr.decoding.reweighting import reweight_for_gpt2
from asr.decoding.words import describe_words
from asr.errors import AsrError, BundleError, DecodingTimeoutError, RescoringTimeoutError
from asr.features import log_mel
from asr.text import normalise
from asr.tokenizer import Tokenizer

Device = Literal["auto", "cpu", "cuda"]

MAX_DURATION_S = 600.0
SILENCE_PEAK = 2.0**-15  # one step of 16-bit audio: nothing below it was ever recorded


@dataclass(frozen=True)
class Posteriors:
    """What the acoustic model heard, from which every decoder starts."""

    log_probs: NDArray[
        np.float32
    ]  # (T, V), natural logarithm; T is 0 for silence and for less than one frame
    duration_s: float  # of the decoded audio
    timings_ms: dict[str, float] = field(default_factory=dict)  # audio, features, acoustic


class Transcriber:
    """A loaded bundle. Nothing in it changes after loading: several threads may call it at once."""

    def __init__(
        self,
        bundle: Bundle,
        tokenizer: Tokenizer,
        acoustic: AcousticModel,
        lm: NgramLM,
        gpt2: Gpt2Scorer,
        device: torch.device,
    ) -> None:
        self.bundle = bundle
        self.tokenizer = tokenizer
        self.lm = lm
        self.gpt2 = gpt2
        self.settings = bundle.settings.decoding
        self.calibration = bundle.settings.calibration
        self.name = bundle.settings.name
        self.sha256 = bundle.sha256
        self.sample_rate = SAMPLE_RATE
        self.device = str(device)
        self._acoustic = acoustic
        self._beam = BeamDecoder(tokenizer, lm, self.settings)

    @classmethod
    def load(
        cls, bundle_dir: str | Path, device: Device = "auto", *, rescore_precision: Precision = "float32"
    ) -> "Transcriber":
        """Verify a bundle and load its models. `auto` takes CUDA where there is one.

        rescore_precision: what GPT-2 computes in, see `Gpt2Scorer`. Raises BundleError (see `asr.errors`)
        naming the file at fault.
        """
        bundle = Bundle.load(bundle_dir)
        place = _place(device)
        try:
            acoustic = build(bundle.settings.acoustic)
            acoustic.load_state_dict(load_file(bundle.path / ACOUSTIC), strict=True)
            return cls(
                bundle,
                Tokenizer.load(bundle.path / TOKENIZER),
                acoustic.eval().requires_grad_(False).to(place),
                NgramLM.load(bundle.path / NGRAM, bundle.path / UNIGRAMS),
                Gpt2Scorer.load(bundle.path / GPT2, place, rescore_precision),
                place,
            )
        except AsrError:
            raise
        except (
            Exception
        ) as error:  # every file has its right hash: whatever a library says, the bundle is at fault
            raise BundleError(f"{bundle.path} cannot be loaded: {error}") from error

    @property
    def frame_s(self) -> float:
        """Seconds between two output frames."""
        settings = self.bundle.settings
        return float(settings.features.hop_ms * settings.acoustic.features_per_output / 1000)

    def transcribe(
        self,
        source: bytes | str | Path,
        options: DecodingOptions,
        *,
        max_duration_s: float = MAX_DURATION_S,
        timeout_s: float | None = None,
    ) -> Transcript:
        """The words of a recording (the file's bytes, or its path).

        timeout_s: seconds from now, after which decoding gives up; None: never. The same recording and
        options give the same answer, `timings_ms` apart. Raises AudioError or DecodingTimeoutError.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        posteriors = self.listen(source, max_duration_s=max_duration_s)
        return self.decode(posteriors, options, deadline=deadline)

    def listen(self, source: bytes | str | Path, *, max_duration_s: float = MAX_DURATION_S) -> Posteriors:
        """The steps that all decoders share. Raises AudioError."""
        stopwatch = _Stopwatch()
        with stopwatch.stage("audio"):
            samples = read_audio(source, max_duration_s=max_duration_s)
        with stopwatch.stage("features"):
            features_TF = self._features(samples)
        with stopwatch.stage("acoustic"):
            log_probs_TV = self._listen(features_TF)
        return Posteriors(log_probs_TV, len(samples) / SAMPLE_RATE, stopwatch.timings_ms)

    def log_probs(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Natural-log posteriors (T, V) of 16 kHz mono samples; T is 0 where `Posteriors` says so."""
        return self._listen(self._features(samples))

    def decode(
        self, posteriors: Posteriors, options: DecodingOptions, *, deadline: float | None = None
    ) -> Transcript:
        """The steps from posteriors to words. deadline: on `time.monotonic`'s clock.

        Raises DecodingTimeoutError.
        """
        stopwatch = _Stopwatch(posteriors.timings_ms)
        with stopwatch.stage("decoding"):
            hypotheses = self._search(posteriors.log_probs, options, deadline)
        rescoring: RescoringState = "none"
        if options.decoder == "beam_lm_rescore":
            with stopwatch.stage("rescoring"):
                hypotheses, rescoring = self._rescore(hypotheses, options.rescore_budget_s, deadline)
        words: tuple[Word, ...] = ()
        if options.word_timestamps:
            with stopwatch.stage("alignment"):
                words = self._describe(posteriors, hypotheses, options)
        return Transcript(
            text=hypotheses[0].text,
            decoder=options.decoder,
            duration_s=posteriors.duration_s,
            words=words,
            calibrated=self.calibration is not None and options.decoder in self.calibration.maps,
            rescoring=rescoring,
            hypotheses=tuple(hypotheses[: options.nbest]),
            timings_ms=stopwatch.timings_ms,
        )

    def self_test(self) -> None:
        """Decode seeded tones and noise twice with every decoder. Raises BundleError saying what is wrong."""
        samples = _test_signal()
        log_probs_TV = self.log_probs(samples)
        if not len(log_probs_TV) or not np.isfinite(log_probs_TV).all():
            raise BundleError("self-test: the acoustic model gives no finite log-probabilities")
        if not np.allclose(np.exp(log_probs_TV.astype(np.float64)).sum(axis=1), 1.0, atol=1e-3):
            raise BundleError("self-test: the acoustic model's probabilities do not add up to one")
        if not np.array_equal(log_probs_TV, self.log_probs(samples)):
            raise BundleError("self-test: the acoustic model gives other values the second time")
        posteriors = Posteriors(log_probs_TV, len(samples) / SAMPLE_RATE)
        for decoder in DECODERS:
            options = DecodingOptions(decoder, nbest=5, word_timestamps=True)
            try:
                first, second = (replace(self.decode(posteriors, options), timings_ms={}) for _ in range(2))
            except Exception as error:
                raise BundleError(f"self-test: decoder {decoder} fails: {error}") from error
            if first != second:
                raise BundleError(f"self-test: decoder {decoder} gives another answer the second time")
            if not all(math.isfinite(hypothesis.scores.total) for hypothesis in first.hypotheses):
                raise BundleError(f"self-test: decoder {decoder} gives scores that are not finite")

    def _features(self, samples: NDArray[np.float32]) -> torch.Tensor:
        """Log-mel (T, F), or samples (T, 1) for a model that reads those; none where nothing can be heard."""
        settings, acoustic = self.bundle.settings.features, self.bundle.settings.acoustic
        silent = not len(samples) or np.abs(samples).max() < SILENCE_PEAK
        if isinstance(acoustic, HuggingFaceCtcSettings):
            if silent or len(samples) < acoustic.fewest_samples:
                return torch.empty(0, 1)
            return normalised_samples(torch.from_numpy(samples).to(self.device), acoustic)
        if silent or len(samples) < settings.hop_length * acoustic.features_per_output:
            return torch.empty(0, settings.n_mels)
        return log_mel(torch.from_numpy(samples).to(self.device), settings)

    def _listen(self, features_TF: torch.Tensor) -> NDArray[np.float32]:
        if not len(features_TF):
            return np.empty((0, self.tokenizer.vocab_size), dtype=np.float32)
        lengths_B = torch.tensor([len(features_TF)], device=features_TF.device)
        with torch.inference_mode():
            log_probs_BTV, _ = self._acoustic(features_TF[None], lengths_B)
        log_probs_TV: NDArray[np.float32] = log_probs_BTV[0].float().cpu().numpy()
        return log_probs_TV

    def _search(
        self, log_probs_TV: NDArray[np.float32], options: DecodingOptions, deadline: float | None
    ) -> list[Hypothesis]:
        """Hypotheses, best first, at least one."""
        if not len(log_probs_TV):
            return [Hypothesis("", Scores(acoustic=0.0))]
        if options.decoder == "greedy":
            return [greedy(log_probs_TV, self.tokenizer)]
        weight = self.settings.hotword_weight if options.hotword_weight is None else options.hotword_weight
        return self._beam.decode(
            log_probs_TV,
            hotwords=tuple(filter(None, map(normalise, options.hotwords))),
            hotword_weight=weight,
            deadline_s=_seconds_left(deadline),
        )

    def _rescore(
        self, hypotheses: list[Hypothesis], budget_s: float | None, deadline: float | None
    ) -> tuple[list[Hypothesis], RescoringState]:
        """The list in GPT-2's order, or as it was when the budget runs out; the deadline's end raises."""
        left_s = _seconds_left(deadline)
        limits_s = [seconds for seconds in (left_s, budget_s) if seconds is not None]
        stop = time.monotonic() + min(limits_s) if limits_s else None
        limit = self.settings.rescore_nbest
        try:
            reweighted = reweight_for_gpt2(hypotheses[:limit], self.lm, self.settings)
            return rescore(reweighted, self.gpt2, self.settings.gamma, limit, deadline=stop), "done"
        except RescoringTimeoutError:
            _seconds_left(deadline)
            return hypotheses, "out_of_time"

    def _describe(
        self, posteriors: Posteriors, hypotheses: Sequence[Hypothesis], options: DecodingOptions
    ) -> tuple[Word, ...]:
        return describe_words(
            posteriors.log_probs,
            hypotheses,
            options.decoder,
            self.tokenizer,
            lm=self.lm,
            calibration=self.calibration,
            frame_s=self.frame_s,
            duration_s=posteriors.duration_s,
            hotwords=tuple(map(normalise, options.hotwords)),
        )


class _Stopwatch:
    """Milliseconds per stage."""

    def __init__(self, timings_ms: dict[str, float] | None = None) -> None:
        self.timings_ms = dict(timings_ms or {})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.timings_ms[name] = 1000 * (time.perf_counter() - started)


def _place(device: Device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def _seconds_left(deadline: float | None) -> float | None:
    """Raises DecodingTimeoutError when the time is up."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise DecodingTimeoutError("the time for decoding is up")
    return left


def _test_signal() -> NDArray[np.float32]:
    """Two seconds of gated tones over seeded noise."""
    rng = np.random.default_rng(0)
    time_s = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    tones = sum(np.sin(2 * np.pi * hz * time_s) for hz in (220.0, 700.0, 1900.0))
    gate = np.sin(2 * np.pi * 4 * time_s) > 0
    signal: NDArray[np.float64] = 0.1 * tones * gate + 0.02 * rng.standard_normal(len(time_s))
    return signal.astype(np.float32)
