"""Make a bundle of a published CTC model: asr-train import-hf facebook/wav2vec2-base-960h --out models/w2v

Takes a checkpoint of Wav2Vec2ForCTC, HubertForCTC or WavLMForCTC with its processor, from a folder in Hugging
Face layout (offline) or by name (downloads). Its vocabulary must be of characters with a word delimiter;
capitals become small letters, and `<s>`, `</s>` and `<unk>` are taken out of the output layer, so that they
are never written. Language models are those of another bundle (`--language-models`) or of `--ngram` and
`--gpt2`; tune the decoding weights for the new voice of the two: `asr-train tune`.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoConfig, AutoFeatureExtractor, AutoTokenizer

from asr.acoustic.huggingface_ctc import ARCHITECTURES, HuggingFaceCtcSettings
from asr.audio import SAMPLE_RATE
from asr.bundle import (
    ACOUSTIC,
    EVALUATION,
    GPT2,
    MODEL_CARD,
    TOKENIZER,
    UNIGRAMS,
    Bundle,
    BundleSettings,
)
from asr.decoding.options import DecodingSettings
from asr.errors import BundleError, MismatchError
from asr.features import FeatureSettings
from asr.text import ALPHABET
from asr.tokenizer import WORD_MARK, Tokenizer
from asr.transcriber import Transcriber
from training.commit import current_commit
from training.export import gpt2_contents, ngram_contents
from training.model_card import model_card

# Of config.json, what names the machine or the library that wrote it.
_FOREIGN_KEYS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "gradient_checkpointing")


@dataclass(frozen=True)
class Labels:
    """Which outputs of a checkpoint a bundle keeps, in the bundle's order: the blank, then the others."""

    ids: tuple[int, ...]  # of the checkpoint's outputs
    pieces: tuple[str, ...]  # "" for the blank, WORD_MARK for the word delimiter, else one small letter
    dropped: tuple[str, ...]  # tokens that are never written


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="folder in Hugging Face layout, or a name on the hub")
    parser.add_argument("--out", type=Path, required=True, help="the bundle's folder")
    parser.add_argument("--name", help="of the bundle (default: its folder's)")
    parser.add_argument(
        "--language-models",
        type=Path,
        default=Path("models/default"),
        help="bundle whose n-gram and GPT-2 are taken (default: %(default)s)",
    )
    parser.add_argument("--ngram", type=Path, help="folder of `asr-train ngram` in place of that bundle's")
    parser.add_argument("--gpt2", type=Path, help="run folder of `asr-train gpt2` in place of that bundle's")
    parser.add_argument("--notes", type=Path, help="Markdown for the model card: data, licences, limits")


def main(args: argparse.Namespace) -> None:
    """Raises OSError, ValueError and BundleError, naming what is absent or does not fit."""
    bundle, labels, n_unspelled = import_checkpoint(args)
    size_mb = sum(file.size for file in bundle.files.values()) / 1e6
    print(f"{bundle.settings.name}: {len(labels.ids)} outputs, {size_mb:.1f} MB, sha256 {bundle.sha256}")
    if labels.dropped:
        print(f"never written: {' '.join(labels.dropped)}")
    odd = [piece for piece in labels.pieces[1:] if piece != WORD_MARK and piece not in ALPHABET]
    if odd:
        print(f"beyond a-z and the apostrophe, which scoring knows: {' '.join(odd)}")
    if n_unspelled:
        print(f"{n_unspelled} words of the n-gram have letters that the model lacks: left out")


def import_checkpoint(args: argparse.Namespace) -> tuple[Bundle, Labels, int]:
    """The bundle, self-tested before it takes its place; its labels; how many words it cannot spell."""
    local = Path(args.checkpoint).is_dir()
    settings, weights, labels = read_checkpoint(args.checkpoint, local)
    tokenizer = Tokenizer(character_model(labels))
    notes = args.notes.read_text(encoding="utf-8") if args.notes else ""
    name = Path(args.checkpoint).absolute().name if local else args.checkpoint
    bundle_settings = BundleSettings(
        name=args.name or args.out.absolute().name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=current_commit(),
        features=FeatureSettings(),
        acoustic=settings,
        decoding=DecodingSettings(),
        training={"imported": f"{name} ({settings.architecture})"} | ({"notes": notes} if notes else {}),
    )
    contents = _language_models(args)
    unigrams, n_unspelled = _spellable(contents[UNIGRAMS], tokenizer)
    contents |= {TOKENIZER: tokenizer.model_proto, UNIGRAMS: unigrams}
    args.out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out.absolute().parent, prefix=".import-") as folder:
        contents[ACOUSTIC] = Path(folder) / "acoustic.safetensors"
        save_file({f"network.{key}": value for key, value in weights.items()}, contents[ACOUSTIC])
        contents[ACOUSTIC].chmod(0o644)
        draft = Bundle.save(Path(folder) / "draft", bundle_settings, contents)
        Transcriber.load(draft.path, "cpu").self_test()
        contents[MODEL_CARD] = model_card(draft, {"evaluations": []}).encode()
        return Bundle.save(args.out, bundle_settings, contents), labels, n_unspelled


def read_checkpoint(
    checkpoint: str, local: bool
) -> tuple[HuggingFaceCtcSettings, dict[str, torch.Tensor], Labels]:
    """Settings, float32 weights with the output layer cut to the labels, and the labels.

    Raises MismatchError for another architecture, sampling rate or kind of vocabulary, OSError for what
    transformers does not find.
    """
    config = AutoConfig.from_pretrained(checkpoint, local_files_only=local)
    architecture = next(iter(config.architectures or ()), None)
    if architecture not in ARCHITECTURES:
        raise MismatchError(f"{checkpoint} is a {architecture}; one of {', '.join(ARCHITECTURES)} is needed")
    if getattr(config, "add_adapter", False):
        raise MismatchError(f"{checkpoint} has an adapter after its transformer, which is not supported")
    extractor = AutoFeatureExtractor.from_pretrained(checkpoint, local_files_only=local)
    if extractor.sampling_rate != SAMPLE_RATE:
        raise MismatchError(f"{checkpoint} reads {extractor.sampling_rate} Hz, not {SAMPLE_RATE}")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=local)
    labels = choose_labels(tokenizer, config)
    model = getattr(transformers, architecture).from_pretrained(
        checkpoint, local_files_only=local, dtype=torch.float32
    )
    weights = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    chosen = torch.tensor(labels.ids)
    for name in ("lm_head.weight", "lm_head.bias"):
        weights[name] = weights[name][chosen].contiguous()
    values = {key: value for key, value in config.to_dict().items() if key not in _FOREIGN_KEYS}
    values |= {"vocab_size": len(labels.ids), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    settings = HuggingFaceCtcSettings(
        vocab_size=len(labels.ids),
        architecture=architecture,
        normalise=bool(extractor.do_normalize),
        config=json.dumps(values, sort_keys=True),
    )
    return settings, weights, labels


def choose_labels(tokenizer: Any, config: Any) -> Labels:
    """The labels of a checkpoint's vocabulary. Raises MismatchError for one that is not of characters."""
    vocabulary: dict[str, int] = {t: i for t, i in tokenizer.get_vocab().items() if i < config.vocab_size}
    blank, delimiter = tokenizer.pad_token_id, tokenizer.word_delimiter_token
    if blank != config.pad_token_id:
        raise MismatchError(f"the tokenizer pads with id {blank}, the model's blank is {config.pad_token_id}")
    if delimiter not in vocabulary:
        raise MismatchError(f"the vocabulary has no word delimiter {delimiter!r}: words would run together")
    special = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token}
    ids, pieces, dropped = [blank], [""], []
    for token, i in sorted(vocabulary.items(), key=lambda pair: pair[1]):
        if i == blank:
            continue
        if token in special or (len(token) > 1 and token[0] + token[-1] in ("<>", "[]")):
            dropped.append(token)
            continue
        piece = WORD_MARK if token == delimiter else token.lower()
        if len(piece) != 1 or piece.isspace():
            raise MismatchError(f"the vocabulary's {token!r} is no single character")
        if piece in pieces:
            raise MismatchError(f"the vocabulary has {piece!r} twice once capitals are small letters")
        ids.append(i)
        pieces.append(piece)
    return Labels(tuple(ids), tuple(pieces), tuple(dropped))


def character_model(labels: Labels) -> bytes:
    """A SentencePiece model that spells texts in these labels, word marks between words only."""
    model = sentencepiece_model_pb2.ModelProto()
    unknown, normal = (
        sentencepiece_model_pb2.ModelProto.SentencePiece.Type.Value(t) for t in ("UNKNOWN", "NORMAL")
    )
    model.pieces.add(piece="<unk>", score=0.0, type=unknown)
    for piece in labels.pieces[1:]:
        model.pieces.add(piece=piece, score=0.0, type=normal)
    trainer = model.trainer_spec
    trainer.model_type = sentencepiece_model_pb2.TrainerSpec.ModelType.Value("CHAR")
    trainer.vocab_size = len(labels.pieces)
    trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id = 0, -1, -1, -1
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    encoded: bytes = model.SerializeToString()
    return encoded


def _language_models(args: argparse.Namespace) -> dict[str, Path | bytes]:
    """Everything of the language-model bundle but its acoustic model, and the models given in its place."""
    contents: dict[str, Path | bytes] = {}
    if not (args.ngram and args.gpt2):
        try:
            source = Bundle.load(args.language_models)
        except BundleError as error:
            raise MismatchError(
                f"no language models (--language-models, --ngram, --gpt2): {error}"
            ) from error
        left_out = (ACOUSTIC, TOKENIZER, EVALUATION, MODEL_CARD)
        contents |= {name: source.path / name for name in source.files if name not in left_out}
    if args.ngram:
        for name in [name for name in contents if not name.startswith(f"{GPT2}/")]:
            del contents[name]
        contents |= ngram_contents(args.ngram)
    if args.gpt2:
        for name in [name for name in contents if name.startswith(f"{GPT2}/")]:
            del contents[name]
        contents |= gpt2_contents(args.gpt2)
    return contents


def _spellable(unigrams: Path | bytes, tokenizer: Tokenizer) -> tuple[bytes, int]:
    """The n-gram's words that the tokenizer can spell, as a file's bytes; how many it cannot."""
    content = unigrams if isinstance(unigrams, bytes) else unigrams.read_bytes()
    letters = set("".join(tokenizer.pieces)) - {WORD_MARK}
    words = content.decode("utf-8").split()
    kept = [word for word in words if letters.issuperset(word)]
    return "".join(f"{word}\n" for word in kept).encode(), len(words) - len(kept)
