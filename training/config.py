"""A training run as one TOML file: frozen dataclasses, unknown keys refused, `--set optim.lr=3e-4` on top."""

import tomllib
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from asr.acoustic.conformer import ConformerSettings
from asr.acoustic.kinds import AcousticSettings
from asr.acoustic.residual_gru import ResidualGruSettings
from training.augment_config import AugmentConfig
from training.config_tables import ConfigError, from_table
from training.presets import PRESETS


@dataclass(frozen=True)
class DataConfig:
    train: str  # folder made by `asr-train prepare`
    dev: str  # another; scored after every epoch
    tokenizer: str  # tokenizer.model
    repeat: dict[str, int] = field(default_factory=dict)  # corpus name prefix -> passes over it per epoch
    max_duration_s: float = 20.0  # longer utterances are left out
    variance: bool = False  # features scaled by each recording's own standard deviation (asr/features.py)
    source: Literal["features", "audio"] = (
        "features"  # prepared log-mels, or recordings read as they are needed
    )
    workers: int = 0  # processes that make batches, for each training process; 0: the training process itself
    prefetch: int = 4  # batches that each of them makes ahead
    lexicon: str = ""  # folder of `asr-train lexicon`: the model gets a phone layer, too; empty: none

    def __post_init__(self) -> None:
        if self.workers < 0 or self.prefetch < 1:
            raise ValueError("workers must not be negative, prefetch at least 1")


@dataclass(frozen=True)
class ResidualGruConfig:
    """`ResidualGruSettings` but for what the data decides (vocabulary size, mel bands)."""

    kind: Literal["residual_gru"] = "residual_gru"
    subsampling: int = 8
    upsampling: int = 1
    conv_channels: int = 32
    conv_blocks: int = 2
    width: int = 384
    gru_hidden: int = 256
    gru_blocks: int = 4
    dropout: float = 0.1
    self_condition_every: int = 0
    tower_blocks: int = 0
    tower_channels: int = 32
    tower_width: int = 512
    tower_bottleneck: int = 192
    tower_share: float = 1.0
    tower_pieces_share: float = 0.0

    def settings(self, vocab_size: int, n_mels: int, phones: int = 0) -> ResidualGruSettings:
        """phones: outputs of the phone layer and tower; 0: there are none."""
        values = _without_kind(self) | ({} if phones else {"tower_blocks": 0, "tower_pieces_share": 0.0})
        return ResidualGruSettings(vocab_size=vocab_size, n_mels=n_mels, phones=phones, **values)


@dataclass(frozen=True)
class ConformerConfig:
    """`ConformerSettings` but for what the data decides (vocabulary size, mel bands)."""

    kind: Literal["conformer"] = "conformer"
    subsampling: int = 4
    upsampling: int = 1
    conv_channels: int = 64
    width: int = 144
    heads: int = 4
    blocks: int = 16
    expansion: int = 4
    kernel: int = 31
    dropout: float = 0.1
    self_condition_every: int = 0

    def settings(self, vocab_size: int, n_mels: int, phones: int = 0) -> ConformerSettings:
        """Raises ValueError for phones: this model has no layer for them."""
        if phones:
            raise ValueError("kind conformer has no phone layer: data.lexicon must be empty")
        return ConformerSettings(vocab_size=vocab_size, n_mels=n_mels, **_without_kind(self))


# Told apart by `kind`; `preset` names one of training/presets.py.
ModelConfig = ResidualGruConfig | ConformerConfig


def _without_kind(config: ModelConfig) -> dict[str, Any]:
    return {key: value for key, value in vars(config).items() if key != "kind"}


@dataclass(frozen=True)
class LossConfig:
    """CTC, and what is added to it (training/losses.py)."""

    inter_ctc: float = 0.0  # share of the loss that intermediate outputs get; InterCTC's authors take 0.3
    inter_ctc_every: int = (
        0  # blocks between those outputs; 0: where self-conditioning is, else the middle block
    )
    cr_ctc: float = (
        0.0  # weight of the agreement of two masked views, 0.2 in the paper; doubles a step's cost
    )
    phone_ctc: float = 0.0  # share of the loss that the phone layer gets; 1: the phone tower learns alone
    tower_pieces: float = 0.0  # share of the tower's loss that its pieces get, where it hears them
    crf: float = 0.0  # weight of log Z beside the phones' CTC (training/label_graph.py); 1 is CTC-CRF whole

    def __post_init__(self) -> None:
        if not 0.0 <= self.phone_ctc <= 1.0 or not 0.0 <= self.crf <= 1.0:
            raise ValueError("phone_ctc and crf must be in 0..1")
        if not 0.0 <= self.tower_pieces < 1.0 or (self.tower_pieces and self.phone_ctc < 1.0):
            raise ValueError("tower_pieces must be in 0..1, and 0 unless phone_ctc is 1")
        if self.crf and not self.phone_ctc:
            raise ValueError("crf needs phone_ctc: it is a part of the phones' loss")
        if not 0.0 <= self.inter_ctc < 1.0 or self.cr_ctc < 0.0 or self.inter_ctc_every < 0:
            raise ValueError("inter_ctc must be in 0..1, cr_ctc and inter_ctc_every at least 0")

    def blocks(self, model: AcousticSettings) -> tuple[int, ...]:
        """Numbers, from 1, of the model's blocks that get a loss of their own beside the last."""
        if not self.inter_ctc:
            return ()
        if every := self.inter_ctc_every or model.self_condition_every:
            return tuple(range(every, model.n_blocks, every))
        return (model.n_blocks // 2,) if model.n_blocks > 1 else ()


@dataclass(frozen=True)
class OptimConfig:
    epochs: int = 30
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: of inner matrices, AdamW of the rest
    lr: float = 1.5e-3  # peak
    schedule: Literal["cosine", "onecycle", "noam"] = "cosine"
    warmup_fraction: float = 0.08  # of all steps
    weight_decay: float = 1e-2
    beta_1: float = 0.9
    beta_2: float = 0.98
    clip_norm: float = 2.0
    batch_s: float = 320.0  # padded seconds of audio a batch, over all processes
    accumulate: int = 1  # batches a step
    ema: float = 0.999  # decay of the averaged weights, which are the ones kept; 0: none
    average_epochs: int = 0  # keep the mean of the weights after the last so many epochs instead; 0: do not
    autocast: Literal["none", "bf16", "fp16"] = "none"  # fp16 scales the loss
    compile: str = ""  # backend of torch.compile, for example "inductor"; empty: none
    evaluate_every: int = 1  # epochs between scores on dev; the last epoch is always scored

    def __post_init__(self) -> None:
        if min(self.epochs, self.accumulate, self.evaluate_every) < 1 or self.average_epochs < 0:
            raise ValueError("epochs, accumulate and evaluate_every must be at least 1")
        if not 0.0 <= self.ema < 1.0 or not 0.0 <= self.warmup_fraction <= 1.0:
            raise ValueError("ema and warmup_fraction must be in 0..1")


@dataclass(frozen=True)
class LogConfig:
    """What is written beside log.jsonl (training/board.py)."""

    every_steps: int = 10  # between rows of log.jsonl
    tensorboard: bool = False  # into RUN/tensorboard; needs the extra `tensorboard`
    wandb: bool = False  # Weights & Biases; needs the package wandb
    wandb_project: str = "asr-sound"
    ngram: str = ""  # folder of `asr-train ngram`: dev is scored by beam search too; empty: greedily only
    beam_utterances: int = 40  # of each dev set, for that
    examples: int = 4  # spectrograms, recordings and worst predictions shown at each scoring

    def __post_init__(self) -> None:
        if min(self.every_steps, self.beam_utterances) < 1 or self.examples < 0:
            raise ValueError("every_steps and beam_utterances must be at least 1")


@dataclass(frozen=True)
class StageConfig:
    """One wave of `[[stages]]`: the run's sections with these keys changed, from the last wave's weights."""

    name: str
    batches: int = 0  # only the first so many batches, the same every epoch; 0: all
    data: dict[str, Any] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainConfig:
    data: DataConfig
    model: ModelConfig = field(default_factory=ResidualGruConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    log: LogConfig = field(default_factory=LogConfig)
    stages: tuple[StageConfig, ...] = ()
    seed: int = 1
    checkpoint_minutes: float = 5.0
    threads: int = 1  # per process

    def waves(self) -> tuple["Wave", ...]:
        """The stages in order; a run without any is one. Raises ConfigError."""
        if not self.stages:
            return (Wave("", self, 0),)
        waves = []
        for number, stage in enumerate(self.stages):
            changed: dict[str, Any] = {
                name: from_table(
                    type(getattr(self, name)),
                    _changed(getattr(self, name), getattr(stage, name)),
                    f"stages.{number}.{name}.",
                )
                for name in ("data", "augment", "loss", "optim")
            }
            config = replace(self, **changed, stages=(), seed=self.seed + STAGE_SEED * number)
            if config.data.tokenizer != self.data.tokenizer:
                raise ConfigError(f"stages.{number}.data.tokenizer: the outputs cannot change between stages")
            if config.data.lexicon != self.data.lexicon:
                raise ConfigError(f"stages.{number}.data.lexicon: the phones cannot change between stages")
            waves.append(Wave(stage.name, config, stage.batches))
        return tuple(waves)


def _changed(section: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """A section as a table with these keys changed; in a table of it (`augment.gain`), the keys named."""
    table = asdict(section)
    for key, value in changes.items():
        nested = is_dataclass(getattr(section, key, None)) and isinstance(value, dict)
        table[key] = table[key] | value if nested else value
    return table


@dataclass(frozen=True)
class Wave:
    """A stage as the run that it is by itself."""

    name: str
    config: TrainConfig  # without stages
    batches: int  # see StageConfig


STAGE_SEED = 7919  # between one stage's seed and the next: other batches, other draws


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
        if isinstance(table.get("model"), dict):
            table["model"] = _with_preset(table["model"])
        config = from_table(TrainConfig, table, "")
        for wave in config.waves():
            _check_loss(wave.config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def _with_preset(model: dict[str, Any]) -> dict[str, Any]:
    """The model section with its preset's values filled in."""
    name = model.get("preset")
    if name is None:
        return model
    if name not in PRESETS:
        raise ConfigError(f"model.preset must be one of {', '.join(map(repr, PRESETS))}, not {name!r}")
    return PRESETS[name] | {key: value for key, value in model.items() if key != "preset"}


def _check_loss(config: TrainConfig) -> None:
    """Raises ConfigError when loss and model do not fit."""
    if config.model.self_condition_every and not config.loss.inter_ctc:
        raise ConfigError("model.self_condition_every needs loss.inter_ctc: its posteriors must be trained")
    if config.loss.phone_ctc and not config.data.lexicon:
        raise ConfigError("loss.phone_ctc needs data.lexicon: phones come from there")
    if config.loss.phone_ctc == 1.0 and not getattr(config.model, "tower_blocks", 0):
        raise ConfigError("loss.phone_ctc of 1 needs model.tower_blocks: nothing else learns then")
    of_pieces = getattr(config.model, "tower_pieces_share", 0)
    if of_pieces and not config.loss.tower_pieces:
        raise ConfigError("model.tower_pieces_share needs loss.tower_pieces: they must be trained")
    if config.loss.tower_pieces and not of_pieces:
        raise ConfigError("loss.tower_pieces needs model.tower_pieces_share: the tower hears no pieces")
    if config.data.lexicon and not config.loss.phone_ctc:
        raise ConfigError("data.lexicon needs loss.phone_ctc: the phone layer must be trained")
    try:
        model = config.model.settings(vocab_size=2, n_mels=80, phones=3 if config.data.lexicon else 0)
    except ValueError as error:
        raise ConfigError(f"model.{error}") from error
    if config.loss.inter_ctc and not config.loss.blocks(model):
        raise ConfigError("loss.inter_ctc: the model has no block between the first and the last for it")


def _assign(table: dict[str, Any], keys: list[str], value: str) -> None:
    place: Any = table
    for key in keys[:-1]:
        if isinstance(place, list) and key.isdigit() and int(key) < len(place):  # stages.0.optim.lr
            place = place[int(key)]
        elif isinstance(place, dict):
            place = place.setdefault(key, {})
        else:
            raise ConfigError(f"--set {'.'.join(keys)}: there is no {key}")
    if not isinstance(place, dict):
        raise ConfigError(f"--set {'.'.join(keys)}: there is no {keys[-1]}")
    try:
        place[keys[-1]] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        place[keys[-1]] = value  # a bare string
