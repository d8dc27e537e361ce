"""A training run as one TOML file: frozen dataclasses, unknown keys refused, `--set optim.lr=3e-4` on top."""

import tomllib
import types
import typing
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from asr.acoustic.residual_gru import ResidualGruSettings
from training.augment_config import AugmentConfig

T = TypeVar("T")


class ConfigError(ValueError):
    """The TOML file or a `--set` says something that we do not understand."""


@dataclass(frozen=True)
class DataConfig:
    train: str  # folder made by `asr-train prepare`
    dev: str  # another; scored after every epoch
    tokenizer: str  # tokenizer.model
    repeat: dict[str, int] = field(default_factory=dict)  # corpus name prefix -> passes over it per epoch
    max_duration_s: float = 20.0  # longer utterances are left out
    source: Literal["features", "audio"] = (
        "features"  # prepared log-mels, or recordings read as they are needed
    )
    workers: int = 0  # processes that make batches, for each training process; 0: the training process itself
    prefetch: int = 4  # batches that each of them makes ahead

    def __post_init__(self) -> None:
        if self.workers < 0 or self.prefetch < 1:
            raise ValueError("workers must not be negative, prefetch at least 1")


@dataclass(frozen=True)
class ModelConfig:
    """`ResidualGruSettings` but for what the data decides (vocabulary size, mel bands)."""

    subsampling: int = 8
    conv_channels: int = 32
    conv_blocks: int = 2
    width: int = 384
    gru_hidden: int = 256
    gru_blocks: int = 4
    dropout: float = 0.1

    def settings(self, vocab_size: int, n_mels: int) -> ResidualGruSettings:
        return ResidualGruSettings(vocab_size=vocab_size, n_mels=n_mels, **vars(self))


@dataclass(frozen=True)
class OptimConfig:
    epochs: int = 30
    lr: float = 1.5e-3  # peak
    schedule: Literal["cosine", "onecycle"] = "cosine"
    warmup_fraction: float = 0.08  # of all steps
    weight_decay: float = 1e-2
    beta_1: float = 0.9
    beta_2: float = 0.98
    clip_norm: float = 2.0
    batch_s: float = 320.0  # padded seconds of audio a step, over all processes
    ema: float = 0.999  # decay of the averaged weights, which are the ones kept; 0: none
    autocast: Literal["none", "bf16"] = "none"


@dataclass(frozen=True)
class TrainConfig:
    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 1
    checkpoint_minutes: float = 5.0
    threads: int = 1  # per process


def load_config(path: Path, overrides: list[str]) -> TrainConfig:
    """Read a TOML file and apply `section.key=value` overrides. Raises ConfigError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        for override in overrides:
            name, separator, value = override.partition("=")
            if not separator:
                raise ConfigError(f"--set {override}: expected section.key=value")
            _assign(table, name.strip().split("."), value.strip())
    except (tomllib.TOMLDecodeError, OSError) as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        return from_table(TrainConfig, table, "")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _assign(table: dict[str, Any], keys: list[str], value: str) -> None:
    for key in keys[:-1]:
        table = table.setdefault(key, {})
    try:
        table[keys[-1]] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        table[keys[-1]] = value  # a bare string


def from_table(kind: type[T], table: dict[str, Any], where: str) -> T:
    """A dataclass from a TOML table. Raises ConfigError naming an unknown, missing or mistyped key."""
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(table) - set(known)):
        raise ConfigError(f"unknown key {where}{unknown[0]}; known: {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, spec in known.items():
        if name in table:
            values[name] = _converted(hints[name], table[name], f"{where}{name}")
        elif spec.default is MISSING and spec.default_factory is MISSING:
            raise ConfigError(f"missing key {where}{name}")
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"{where or 'config'}: {error}") from error


def _converted(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} must be a table")
        return from_table(hint, value, f"{where}.")
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(
                f"{where} must be one of {', '.join(map(repr, typing.get_args(hint)))}, not {value!r}"
            )
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = typing.get_origin(hint) or hint
    if (
        isinstance(plain, types.UnionType)
        or not isinstance(value, plain)
        or (plain is int and isinstance(value, bool))
    ):
        raise ConfigError(f"{where} must be {getattr(plain, '__name__', plain)}, not {value!r}")
    return value
