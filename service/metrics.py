"""Prometheus metrics of one application, in a registry of its own; docs/service.md lists them."""

from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

from asr.decoding.options import DecoderName
from asr.decoding.result import Transcript
from asr.drift import Signs
from asr.recording import Prepared

STAGE_BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
WAIT_BUCKETS_S = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0)
FACTOR_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
SHARE_BUCKETS = (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
ERROR_BUCKETS_S = (-10.0, -3.0, -1.0, -0.3, -0.1, 0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
PERPLEXITY_BUCKETS = (30.0, 100.0, 200.0, 300.0, 500.0, 1000.0, 3000.0, 10_000.0, 100_000.0)


class Metrics:
    """One attribute per metric. Decoder is empty where the request did not get as far as naming one."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, says: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(name, says, labels, registry=registry)

        def gauge(name: str, says: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(name, says, labels, registry=registry)

        def histogram(
            name: str, says: str, buckets: Sequence[float], labels: Sequence[str] = ()
        ) -> Histogram:
            return Histogram(name, says, labels, buckets=buckets, registry=registry)

        self.requests = counter("asr_requests", "Requests answered", ["endpoint", "decoder", "status"])
        self.failures = counter("asr_failures", "Requests that failed, by error code", ["code"])
        self.rejected = counter("asr_rejected", "Recordings that were not let in", ["reason"])
        self.cancelled = counter("asr_cancelled", "Recordings given up: caller gone or time up")
        self.decoders = counter("asr_decoders", "Decoder asked for and decoder used", ["asked", "used"])
        self.audio_seconds = counter("asr_audio_seconds", "Seconds of audio transcribed")
        self.in_flight = gauge("asr_in_flight", "Recordings in the house")
        self.in_flight_audio = gauge("asr_in_flight_audio_seconds", "Seconds of audio in the house")
        self.queued = gauge(
            "asr_queued", "Recordings waiting for a thread, by the step they wait for", ["stage"]
        )
        self.queue_wait = histogram("asr_queue_wait_seconds", "Seconds waited for threads", WAIT_BUCKETS_S)
        self.predicted_wait = histogram(
            "asr_predicted_wait_seconds", "Seconds of waiting predicted", WAIT_BUCKETS_S
        )
        self.wait_error = histogram(
            "asr_wait_error_seconds", "Seconds predicted minus seconds waited", ERROR_BUCKETS_S
        )
        self.batch_size = histogram("asr_batch_size", "Recordings in a batch", BATCH_BUCKETS, ["stage"])
        self.padded_fraction = histogram(
            "asr_batch_padded_fraction", "Share of a batch that is padding", SHARE_BUCKETS, ["stage"]
        )
        self.stage_seconds = histogram("asr_stage_seconds", "Seconds per stage", STAGE_BUCKETS_S, ["stage"])
        self.real_time_factor = histogram(
            "asr_real_time_factor", "Seconds of work per second of audio", FACTOR_BUCKETS, ["decoder"]
        )
        self.decoder_deaths = counter("asr_decoder_deaths", "Audio decoding processes that died or hung")
        self.streams = gauge("asr_streams", "WebSocket streams that are open")
        self.word_confidence = histogram(
            "asr_word_confidence", "Mean confidence of a recording's words", SHARE_BUCKETS
        )
        self.perplexity = histogram(
            "asr_lm_perplexity", "The n-gram's perplexity of a text, per word", PERPLEXITY_BUCKETS
        )
        self.unknown_words = histogram(
            "asr_unknown_word_share", "Words outside the n-gram's vocabulary", SHARE_BUCKETS
        )
        self.blank = histogram("asr_blank_share", "Output frames that are blank", SHARE_BUCKETS)
        self.clipped = histogram("asr_clipped_share", "Samples at full scale", SHARE_BUCKETS)
        self.silent = histogram("asr_silent_share", "Time without sound", SHARE_BUCKETS)
        self.model = Info("asr_model", "The bundle that is served", registry=registry)

    def observe(self, transcript: Transcript, asked: DecoderName, waited_s: float) -> None:
        """Count one transcript and what it took."""
        for stage, milliseconds in transcript.timings_ms.items():
            self.stage_seconds.labels(stage).observe(milliseconds / 1000)
        self.queue_wait.observe(waited_s)
        self.decoders.labels(asked, transcript.decoder).inc()
        self.audio_seconds.inc(transcript.duration_s)
        worked_s = sum(transcript.timings_ms.values()) / 1000
        if transcript.duration_s > 0:
            self.real_time_factor.labels(transcript.decoder).observe(worked_s / transcript.duration_s)

    def observe_audio(self, prepared: Prepared) -> None:
        """Count what recordings look like."""
        self.clipped.observe(prepared.clipped)
        self.silent.observe(prepared.silent)

    def observe_signs(self, signs: Signs) -> None:
        """Count what texts look like."""
        for histogram, value in (
            (self.blank, signs.blank),
            (self.unknown_words, signs.unknown_words),
            (self.perplexity, signs.perplexity),
            (self.word_confidence, signs.confidence),
        ):
            if value is not None:
                histogram.observe(value)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
