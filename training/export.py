"""Put a run, its vocabulary and language models into a bundle; later, add what was measured.

    asr-train export --acoustic runs/default --ngram runs/ngram --gpt2 runs/gpt2 \
        --notes configs/default-data.md --out models/default
    asr-train export --out models/default --evaluation runs/dev.json runs/test.json \
        --insertions bench/results/insertions.json
    asr-train export --out models/default --lm legal=runs/ngram-legal

The first makes a new bundle, with its model card; the second refreshes evaluation.json and MODEL_CARD.md of
one that is there, and refuses results that another bundle gave; the third adds an n-gram that a request may
name (`legal=` removes it), also to a new bundle. Each takes effect whole or not at all.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save

from asr.acoustic.residual_gru import ResidualGruSettings
from asr.bundle import (
    ACOUSTIC,
    EVALUATION,
    G2P,
    GPT2,
    KENLM,
    LEXICON,
    LMS,
    MODEL_CARD,
    NGRAM,
    TOKENIZER,
    UNIGRAMS,
    Bundle,
    BundleSettings,
)
from asr.bundle_checks import acoustic_from_dict, features_from_dict
from asr.decoding.array_ngram import ArrayNgram
from asr.decoding.options import DecodingSettings
from asr.errors import AsrError, MismatchError
from asr.transcriber import Transcriber
from training.model_card import model_card, read_measurements

# What transformers may read of a GPT-2 folder; optimiser states and logs stay behind.
GPT2_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="the bundle's folder")
    parser.add_argument("--acoustic", type=Path, help="run folder of `asr-train train`")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.model (default: the run's)")
    parser.add_argument("--ngram", type=Path, help="folder of `asr-train ngram`")
    parser.add_argument(
        "--gpt2", type=Path, help="run folder of `asr-train gpt2`, or a GPT-2 in Hugging Face layout"
    )
    parser.add_argument(
        "--lm",
        nargs="+",
        default=[],
        metavar="NAME=FOLDER",
        help="further n-grams of `asr-train ngram` that a request may name; NAME= removes one",
    )
    parser.add_argument("--half", action="store_true", help="acoustic weights in 16 bits: half the size")
    parser.add_argument(
        "--tower-share",
        type=float,
        help="the phone tower's part of the phones' log-probabilities (default: the run's)",
    )
    parser.add_argument(
        "--tower-pieces-share", type=float, help="of the pieces' log-probabilities, where it hears them"
    )
    parser.add_argument("--name", help="of the bundle (default: its folder's)")
    parser.add_argument("--notes", type=Path, help="Markdown for the model card: data, licences, limits")
    parser.add_argument("--decoding", type=Path, help="another bundle, to start from its decoding weights")
    parser.add_argument("--evaluation", type=Path, nargs="+", help="results of `asr-train evaluate`")
    parser.add_argument("--insertions", type=Path, help="results of `python -m bench.insertions`")


def main(args: argparse.Namespace) -> None:
    try:
        bundle = export(args) if args.acoustic else Bundle.load(args.out)
        if args.lm:
            bundle = change_lms(bundle, args.lm)
        if args.evaluation or args.insertions:
            evaluations = [_read_json(path) for path in args.evaluation or ()]
            bundle = add_measurements(
                bundle, evaluations, _read_json(args.insertions) if args.insertions else None
            )
        elif not args.acoustic and not args.lm:
            raise ValueError(
                "give --acoustic for a new bundle; --evaluation, --insertions or --lm for one that is there"
            )
    except (AsrError, OSError, ValueError) as error:
        raise SystemExit(f"asr-train export: {error}") from error
    size_mb = sum(file.size for file in bundle.files.values()) / 1e6
    print(f"{bundle.settings.name}: {len(bundle.files)} files, {size_mb:.1f} MB, sha256 {bundle.sha256}")


def export(args: argparse.Namespace) -> Bundle:
    """A new bundle at `args.out`, self-tested before it takes the place of an older one.

    Raises OSError, ValueError and BundleError, naming what is absent or does not fit.
    """
    if not (args.ngram and args.gpt2):
        raise ValueError("a new bundle needs --ngram and --gpt2 beside --acoustic")
    run = _read_json(args.acoustic / "train.json")
    acoustic = acoustic_from_dict(run["acoustic"], "train.json: acoustic")
    if args.tower_share is not None:
        if not isinstance(acoustic, ResidualGruSettings) or not acoustic.tower_blocks:
            raise ValueError("--tower-share: this model has no phone tower")
        acoustic = replace(acoustic, tower_share=args.tower_share)
    if args.tower_pieces_share is not None:
        if not (isinstance(acoustic, ResidualGruSettings) and acoustic.tower_pieces_share):
            raise ValueError("--tower-pieces-share: this model has no tower that hears pieces")
        if not args.tower_pieces_share:
            raise ValueError("--tower-pieces-share must be above 0")
        acoustic = replace(acoustic, tower_pieces_share=args.tower_pieces_share)
    contents: dict[str, Path | bytes] = {
        ACOUSTIC: _weights(args.acoustic / "model.safetensors", half=args.half),
        TOKENIZER: args.tokenizer or args.acoustic / "tokenizer.model",
    }
    for name in (LEXICON, G2P):  # of a run that learnt phones
        if (args.acoustic / name).is_file():
            contents[name] = args.acoustic / name
    contents |= ngram_contents(args.ngram)
    contents |= gpt2_contents(args.gpt2)
    settings = BundleSettings(
        name=args.name or args.out.absolute().name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=str(run["commit"]),
        features=features_from_dict(run["features"], "train.json: features"),
        acoustic=acoustic,
        decoding=Bundle.load(args.decoding).settings.decoding if args.decoding else DecodingSettings(),
        training=_summary(run, args),
    )
    with tempfile.TemporaryDirectory() as name:
        draft = Bundle.save(Path(name) / "draft", settings, contents)
        Transcriber.load(draft.path, "cpu").self_test()
        contents[MODEL_CARD] = model_card(draft, {"evaluations": []}).encode()
    return Bundle.save(args.out, settings, contents)


def _weights(path: Path, *, half: bool) -> Path | bytes:
    """The file, or its content with float16 for float32: what loads it computes in its own precision."""
    if not half:
        return path
    with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
        metadata = file.metadata()
    return save({name: value.half() for name, value in load_file(path).items()}, metadata)


def add_measurements(
    bundle: Bundle, evaluations: Sequence[dict[str, Any]], insertions: dict[str, Any] | None
) -> Bundle:
    """The bundle with these results, in place of earlier ones, in evaluation.json and the card.

    Without evaluations, or without insertions, the earlier ones stay if they are of these weights.
    Raises MismatchError when the results are another bundle's, or this one's with other weights.
    """
    for report in (*evaluations, *([insertions] if insertions else [])):
        if _measured(report) != bundle.measured_sha256:
            raise MismatchError(
                f"the results of {report.get('command')!r} are of bundle {_measured(report)}, not of this "
                f"({bundle.measured_sha256}): measure again"
            )
    before = read_measurements(bundle)
    content: dict[str, Any] = {
        "evaluations": [{key: value for key, value in r.items() if key != "utterances"} for r in evaluations]
        or [r for r in before["evaluations"] if _measured(r) == bundle.measured_sha256]
    }
    kept = before.get("insertions")
    if insertions := insertions or (kept if kept and _measured(kept) == bundle.measured_sha256 else None):
        content["insertions"] = insertions
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    card = model_card(bundle, content)
    return bundle.with_changes(bundle.settings, {EVALUATION: text.encode(), MODEL_CARD: card.encode()})


def _measured(report: Mapping[str, Any]) -> str | None:
    """The `measured_sha256` of the bundle that gave these results."""
    bundle = report.get("bundle")
    return bundle.get("measured_sha256") if isinstance(bundle, dict) else None


def change_lms(bundle: Bundle, named: Sequence[str]) -> Bundle:
    """The bundle with n-grams added, exchanged (NAME=FOLDER) or removed (NAME=).

    Raises ValueError, OSError, or BundleError for n-grams that do not fit.
    """
    changed: dict[str, bytes | None] = {}
    for item in named:
        name, is_pair, folder = item.partition("=")
        if not is_pair or (not folder and name not in bundle.lm_folders):
            raise ValueError(f"--lm {item}: expected NAME=FOLDER, or NAME= of {sorted(bundle.lm_folders)}")
        for file in (NGRAM, UNIGRAMS):
            changed[f"{LMS}/{name}/{file}"] = (Path(folder) / file).read_bytes() if folder else None
        if folder:
            ArrayNgram.load(Path(folder) / NGRAM, Path(folder) / UNIGRAMS)
    return bundle.with_changes(bundle.settings, changed)


def _summary(run: Mapping[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """What bundle.json tells people about the training. Paths are left out: they mean nothing elsewhere."""
    summary = {key: run[key] for key in ("data", "steps", "minutes", "processes", "dev_greedy") if key in run}
    config = dict(run.get("config", {}))
    config["data"] = {
        k: v for k, v in config.get("data", {}).items() if k not in ("train", "dev", "tokenizer", "lexicon")
    }
    summary["config"] = config
    for key, path in (
        ("ngram", args.ngram / "ngram.json"),
        ("gpt2", _gpt2_folder(args.gpt2).parent / "gpt2.json"),
    ):
        if path.is_file():
            summary[key] = _read_json(path)
    if args.notes:
        summary["notes"] = args.notes.read_text(encoding="utf-8")
    return summary


def ngram_contents(folder: Path) -> dict[str, Path | bytes]:
    """The files of an n-gram's folder, by the paths they get in a bundle: KenLM's only without arrays."""
    model = KENLM if (folder / KENLM).is_file() and not (folder / NGRAM).is_file() else NGRAM
    return {name: folder / name for name in (model, UNIGRAMS)}


def gpt2_contents(path: Path) -> dict[str, Path | bytes]:
    """The files of a GPT-2 (a run's folder, or the model's), by the paths they get in a bundle."""
    folder = _gpt2_folder(path)
    return {f"{GPT2}/{name}": folder / name for name in GPT2_FILES if (folder / name).is_file()}


def _gpt2_folder(path: Path) -> Path:
    """The model's folder of a run's folder, or the folder itself."""
    return path / "model" if (path / "model" / "config.json").is_file() else path


def _read_json(path: Path) -> dict[str, Any]:
    """Raises OSError or ValueError, naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return content
