"""Whether a bundle's files belong together. V outputs of the acoustic model, blank included."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open

from asr.acoustic.huggingface_ctc import HuggingFaceCtcSettings
from asr.acoustic.kinds import ADDED_LATER, FIRST_KIND, KINDS, AcousticSettings, build
from asr.errors import MismatchError
from asr.features import FEATURES_ADDED_LATER, FeatureSettings
from asr.tokenizer import WORD_MARK, Tokenizer

Settings = TypeVar("Settings")

GPT2_PADDING = (
    128  # embeddings are often padded to a round number of rows; further apart is another tokenizer
)


def settings_from_dict(cls: type[Settings], values: Any, where: str) -> Settings:
    """A flat settings dataclass from JSON, strictly: every field there, of its type, and no other.

    A field whose default is None may be absent. Raises MismatchError naming the key.
    """
    if not isinstance(values, Mapping):
        raise MismatchError(f"{where} must be an object")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(values.keys() - known.keys()):
        raise MismatchError(f"{where} has unknown keys: {', '.join(unknown)}")
    if missing := sorted(name for name, f in known.items() if name not in values and f.default is not None):
        raise MismatchError(f"{where} lacks {', '.join(missing)}")
    types = get_type_hints(cls)
    for name, value in values.items():
        if not _is_of(value, types[name]):
            raise MismatchError(f"{where}.{name} is {value!r}, expected {types[name]}")
    try:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except ValueError as error:
        raise MismatchError(f"{where}: {error}") from error


def acoustic_from_dict(values: Any, where: str) -> AcousticSettings:
    """The acoustic section of bundle.json or train.json, strictly: `kind` and that model's settings.

    Raises MismatchError naming the key.
    """
    if not isinstance(values, Mapping):
        raise MismatchError(f"{where} must be an object")
    kind = values.get("kind", FIRST_KIND)
    if not isinstance(kind, str) or kind not in KINDS:
        known = ", ".join(map(repr, KINDS))
        raise MismatchError(f"{where}.kind is {kind!r}, this program knows {known}")
    rest = {key: value for key, value in values.items() if key != "kind"}
    return settings_from_dict(KINDS[kind], ADDED_LATER.get(kind, {}) | rest, where)


def features_from_dict(values: Any, where: str) -> FeatureSettings:
    """The features' section of an index or a run, old ones included. Raises MismatchError."""
    if isinstance(values, Mapping):
        values = FEATURES_ADDED_LATER | dict(values)
    return settings_from_dict(FeatureSettings, values, where)


def _is_of(value: Any, expected: Any) -> bool:
    if isinstance(expected, UnionType):
        return any(_is_of(value, choice) for choice in get_args(expected))
    if isinstance(value, bool) or expected is bool:
        return isinstance(value, bool) and expected is bool
    if expected is float:
        return isinstance(value, (int, float))
    if get_origin(expected) is tuple:  # tuple[kind, ...]
        return isinstance(value, list) and all(_is_of(item, get_args(expected)[0]) for item in value)
    return expected in (int, str, NoneType) and isinstance(value, expected)


def check_files_fit(
    features: FeatureSettings,
    acoustic: AcousticSettings,
    *,
    weights: Path,
    tokenizer: Path,
    unigrams: Path,
    gpt2: Path,
    more_unigrams: Sequence[Path] = (),
) -> None:
    """Raises MismatchError naming two files, or a file and a setting, that do not fit each other."""
    if not isinstance(acoustic, HuggingFaceCtcSettings) and features.n_mels != acoustic.n_mels:
        raise MismatchError(
            f"features have {features.n_mels} mel bands, the acoustic model reads {acoustic.n_mels}"
        )
    pieces = Tokenizer.load(tokenizer)
    if pieces.vocab_size != acoustic.vocab_size:
        raise MismatchError(
            f"{tokenizer} has {pieces.vocab_size} pieces with the blank, "
            f"the acoustic model's output layer has {acoustic.vocab_size}"
        )
    _check_weights(weights, acoustic)
    for words in (unigrams, *more_unigrams):
        _check_unigrams(words, pieces)
    _check_gpt2(gpt2)


def _check_weights(path: Path, settings: AcousticSettings) -> None:
    """Tensor names and shapes against the model that the settings describe, without loading any."""
    with torch.device("meta"):
        expected = {name: list(tensor.shape) for name, tensor in build(settings).state_dict().items()}
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise MismatchError(f"{path} is not a safetensors file: {error}") from error
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise MismatchError(
                f"{path}: {name} has shape {found.get(name, 'none')}, "
                f"the acoustic settings make it {expected.get(name, 'none')}"
            )


def _check_unigrams(path: Path, tokenizer: Tokenizer) -> None:
    spelled = set("".join(tokenizer.pieces)) - {WORD_MARK}
    words = path.read_text(encoding="utf-8").split("\n")
    if words and not words[-1]:
        words.pop()
    if not words:
        raise MismatchError(f"{path} lists no word")
    for number, word in enumerate(words, 1):
        if not word or not spelled.issuperset(word):
            raise MismatchError(f"{path}, line {number}: the tokenizer cannot spell {word!r}")


def _check_gpt2(folder: Path) -> None:
    """Every id of GPT-2's tokenizer has a row in its embedding, and few rows have no id."""
    try:
        vocab_size = int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"])
        n_ids = 1 + max(_gpt2_ids(folder), default=-1)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MismatchError(f"{folder} is no GPT-2 folder in Hugging Face layout: {error!r}") from error
    if not n_ids <= vocab_size < n_ids + GPT2_PADDING:
        raise MismatchError(
            f"{folder}: the tokenizer has {n_ids} ids, config.json gives the model {vocab_size}"
        )


def _gpt2_ids(folder: Path) -> set[int]:
    if (folder / "tokenizer.json").is_file():
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        return {*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])}
    return set(json.loads((folder / "vocab.json").read_text(encoding="utf-8")).values())
