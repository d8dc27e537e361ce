"""Training GPT-2: the vocabulary, the data's order, resuming, and the folder that comes out."""

import argparse
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from asr.decoding.rescoring import Gpt2Scorer
from training import gpt2, ngram
from training.gpt2_settings import OPTIMIZERS, Gpt2Settings
from training.gpt2_tokenizer import END_OF_TEXT, load_tokenizer, save_tokenizer, train_tokenizer
from training.sentence_store import IGNORED, BatchSettings, Position, SentenceStore, batches, to_tensors

SENTENCES = [
    "the cat sat on the mat",
    "a dog ran to the cat",
    "we don't know the dog",
    "the mat is on a dog and the dog is on the mat and that is all that we know of the dog and the mat",
    "we ran",
    "a cat can see the dog run to the mat",
]
TOKENIZER = train_tokenizer(SENTENCES, 70)
words = st.text("abcdefghijklmnopqrstuvwxyz'", min_size=1, max_size=12)


def _arguments(out: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    gpt2.add_arguments(parser)
    text = out.parent / "text.txt"
    text.write_text("".join(f"{s}\n" for s in SENTENCES), encoding="utf-8")
    small = [
        "--layers",
        "1",
        "--width",
        "64",
        "--context",
        "32",
        "--vocab-size",
        "80",
        "--batch-tokens",
        "64",
    ]
    fixed = ["--text", str(text), "--out", str(out), "--held-out-per-10k", "0", "--log-steps", "2"]
    return parser.parse_args([*fixed, *small, *more])


@given(st.lists(words, max_size=8).map(" ".join))
def test_any_normalised_text_survives_the_vocabulary(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids) == text


def test_the_vocabulary_is_limited_and_starts_with_the_end_of_text() -> None:
    assert train_tokenizer(SENTENCES, 40).get_vocab_size() == 40
    assert TOKENIZER.token_to_id(END_OF_TEXT) == 0
    with pytest.raises(ValueError, match="too small"):
        train_tokenizer(SENTENCES, 28)


def test_the_saved_vocabulary_is_what_transformers_loads(tmp_path: Path) -> None:
    save_tokenizer(TOKENIZER, tmp_path, 32)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert loaded.eos_token_id == loaded.bos_token_id == 0
    for sentence in SENTENCES:
        ids = loaded(sentence, add_special_tokens=False).input_ids
        assert ids == TOKENIZER.encode(sentence).ids
        assert loaded.decode(ids) == sentence
    again, end_id = load_tokenizer(tmp_path)
    assert (again.get_vocab(), end_id) == (TOKENIZER.get_vocab(), 0)


def test_a_store_gives_back_the_sentences(tmp_path: Path) -> None:
    store = SentenceStore.write(tmp_path, iter(SENTENCES), TOKENIZER)
    assert [TOKENIZER.decode(list(store[i])) for i in range(len(store))] == SENTENCES
    assert SentenceStore(tmp_path).n_tokens == sum(len(store[i]) for i in range(len(store)))


def test_a_store_without_sentences_or_of_two_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no sentence"):
        SentenceStore.write(tmp_path / "empty", [], TOKENIZER)
    SentenceStore.write(tmp_path / "mixed", SENTENCES, TOKENIZER)
    (tmp_path / "mixed/tokens.bin").write_bytes(b"\0\0\0")
    with pytest.raises(ValueError, match="do not belong together"):
        SentenceStore(tmp_path / "mixed")


def test_targets_are_the_inputs_moved_on_by_one_and_end_with_the_end() -> None:
    ids_BT, targets_BT = to_tensors([np.array([5, 6, 7], np.uint16), np.array([8], np.uint16)], end_id=0)
    assert ids_BT.tolist() == [[0, 5, 6, 7], [0, 8, 0, 0]]
    assert targets_BT.tolist() == [[5, 6, 7, 0], [8, 0, IGNORED, IGNORED]]


@pytest.fixture(scope="module")
def big_store(tmp_path_factory: pytest.TempPathFactory) -> SentenceStore:
    """500 sentences: three buckets of at most 200."""
    rng = np.random.default_rng(1)
    vocabulary = sorted({word for sentence in SENTENCES for word in sentence.split()})
    sentences = (" ".join(rng.choice(vocabulary, rng.integers(1, 12))) for _ in range(500))
    return SentenceStore.write(tmp_path_factory.mktemp("store"), sentences, TOKENIZER)


def test_an_epoch_holds_every_token_once_in_batches_within_the_limit(big_store: SentenceStore) -> None:
    rows = BatchSettings(tokens=512, context=128, joined_share=0.2, bucket=200)
    n_tokens = n_sentences = 0
    for position, ids_BT, targets_BT in batches(big_store, rows, Position(), end_id=0):
        assert ids_BT.numel() <= 512
        assert ids_BT.shape[1] <= 128
        n_tokens += int((targets_BT > 0).sum())
        n_sentences += len(ids_BT)
        if position.bucket == 3:  # the last batch of the epoch
            break
    assert n_sentences < len(big_store)  # some are joined
    assert n_tokens == pytest.approx(big_store.n_tokens, rel=0.05)  # the joined rows' overhang is cut


@settings(max_examples=15, deadline=None)
@given(start=st.integers(0, 100), seed=st.integers(0, 3))
def test_batches_go_on_from_any_position_as_if_never_stopped(
    big_store: SentenceStore, start: int, seed: int
) -> None:
    rows = BatchSettings(tokens=256, context=128, bucket=200, seed=seed)
    unbroken = list(islice(batches(big_store, rows, Position(), end_id=0), start, start + 3))
    before = (
        Position()
        if start == 0
        else next(islice(batches(big_store, rows, Position(), 0), start - 1, None))[0]
    )
    resumed = list(islice(batches(big_store, rows, before, end_id=0), 3))
    for (position, ids_BT, targets_BT), (again, ids_again_BT, targets_again_BT) in zip(
        unbroken, resumed, strict=True
    ):
        assert position == again
        assert torch.equal(ids_BT, ids_again_BT)
        assert torch.equal(targets_BT, targets_again_BT)


def test_two_epochs_have_different_orders(tmp_path: Path) -> None:
    store = SentenceStore.write(tmp_path, SENTENCES * 20, TOKENIZER)
    rows = BatchSettings(tokens=100_000, context=128)
    (one, first_BT, _), (two, second_BT, _) = islice(batches(store, rows, Position(), 0), 2)
    assert (one, two) == (Position(0, 1, 0), Position(1, 1, 0))
    assert first_BT.shape != second_BT.shape or not torch.equal(first_BT, second_BT)


@pytest.mark.parametrize("stage", [gpt2, ngram])
def test_every_option_is_in_the_docs(stage: ModuleType) -> None:
    parser = argparse.ArgumentParser()
    stage.add_arguments(parser)
    page = (Path(__file__).parents[1] / "docs/language-models.md").read_text(encoding="utf-8")
    flags = {action.option_strings[-1] for action in parser._actions} - {"--help"}
    assert sorted(flag for flag in flags if f"`{flag}" not in page and f"{flag} " not in page) == []


@given(st.floats(0, 1))
def test_the_learning_rate_warms_up_and_falls(done: float) -> None:
    schedule = Gpt2Settings(max_steps=10, learning_rate=1.0, warmup_share=0.1, final_lr_share=0.2)
    rate = schedule.learning_rate_at(done)
    assert 0 < rate <= 1.0
    if done >= 0.1:
        assert rate >= 0.2 - 1e-9
        assert rate >= schedule.learning_rate_at(min(1.0, done + 0.05)) - 1e-9
    assert schedule.learning_rate_at(0.1) == pytest.approx(1.0)
    assert schedule.learning_rate_at(1.0) == pytest.approx(0.2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_is_one_optimisers(optimizer: str, tied: bool) -> None:
    config = GPT2Config(
        vocab_size=50, n_positions=8, n_embd=64, n_layer=2, n_head=1, tie_word_embeddings=tied
    )
    model = GPT2LMHeadModel(config)
    made = gpt2._make_optimisers(model, Gpt2Settings(max_steps=1, optimizer=optimizer))
    moved = [id(p) for one in made for group in one.param_groups for p in group["params"]]
    assert sorted(moved) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"max_steps": 1, "minutes": 1.0},
        {"max_steps": 1, "width": 100},
        {"max_steps": 1, "optimizer": "sgd"},
    ],
)
def test_settings_that_make_no_run_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"either max_steps|multiple of|one of muon"):
        Gpt2Settings(**wrong)


def test_a_run_learns_its_sentences_and_leaves_a_folder_that_scores_them(tmp_path: Path) -> None:
    dev = tmp_path / "dev.jsonl"
    row = {"audio": "a.wav", "text": SENTENCES[0], "duration": 1.0, "set": "cv"}
    dev.write_text(json.dumps(row) + "\n", encoding="utf-8")
    options = ["--max-steps", "60", "--learning-rate", "0.01", "--joined-share", "0", "--no-bf16"]
    gpt2.main(_arguments(tmp_path / "run", "--dev", str(dev), *options))
    report = json.loads((tmp_path / "run/gpt2.json").read_text())
    assert report["progress"]["step"] == 60
    perplexity = report["fit"]["cv"]["perplexity"]
    assert perplexity < 3
    scorer = Gpt2Scorer.load(tmp_path / "run/model")
    (logp,) = scorer.score([SENTENCES[0]])
    assert perplexity == pytest.approx(math.exp(-logp / 7), abs=0.01)  # six words and the end
    modes = {path.name: path.stat().st_mode & 0o444 for path in (tmp_path / "run/model").iterdir()}
    assert set(modes) >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert set(modes.values()) == {0o444}  # whoever serves the bundle may read it


def _stop_after(monkeypatch: pytest.MonkeyPatch, n_steps: int) -> None:
    """SIGTERM comes during step `n_steps`."""
    steps = iter(range(1, 1000))
    train_step = gpt2._train_step

    def interrupted(*arguments: object) -> float:
        if next(steps) == n_steps:
            signal.raise_signal(signal.SIGTERM)
        return train_step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(gpt2, "_train_step", interrupted)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_stopped_by_sigterm_and_resumed_equals_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    options = ("--max-steps", "9", "--optimizer", optimizer)
    gpt2.main(_arguments(tmp_path / "unbroken", *options))
    with monkeypatch.context() as patch:
        _stop_after(patch, 4)
        gpt2.main(_arguments(tmp_path / "stopped", *options))
    report = json.loads((tmp_path / "stopped/gpt2.json").read_text())
    assert report["progress"]["step"] == 4
    GPT2LMHeadModel.from_pretrained(tmp_path / "stopped/model", local_files_only=True)
    gpt2.main(_arguments(tmp_path / "stopped", *options, "--resume"))
    unbroken, resumed = (
        load_file(tmp_path / name / "checkpoint.safetensors") for name in ("unbroken", "stopped")
    )
    assert unbroken.keys() == resumed.keys()
    for name, tensor in unbroken.items():
        assert torch.equal(tensor, resumed[name]), name
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    options = ("--max-steps", "6", "--log-steps", "1", "--no-bf16")
    arguments = _arguments(tmp_path / "one", *options)  # writes the text
    text = ["--text", str(arguments.text[0]), "--held-out-per-10k", "0", "--layers", "1", "--width", "64"]
    sizes = ["--context", "32", "--vocab-size", "80", "--batch-tokens", "64"]
    logs = []
    for name, launcher in (
        ("one", []),
        ("two", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]),
    ):
        command = [sys.executable, *launcher, "-m", "training.cli", "gpt2", *text, *sizes, *options]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / name)],
            cwd=Path(__file__).parents[1],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        logs.append([float(loss) for loss in re.findall(r"loss ([0-9.]+)", done.stdout)])
    assert len(logs[0]) == 6
    assert logs[1] == pytest.approx(logs[0], rel=2e-3)
    one, two = (
        json.loads((tmp_path / name / "gpt2.json").read_text())["progress"] for name in ("one", "two")
    )
    assert one["tokens"] == two["tokens"]


def test_a_run_is_not_resumed_with_other_settings_or_from_nothing(tmp_path: Path) -> None:
    gpt2.main(_arguments(tmp_path / "run", "--max-steps", "2"))
    with pytest.raises(ValueError, match="other settings: learning_rate, max_steps"):
        gpt2.main(_arguments(tmp_path / "run", "--max-steps", "3", "--learning-rate", "1", "--resume"))
    (tmp_path / "run/checkpoint.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        gpt2.main(_arguments(tmp_path / "run", "--max-steps", "2", "--resume"))


def test_init_goes_on_from_an_earlier_models_weights_and_vocabulary(tmp_path: Path) -> None:
    gpt2.main(_arguments(tmp_path / "first", "--max-steps", "30", "--learning-rate", "0.01"))
    first = tmp_path / "first/model"
    options = ["--max-steps", "1", "--learning-rate", "1e-9", "--layers", "3", "--vocab-size", "50"]
    gpt2.main(_arguments(tmp_path / "second", "--init", str(first), *options))
    second = tmp_path / "second/model"
    assert load_tokenizer(second)[0].get_vocab() == load_tokenizer(first)[0].get_vocab()
    assert Gpt2Scorer.load(second).score(SENTENCES) == pytest.approx(
        Gpt2Scorer.load(first).score(SENTENCES), abs=1e-3
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level, cased GPT-2 as published: vocab.json and merges.txt, an end token of its own."""
    folder = tmp_path_factory.mktemp("hub") / "gpt2-tiny"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([s.capitalize() + "." for s in SENTENCES], trainer)
    folder.mkdir()
    tokenizer.model.save(str(folder))
    ends = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"} | ends))
    config = GPT2Config(vocab_size=320, n_positions=48, n_embd=32, n_layer=1, n_head=2)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_a_published_gpt2_is_fine_tuned_on_lower_case_text(tmp_path: Path, published: Path) -> None:
    dev = tmp_path / "dev.jsonl"
    row = {"audio": "a.wav", "text": SENTENCES[0], "duration": 1.0, "set": "cv"}
    dev.write_text(json.dumps(row) + "\n", encoding="utf-8")
    before = Gpt2Scorer.load(published).score([SENTENCES[0]])[0]
    options = ["--init", str(published), "--dev", str(dev), "--max-steps", "40", "--learning-rate", "0.01"]
    gpt2.main(_arguments(tmp_path / "run", *options))
    tuned = Gpt2Scorer.load(tmp_path / "run/model")
    after = tuned.score([SENTENCES[0]])[0]
    assert after > before + 10
    perplexity = json.loads((tmp_path / "run/gpt2.json").read_text())["fit"]["cv"]["perplexity"]
    assert perplexity == pytest.approx(math.exp(-after / 7), abs=0.01)
    store = SentenceStore(tmp_path / "run/data")
    for i, sentence in enumerate(SENTENCES):
        assert list(store[i]) == tuned._encode(sentence)  # trained on what is scored
    loaded = AutoTokenizer.from_pretrained(tmp_path / "run/model", local_files_only=True)
    assert loaded.eos_token == loaded.bos_token == "</s>"
    assert loaded.decode(list(store[0])) == SENTENCES[0]


def test_what_is_no_gpt2_is_named(tmp_path: Path, published: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no tokenizer.json and no vocab.json"):
        gpt2.main(_arguments(tmp_path / "run", "--max-steps", "1", "--init", str(tmp_path)))
    other = Path(shutil.copytree(published, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "opt"}))
    with pytest.raises(ValueError, match="type 'opt', not 'gpt2'"):
        gpt2.main(_arguments(tmp_path / "run", "--max-steps", "1", "--init", str(other)))


def test_a_large_vocabulary_gets_wider_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = SentenceStore.write(tmp_path / "small", SENTENCES, TOKENIZER)

    class Large:
        """More ids than 16 bits hold, the same encoding otherwise."""

        encode_batch_fast = TOKENIZER.encode_batch_fast

        def get_vocab_size(self) -> int:
            return 70_000

    large = SentenceStore.write(tmp_path / "large", SENTENCES, Large())  # type: ignore[arg-type]
    assert large[0].dtype == np.uint32
    assert [list(large[i]) for i in range(6)] == [list(small[i]) for i in range(6)]
    assert len(SentenceStore(tmp_path / "large")) == 6
