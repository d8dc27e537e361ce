"""Settings of the service and of `asr-sound transcribe`: `ASR_*` variables, read once at start."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from asr.decoding.options import DecoderName
from service.errors import SettingsError

PREFIX = "ASR_"
FOREIGN_NAMES = frozenset({"ASR_DATA"})  # the corpora's folder: of training and the tests, not of the service
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of CPU per period, or "max"
REPOSITORY = Path(__file__).resolve().parents[1]


class Settings(BaseSettings):
    """Everything that an operator can set. `ASR_PORT=9000` sets `port`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    bundle: Path = Path("models/default")
    """Folder of the bundle to serve; a relative one is looked for in the working directory, then beside the
    code."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the models run; `auto` takes CUDA where there is one."""
    default_decoder: DecoderName = "beam_lm_rescore"
    """Decoder of a request that names none."""
    max_upload_mb: int = Field(default=256, ge=1, le=4096)
    """Largest request body, in MiB."""
    max_uploads: int = Field(default=64, ge=1, le=10_000)
    """Recordings being received or waiting to be read; one more is answered 429."""
    upload_timeout_s: float = Field(default=60.0, gt=0, le=3600)
    """Seconds that a caller has for sending the request body."""
    max_duration_s: float = Field(default=14400.0, gt=0, le=86_400)
    """Longest recording, in seconds of decoded audio."""
    max_hotwords: int = Field(default=1000, ge=0, le=10_000)
    """Hotwords in one request."""
    max_hotword_chars: int = Field(default=100, ge=1, le=1000)
    """Characters in one hotword."""
    max_lm_text_chars: int = Field(default=200_000, ge=0, le=5_000_000)
    """Characters in a text that is posted to be mixed into the n-gram; 0: none is taken."""
    workers: int | None = Field(default=None, ge=1, le=64)
    """Threads that all work is done on; none: one for each core that the process may use."""
    max_queued_s: float = Field(default=1200.0, gt=0, le=1_000_000)
    """Seconds of audio that may be in the house, in work or waiting; more is answered 429."""
    latency_target_s: float | None = Field(default=10.0, gt=0, le=3600)
    """Seconds in which everything in the house should be done; when it would take longer, decoders step
    down."""
    max_batch: int | None = Field(default=None, ge=1, le=1000)
    """Stretches of audio that the acoustic model hears at once; none: 64 on a GPU, 2 on a CPU, where company
    saves little and all of a batch wait for its last."""
    max_batch_s: float = Field(default=120.0, gt=0, le=100_000)
    """Seconds of audio, padding included, that the acoustic model hears at once."""
    batch_wait_ms: float = Field(default=60.0, ge=0, le=10_000)
    """Longest that a recording waits for others to be heard with it; never while a thread is idle."""
    timeout_s: float = Field(default=600.0, gt=0, le=3600)
    """Seconds from the end of the upload to the answer, waiting included; then 504."""
    torch_threads: int = Field(default=1, ge=1, le=256)
    """CPU threads of one torch operation; workers x torch_threads should not pass the cores."""
    engine: Literal["bundle", "native", "pyctcdecode"] = "bundle"
    """What does beam search; `bundle` takes what the bundle names, or what its n-gram allows."""
    acoustic_precision: Literal["int16", "float32"] = "int16"
    """What the acoustic model computes in; int16 only on a CPU and for residual GRUs, others take float32."""
    rescore_precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """What GPT-2 computes in; `auto` takes bfloat16 where a measurement at start says that it is faster."""
    rescore_budget_s: float | None = Field(default=None, ge=0, le=3600)
    """Seconds that GPT-2 may take for one recording, then beam search's order stands; none: no limit."""
    isolate_audio: bool = True
    """Whether recordings are decoded in other processes, which may crash."""
    api_key_hashes: str = Field(default="", pattern=r"^([0-9a-f]{64}(,[0-9a-f]{64})*)?$")
    """SHA-256 of the API keys that are taken, separated by commas; empty: no key is asked for."""
    cors_origins: str = Field(default="", max_length=4096)
    """Origins whose pages may call the service from a browser, separated by commas; `*` for all."""
    jobs_dir: Path | None = None
    """Folder of asynchronous jobs, a SQLite file and their recordings; none: no jobs are taken."""
    max_jobs: int = Field(default=1000, ge=1, le=1_000_000)
    """Jobs kept, ended ones included; one more is refused as busy."""
    max_jobs_mb: int = Field(default=4096, ge=1, le=1_000_000)
    """Recordings of jobs that have not ended, in MiB; more are refused as busy."""
    jobs_at_once: int = Field(default=1, ge=1, le=64)
    """Jobs that are worked on at the same time."""
    job_timeout_s: float = Field(default=14400.0, gt=0, le=604_800)
    """Seconds that one job may take once it is begun."""
    job_expiry_s: float = Field(default=86400.0, gt=0, le=31_536_000)
    """Seconds that an ended job and its result are kept."""
    max_streams: int = Field(default=16, ge=0, le=10_000)
    """WebSocket streams open at the same time."""
    stream_step_s: float = Field(default=0.5, ge=0.1, le=10)
    """Seconds of new audio on a stream after which its words are written again."""
    stream_idle_s: float = Field(default=30.0, gt=0, le=3600)
    """Seconds without a message after which a stream is closed."""
    traces: bool = False
    """Whether OpenTelemetry traces are sent, as its own `OTEL_*` variables say; needs the extra `otel`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log line written."""

    @property
    def threads(self) -> int:
        """Threads that work is done on."""
        return usable_cores() if self.workers is None else self.workers

    @property
    def max_upload_bytes(self) -> int:
        """Largest request body, in bytes."""
        return self.max_upload_mb * 1024 * 1024

    @property
    def bundle_dir(self) -> Path:
        """The bundle's folder; as given where neither place has it."""
        beside_code = REPOSITORY / self.bundle
        return self.bundle if self.bundle.exists() or not beside_code.exists() else beside_code


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine has, in a container with a quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = CPU_QUOTA.read_text().partition(" ") if CPU_QUOTA.is_file() else ("max", "", "")
    return max(1, min(cores, 64) if quota == "max" else min(cores, round(int(quota) / int(period))))


def load_settings() -> Settings:
    """The settings that the environment asks for.

    Raises SettingsError, in one line, for an `ASR_*` name that is no setting and for a value out of range.
    """
    unknown = _unknown_names(os.environ)
    if unknown:
        known = ", ".join(sorted(PREFIX + name.upper() for name in Settings.model_fields))
        raise SettingsError(f"unknown environment variable {', '.join(unknown)}; the settings are {known}")
    try:
        return Settings()
    except ValidationError as error:
        faults = (
            f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}, not {e['input']!r}" for e in error.errors()
        )
        raise SettingsError("; ".join(faults)) from error


def _unknown_names(names: Iterable[str]) -> list[str]:
    """Names with the prefix (any case, as pydantic reads them) that are neither settings nor foreign."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | FOREIGN_NAMES
    return sorted(name for name in names if name.upper().startswith(PREFIX) and name.upper() not in known)
