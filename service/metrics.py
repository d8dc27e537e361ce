"""Prometheus metrics of one application, in a registry of its own; docs/service.md lists them."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

from asr.decoding.result import Transcript

STAGE_BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
WAIT_BUCKETS_S = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0)
FACTOR_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """One attribute per metric. Decoder is empty where the request did not get as far as naming one."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "asr_requests", "Requests answered", ["endpoint", "decoder", "status"], registry=registry
        )
        self.failures = Counter(
            "asr_failures", "Requests that failed, by error code", ["code"], registry=registry
        )
        self.stage_seconds = Histogram(
            "asr_stage_seconds", "Seconds per stage", ["stage"], buckets=STAGE_BUCKETS_S, registry=registry
        )
        self.audio_seconds = Counter("asr_audio_seconds", "Seconds of audio transcribed", registry=registry)
        self.real_time_factor = Histogram(
            "asr_real_time_factor",
            "Seconds of work per second of audio",
            ["decoder"],
            buckets=FACTOR_BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge("asr_in_flight", "Recordings being decoded", registry=registry)
        self.queued = Gauge("asr_queued", "Recordings waiting for a worker", registry=registry)
        self.queue_wait = Histogram(
            "asr_queue_wait_seconds", "Seconds waited for a worker", buckets=WAIT_BUCKETS_S, registry=registry
        )
        self.streams = Gauge("asr_streams", "WebSocket streams that are open", registry=registry)
        self.model = Info("asr_model", "The bundle that is served", registry=registry)

    def observe(self, transcript: Transcript) -> None:
        """Count one transcript."""
        for stage, milliseconds in transcript.timings_ms.items():
            self.stage_seconds.labels(stage).observe(milliseconds / 1000)
        self.audio_seconds.inc(transcript.duration_s)
        worked_s = sum(transcript.timings_ms.values()) / 1000
        if transcript.duration_s > 0:
            self.real_time_factor.labels(transcript.decoder).observe(worked_s / transcript.duration_s)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
