"""Published CTC checkpoints as bundles: the logits and texts are transformers' own.

The checkpoints are tiny ones of the real classes, made on the spot and saved as their authors save them.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    HubertConfig,
    HubertForCTC,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WavLMConfig,
    WavLMForCTC,
)

from asr.acoustic import huggingface_ctc
from asr.acoustic.huggingface_ctc import HuggingFaceCtc, HuggingFaceCtcSettings, normalised_samples, windows
from asr.audio import SAMPLE_RATE
from asr.bundle import MODEL_CARD, UNIGRAMS, Bundle
from asr.decoding.alignment import place_words
from asr.decoding.beam import make_beam_decoder
from asr.decoding.options import DECODERS, ENGINES, DecodingOptions, DecodingSettings, Engine
from asr.errors import MismatchError, TextError
from asr.tokenizer import WORD_MARK, Tokenizer
from asr.transcriber import Transcriber
from service import cli
from tests.conftest import SENTENCES, wav_bytes
from training import import_hf
from training.import_hf import Labels, character_model

CLASSES: dict[str, tuple[type, type]] = {
    "wav2vec2": (Wav2Vec2ForCTC, Wav2Vec2Config),
    "hubert": (HubertForCTC, HubertConfig),
    "wavlm": (WavLMForCTC, WavLMConfig),
}
# As facebook/wav2vec2-base-960h has it: specials first, capitals by frequency.
TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
SMALL: dict[str, Any] = {
    "vocab_size": len(TOKENS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "num_buckets": 16,
    "pad_token_id": 0,
}


def _save(
    folder: Path, kind: str, tokens: list[str] = TOKENS, normalise: bool = True, **changes: Any
) -> Path:
    """A seeded checkpoint with its processor. Its outputs are loud, so that frames get different labels."""
    model_class, config_class = CLASSES[kind]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalise, return_attention_mask=False)
    Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(21)
        model = model_class(config_class(**SMALL | {"vocab_size": len(tokens)} | changes))
        model.lm_head.weight.data *= 60
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    layer_norm = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
    return {
        "wav2vec2": _save(root / "wav2vec2", "wav2vec2"),
        "wav2vec2-layer-norm": _save(root / "layer-norm", "wav2vec2", **layer_norm),
        "hubert": _save(root / "hubert", "hubert", normalise=False),
        "wavlm": _save(root / "wavlm", "wavlm"),
    }


Import = Callable[..., Bundle]


@pytest.fixture(scope="module")
def imported(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Import:
    """`asr-train import-hf`, with the tiny bundle's language models."""
    root = tmp_path_factory.mktemp("imported")

    def call(checkpoint: Path, *more: str) -> Bundle:
        parser = argparse.ArgumentParser()
        import_hf.add_arguments(parser)
        out = root / f"{checkpoint.name}-{len(list(root.iterdir()))}"
        given = [str(checkpoint), "--out", str(out), "--language-models", str(tiny_bundle), *more]
        import_hf.main(parser.parse_args(given))
        return Bundle.load(out)

    return call


@pytest.fixture(scope="module")
def bundles(checkpoints: dict[str, Path], imported: Import) -> dict[str, Bundle]:
    return {name: imported(folder) for name, folder in checkpoints.items()}


def _samples(seconds: float = 1.3, seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = 0.2 * rng.standard_normal(int(seconds * SAMPLE_RATE)) + 0.05
    return (np.round(noise * 32767) / 32768).clip(-1, 1).astype(np.float32)


def _theirs(checkpoint: Path, samples: np.ndarray) -> tuple[torch.Tensor, str]:
    """transformers' logits (T, all tokens) and greedy text."""
    kind = json.loads((checkpoint / "config.json").read_text())["model_type"]
    model = CLASSES[kind][0].from_pretrained(checkpoint).eval()
    processor = Wav2Vec2Processor.from_pretrained(checkpoint)
    inputs = processor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
    with torch.inference_mode():
        logits_TV = model(inputs.input_values).logits[0]
    kept = logits_TV.clone()
    kept[:, 1:4] = -torch.inf  # what must never be written
    return logits_TV, processor.batch_decode(kept.argmax(-1)[None])[0]


@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2-layer-norm", "hubert", "wavlm"])
def test_logits_and_greedy_text_are_those_of_transformers(
    checkpoints: dict[str, Path], bundles: dict[str, Bundle], name: str
) -> None:
    samples = _samples()
    logits_TV, text = _theirs(checkpoints[name], samples)
    transcriber = Transcriber.load(bundles[name].path, "cpu")
    labels = transcriber.tokenizer.pieces
    order = [0, *(TOKENS.index("|" if p == WORD_MARK else p.upper()) for p in labels[1:])]
    acoustic = transcriber._acoustic
    assert isinstance(acoustic, HuggingFaceCtc)
    with torch.inference_mode():
        own_TV = acoustic.logits(normalised_samples(torch.from_numpy(samples), acoustic.settings)[:, 0])
    torch.testing.assert_close(own_TV, logits_TV[:, order], atol=1e-5, rtol=0)
    log_probs_TV = transcriber.log_probs(samples)
    expected = logits_TV[:, order].log_softmax(dim=-1).numpy()
    np.testing.assert_allclose(log_probs_TV, expected, atol=2e-5)
    own_text = transcriber.transcribe(wav_bytes(samples * 32768 / 32767), DecodingOptions("greedy")).text
    assert own_text == " ".join(text.lower().split()) != ""


@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "wavlm"])
def test_every_decoder_writes_words_with_times_and_parts(bundles: dict[str, Bundle], name: str) -> None:
    transcriber = Transcriber.load(bundles[name].path, "cpu")
    transcriber.self_test()
    recording = wav_bytes(_samples())
    letters = set("abcdefghijklmnopqrstuvwxyz' ")
    for decoder in DECODERS:
        options = DecodingOptions(decoder, nbest=10, word_timestamps=True)
        transcript = transcriber.transcribe(recording, options)
        assert [word.word for word in transcript.words] == transcript.text.split()
        assert all(0 <= w.start_s <= w.end_s <= transcript.duration_s for w in transcript.words)
        texts = [hypothesis.text for hypothesis in transcript.hypotheses]
        assert len(set(texts)) == len(texts)
        assert letters.issuperset("".join(texts))
    assert transcriber.frame_s == 0.02
    for silence in (np.zeros(16_000), np.full(399, 0.5)):  # nothing to hear, and less than one frame
        assert transcriber.transcribe(wav_bytes(silence), DecodingOptions("beam_lm")).text == ""


def test_the_command_line_reads_the_bundle(
    bundles: dict[str, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.wav").write_bytes(wav_bytes(_samples()))
    bundle = str(bundles["wavlm"].path)
    given = [
        "transcribe",
        str(tmp_path / "a.wav"),
        "--decoder",
        "greedy",
        "--bundle",
        bundle,
        "--device",
        "cpu",
    ]
    assert cli.main(given) == 0
    expected = Transcriber.load(bundle, "cpu").transcribe(tmp_path / "a.wav", DecodingOptions("greedy")).text
    assert capsys.readouterr().out.strip() == expected != ""


def test_the_bundle_names_its_origin_and_no_machine(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["hubert"]
    index = (bundle.path / "bundle.json").read_text()
    assert json.loads(index)["acoustic"]["kind"] == "huggingface_ctc"
    assert str(bundle.path.parent.parent) not in index
    card = (bundle.path / MODEL_CARD).read_text()
    assert "hubert (HubertForCTC), which reads samples,\n  20 ms an output frame" in card
    assert f"CTC over {len(TOKENS) - 3} outputs (characters" in card


def test_altered_weights_of_another_size_are_refused(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles["wav2vec2"].path, tmp_path / "copy"))
    bundle = Bundle.load(folder)
    acoustic = bundle.settings.acoustic
    assert isinstance(acoustic, HuggingFaceCtcSettings)
    config = json.loads(acoustic.config) | {"intermediate_size": 40}
    wrong = replace(bundle.settings, acoustic=replace(acoustic, config=json.dumps(config)))
    with pytest.raises(MismatchError, match="has shape"):
        bundle.with_changes(wrong, {})


def test_padding_and_neighbours_change_nothing(bundles: dict[str, Bundle]) -> None:
    acoustic = Transcriber.load(bundles["wav2vec2"].path, "cpu")._acoustic
    short, long = (torch.from_numpy(_samples(s))[:, None] for s in (0.6, 1.0))
    batch = torch.full((2, len(long), 1), 1000.0)
    batch[0, : len(short)], batch[1] = short, long
    with torch.inference_mode():
        both_BTV, lengths_B = acoustic(batch, torch.tensor([len(short), len(long)]))
        for row, alone in enumerate((short, long)):
            own_BTV, own_lengths_B = acoustic(alone[None], torch.tensor([len(alone)]))
            assert lengths_B[row] == own_lengths_B[0] == own_BTV.shape[1]
            torch.testing.assert_close(both_BTV[row, : lengths_B[row]], own_BTV[0], atol=1e-5, rtol=0)


def test_long_recordings_are_heard_in_windows_that_join(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away from the joints a window hears what the whole does; the tiny model's context is short."""
    acoustic = Transcriber.load(bundles["wav2vec2-layer-norm"].path, "cpu")._acoustic
    assert isinstance(acoustic, HuggingFaceCtc)
    samples = torch.from_numpy(_samples(7.0))
    with torch.inference_mode():
        whole_TV = acoustic.logits(samples)
        monkeypatch.setattr(huggingface_ctc, "WINDOW_S", 3)
        monkeypatch.setattr(huggingface_ctc, "EDGE_S", 1)
        heard: list[int] = []
        hook = acoustic.network.register_forward_pre_hook(lambda _, given: heard.append(given[0].shape[1]))
        joined_TV = acoustic.logits(samples)
        hook.remove()
    assert max(heard) <= 3 * SAMPLE_RATE
    assert joined_TV.shape == whole_TV.shape
    agree = (joined_TV.argmax(-1) == whole_TV.argmax(-1)).float().mean()
    assert agree > 0.7
    first = 2 * SAMPLE_RATE // 320  # kept of the first window, up to the second
    with torch.inference_mode():
        start_TV = acoustic.logits(samples[: 3 * SAMPLE_RATE])
    torch.testing.assert_close(joined_TV[:first], start_TV[:first], atol=1e-5, rtol=0)


@given(st.integers(400, 40 * 60 * SAMPLE_RATE), st.sampled_from([160, 320, 640]))
def test_windows_cover_every_frame_once(n_samples: int, hop: int) -> None:
    kept = 0
    for start, stop, first, last in windows(n_samples, hop):
        n_frames = (stop - start - 400) // hop + 1  # a receptive field of 400 samples
        assert stop - start <= huggingface_ctc.WINDOW_S * SAMPLE_RATE
        assert start // hop + first == kept
        end = n_frames if last is None else last
        assert first < end <= n_frames
        kept += end - first
    assert kept == (n_samples - 400) // hop + 1


def test_a_receptive_field_is_counted(bundles: dict[str, Bundle]) -> None:
    acoustic = bundles["wav2vec2"].settings.acoustic
    assert isinstance(acoustic, HuggingFaceCtcSettings)
    assert (acoustic.fewest_samples, acoustic.samples_per_output) == (400, 320)
    assert [acoustic.output_frames(n) for n in (399, 400, 719, 720, 16_000)] == [0, 1, 1, 2, 49]


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    return Tokenizer(character_model(Labels((), ("", WORD_MARK, *"etaonihsrdlumwcfgypbvk'xjqz"), ())))


@settings(deadline=None)
@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz'", min_size=1, max_size=9), max_size=5).map(" ".join))
def test_texts_are_spelled_letter_by_letter_with_separators_between(letters: Tokenizer, text: str) -> None:
    ids = letters.encode(text)
    assert [letters.pieces[i] for i in ids] == list(text.replace(" ", WORD_MARK))
    assert letters.decode(ids) == text
    with pytest.raises(TextError, match="cannot spell"):
        letters.encode(text + " 7up")


def _posteriors(letters: Tokenizer, labels: str, confidence: float = 0.97) -> np.ndarray:
    """A frame a character: `-` is the blank, `|` the separator."""
    probs = np.full((len(labels), letters.vocab_size), (1 - confidence) / (letters.vocab_size - 1))
    for t, label in enumerate(labels):
        piece = {"-": "", "|": WORD_MARK}.get(label, label)
        probs[t, letters.pieces.index(piece)] = confidence
    return np.log(probs)


@pytest.mark.parametrize(
    "labels", ["the||cat", "|the-|-cat|", "t-hhee|-|ccaat||", "-th-e|c-a-t-", "||the|cat-|-|"]
)
@pytest.mark.parametrize("engine", ENGINES)
def test_beam_search_reads_separators_as_greedy_does(letters: Tokenizer, labels: str, engine: Engine) -> None:
    beam = make_beam_decoder(letters, None, DecodingSettings(beam_width=20, beta=0.0), engine)
    found = beam.decode(_posteriors(letters, labels))
    assert found[0].text == "the cat"
    assert len({h.text for h in found}) == len(found)


def test_a_separator_belongs_to_no_word(letters: Tokenizer) -> None:
    labels = "--the-||||-cat-"
    words = place_words(_posteriors(letters, labels), "the cat", letters)
    assert [(w.word, w.start, w.end) for w in words] == [("the", 2, 5), ("cat", 11, 14)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: [x for x in t if x != "|"], "no word delimiter"),
        (lambda t: [*t, "ing"], "'ing' is no single character"),
        (lambda t: [*t, "e"], "has 'e' twice"),
    ],
)
def test_vocabularies_that_are_not_of_characters_are_refused(
    tmp_path: Path, imported: Import, change: Callable[[list[str]], list[str]], message: str
) -> None:
    checkpoint = _save(tmp_path / "odd", "wav2vec2", change(TOKENS))
    with pytest.raises(MismatchError, match=message):
        imported(checkpoint)


def test_other_architectures_and_absent_folders_are_named(
    tmp_path: Path, imported: Import, tiny_gpt2: Path, checkpoints: dict[str, Path]
) -> None:
    with pytest.raises(MismatchError, match="is a GPT2LMHeadModel; one of Wav2Vec2ForCTC"):
        imported(tiny_gpt2)
    with pytest.raises(MismatchError, match="no language models"):
        imported(checkpoints["hubert"], "--language-models", str(tmp_path))
    eight_khz = Path(shutil.copytree(checkpoints["hubert"], tmp_path / "telephone"))
    for path in eight_khz.glob("*processor_config.json"):
        path.write_text(path.read_text().replace("16000", "8000"))
    with pytest.raises(MismatchError, match="8000 Hz"):
        imported(eight_khz)


def test_words_that_the_model_cannot_spell_leave_the_vocabulary(
    tmp_path: Path, imported: Import, tiny_bundle: Path
) -> None:
    checkpoint = _save(tmp_path / "no-apostrophe", "wav2vec2", [t for t in TOKENS if t != "'"])
    bundle = imported(checkpoint)
    words = (tiny_bundle / UNIGRAMS).read_text().split()
    assert "don't" in words
    assert (bundle.path / UNIGRAMS).read_text().split() == [w for w in words if "'" not in w]
    assert SENTENCES  # whose words these are
