"""Fixtures: a real bundle made tiny and seeded, and recordings to feed it."""

import io
import math
import shutil
import wave
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_tensors

from asr.acoustic.residual_gru import ResidualGru, ResidualGruSettings
from asr.audio import SAMPLE_RATE
from asr.bundle import ACOUSTIC, G2P, GPT2, KENLM, LEXICON, NGRAM, TOKENIZER, UNIGRAMS, Bundle, BundleSettings
from asr.decoding.arpa import read_model
from asr.decoding.ngram_file import encoded
from asr.decoding.options import DecodingSettings
from asr.features import FeatureSettings

SENTENCES = (
    "the cat sat on the mat",
    "a dog ran to the cat",
    "we don't know the dog",
    "the mat is on a dog",
    "a cat can see the dog",
    "we ran to a mat",
)


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> None:
    """Tiny tensors are slower, not faster, on many threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_tokenizer_model() -> bytes:
    """A SentencePiece model of 55 CTC outputs: every letter at a word's start and inside one."""
    from training.tokenizer import train_tokenizer

    return train_tokenizer(SENTENCES, 55, kind="char").model_proto


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained one-layer GPT-2 and its BPE in Hugging Face layout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from training.gpt2_tokenizer import save_tokenizer, train_tokenizer

    folder = tmp_path_factory.mktemp("tiny") / "gpt2"
    folder.mkdir()
    tokenizer = train_tokenizer(SENTENCES, 64)
    size = tokenizer.get_vocab_size()
    config = GPT2Config(
        vocab_size=size, n_positions=64, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        GPT2LMHeadModel(config).save_pretrained(folder)
    save_tokenizer(tokenizer, folder, 64)
    return folder


@pytest.fixture(scope="session")
def tiny_arpa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bigram model of SENTENCES."""
    path = tmp_path_factory.mktemp("arpa") / "ngram.arpa"
    path.write_text(_bigram_arpa(SENTENCES), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_bundle(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_model: bytes, tiny_gpt2: Path, tiny_arpa: Path
) -> Path:
    """The folder of a bundle with every part real and small. Shared: copy it before changing it."""
    settings = ResidualGruSettings(
        vocab_size=55, subsampling=4, conv_channels=4, conv_blocks=1, width=16, gru_hidden=8, gru_blocks=1
    )
    contents: dict[str, Path | bytes] = {
        ACOUSTIC: save_tensors(_seeded_weights(settings)),
        TOKENIZER: tiny_tokenizer_model,
        NGRAM: encoded(read_model(tiny_arpa)),
        UNIGRAMS: "".join(f"{word}\n" for word in _vocabulary(SENTENCES)).encode(),
    }
    contents |= {f"{GPT2}/{file.name}": file for file in sorted(tiny_gpt2.iterdir())}
    bundle_settings = BundleSettings(
        name="tiny",
        created="2026-01-01T00:00:00Z",
        commit="0" * 40,
        features=FeatureSettings(),
        acoustic=settings,
        decoding=DecodingSettings(beam_width=16, rescore_nbest=8, max_tokens_per_frame=6),
        training={"data": "none: random weights"},
    )
    return Bundle.save(tmp_path_factory.mktemp("bundles") / "tiny", bundle_settings, contents).path


@pytest.fixture(scope="session")
def phone_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, hearing phones too: every letter is spoken as itself. Shared: copy it before changing it."""
    from training.graphones import train_graphones

    copy = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("bundles") / "phones"))
    bundle = Bundle.load(copy)
    spoken = {word: tuple(word.replace("'", "").upper()) for word in _vocabulary(SENTENCES)}
    g2p = train_graphones(3 * list(spoken.items()))  # graphones must not be rare
    settings = replace(bundle.settings.acoustic, phones=2 * len(g2p.phones) + 1)  # type: ignore[arg-type]
    lexicon = "".join(f"{word}\t{' '.join(phones)}\n" for word, phones in spoken.items())
    decoding = replace(bundle.settings.decoding, pronunciation_weight=0.4, pronunciation_nbest=12)
    contents: dict[str, bytes | None] = {
        ACOUSTIC: save_tensors(_seeded_weights(settings)),
        LEXICON: lexicon.encode(),
        G2P: g2p.to_json().encode(),
    }
    return bundle.with_changes(replace(bundle.settings, acoustic=settings, decoding=decoding), contents).path


@pytest.fixture
def kenlm_bundle(tiny_bundle: Path, tiny_arpa: Path, tmp_path: Path) -> Path:
    """The same with its n-gram as KenLM's file, as older bundles have it."""
    copy = Path(shutil.copytree(tiny_bundle, tmp_path / "kenlm-bundle"))
    bundle = Bundle.load(copy)
    bundle.with_changes(bundle.settings, {NGRAM: None, KENLM: tiny_arpa.read_bytes()})
    return copy


@pytest.fixture
def recording() -> bytes:
    """A WAV file of one second of seeded noise and tones."""
    rng = np.random.default_rng(11)
    time_s = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    wobble = np.sin(2 * np.pi * 300 * time_s) * (np.sin(2 * np.pi * 3 * time_s) > 0)
    return wav_bytes((0.3 * wobble + 0.05 * rng.standard_normal(SAMPLE_RATE)).astype(np.float32))


def wav_bytes(samples: np.ndarray) -> bytes:
    """A 16-bit mono WAV file of float32 samples in -1..1."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE)
        writer.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()


def _seeded_weights(settings: ResidualGruSettings) -> dict[str, torch.Tensor]:
    """Random weights with a loud output layer, so that different frames get different labels."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        state = ResidualGru(settings).state_dict()
    state["output.weight"] = state["output.weight"] * 8.0
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _vocabulary(sentences: tuple[str, ...]) -> list[str]:
    return sorted({word for sentence in sentences for word in sentence.split()})


def _bigram_arpa(sentences: tuple[str, ...]) -> str:
    """A bigram model with a fifth of every context's mass left for backing off."""
    words = [["<s>", *sentence.split(), "</s>"] for sentence in sentences]
    unigrams = Counter(word for sentence in words for word in sentence[1:])
    bigrams = Counter(pair for sentence in words for pair in pairwise(sentence))
    contexts = Counter(word for sentence in words for word in sentence[:-1])
    total = sum(unigrams.values()) + 1
    lines = ["\\data\\", f"ngram 1={len(unigrams) + 2}", f"ngram 2={len(bigrams)}", "", "\\1-grams:"]
    lines += [f"{math.log10(1 / total):.6f}\t<unk>\t0", f"-99\t<s>\t{math.log10(0.2):.6f}"]
    lines += [
        f"{math.log10(count / total):.6f}\t{word}\t{math.log10(0.2) if word != '</s>' else 0:.6f}"
        for word, count in sorted(unigrams.items())
    ]
    lines += ["", "\\2-grams:"]
    lines += [
        f"{math.log10(0.8 * count / contexts[first]):.6f}\t{first} {second}"
        for (first, second), count in sorted(bigrams.items())
    ]
    return "\n".join([*lines, "", "\\end\\", ""])
