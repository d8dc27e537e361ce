"""GPT-2 scores and the re-ordering they give, with a tiny random model saved in Hugging Face layout."""

import itertools
import json
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import asr.decoding.rescoring
from asr.decoding.gpt2 import Gpt2
from asr.decoding.rescoring import Gpt2Scorer, rescore
from asr.decoding.result import Hypothesis, Scores
from asr.errors import MismatchError, MissingFileError, RescoringTimeoutError

END = "<|endoftext|>"
N_POSITIONS = 16
TEXTS = ["an apple", "", "the cat sat on the mat", "a", "an ape ate an apple and a pear", "new york"]


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=N_POSITIONS,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.5,  # far from uniform, so that context matters
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def scorer(gpt2_folder: Path) -> Gpt2Scorer:
    return Gpt2Scorer.load(gpt2_folder)


@pytest.fixture(scope="session")
def reference(gpt2_folder: Path) -> GPT2LMHeadModel:
    """transformers' own."""
    return GPT2LMHeadModel.from_pretrained(gpt2_folder).eval()


def stepwise(scorer: Gpt2Scorer, model: GPT2LMHeadModel, text: str) -> float:
    """Reference: the tokens one after the other, each given all before it; for texts that fit the model."""
    ids = [scorer._begin_id, *scorer._encode(text), scorer._end_id]
    total = 0.0
    for n in range(1, len(ids)):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids[:n]])).logits[0, -1]
        total += float(torch.log_softmax(logits.double(), dim=0)[ids[n]])
    return total


@pytest.mark.parametrize("text", TEXTS)
def test_score_is_the_log_probability_of_the_tokens_and_the_end(
    scorer: Gpt2Scorer, reference: GPT2LMHeadModel, text: str
) -> None:
    assert len(scorer._encode(text)) < N_POSITIONS
    assert scorer.score([text]) == [pytest.approx(stepwise(scorer, reference, text), abs=1e-4)]


def test_score_alone_equals_score_in_a_batch(scorer: Gpt2Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    long = " ".join(TEXTS * 3)
    texts = [*TEXTS, long, TEXTS[0]]
    alone = [scorer.score([text])[0] for text in texts]
    assert scorer.score(texts) == pytest.approx(alone, abs=1e-4)
    assert scorer.score(texts[::-1]) == pytest.approx(alone[::-1], abs=1e-4)
    assert scorer.score(texts) == scorer.score(texts)
    monkeypatch.setattr(asr.decoding.rescoring, "_MAX_NODES", 1)
    assert scorer.score(texts) == pytest.approx(alone, abs=1e-4)
    assert scorer.score([]) == []


def test_several_recordings_go_in_one_pass(scorer: Gpt2Scorer, reference: GPT2LMHeadModel) -> None:
    lists = [[f"{text} {end}" for end in ("apple", "pear", "mat")] for text in TEXTS]
    together = scorer.score([text for row in lists for text in row])
    alone = [stepwise(scorer, reference, text) for row in lists for text in row]
    assert together == pytest.approx(alone, abs=1e-4)


def test_the_deadline_ends_scoring_for_its_own_thread_only(scorer: Gpt2Scorer) -> None:
    with pytest.raises(RescoringTimeoutError):
        scorer.score(TEXTS, deadline=time.monotonic() - 1.0)
    assert scorer.score(TEXTS, deadline=time.monotonic() + 1000.0) == scorer.score(TEXTS)
    expected = scorer.score(TEXTS)
    inside, done = threading.Event(), threading.Event()

    def hold_an_expired_deadline() -> None:
        scorer._deadline.at = 0.0
        inside.set()
        assert done.wait(60)
        scorer._deadline.check()

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(hold_an_expired_deadline)
        assert inside.wait(60)
        assert scorer.score(TEXTS) == expected
        done.set()
        assert isinstance(other.exception(60), RescoringTimeoutError)


def test_the_deadline_is_looked_at_between_layers(
    scorer: Gpt2Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()
    monkeypatch.setattr(asr.decoding.rescoring.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(RescoringTimeoutError):
        scorer.score(["an apple"], deadline=2.0)  # the check before the first layer passes, the second fails
    assert next(clock) == 3


def test_bfloat16_is_near(gpt2_folder: Path, scorer: Gpt2Scorer) -> None:
    rounded = Gpt2Scorer.load(gpt2_folder, precision="bfloat16")
    assert (rounded.precision, scorer.precision) == ("bfloat16", "float32")
    exact = scorer.score(TEXTS)
    assert rounded.score(TEXTS) == pytest.approx(exact, rel=0.05, abs=0.5)
    assert rounded.score(TEXTS) != exact


@pytest.mark.parametrize("bfloat16_s", [0.5, 2.0])
def test_auto_takes_what_its_measurement_says(
    gpt2_folder: Path, scorer: Gpt2Scorer, monkeypatch: pytest.MonkeyPatch, bfloat16_s: float
) -> None:
    clock = itertools.accumulate(itertools.chain.from_iterable(itertools.repeat((0.0, 1.0, 0.0, bfloat16_s))))
    monkeypatch.setattr(asr.decoding.rescoring.time, "thread_time", lambda: next(clock))
    chosen = Gpt2Scorer.load(gpt2_folder, precision="auto")
    assert chosen.precision == ("bfloat16" if bfloat16_s < 1.0 else "float32")
    if chosen.precision == "float32":
        assert chosen.score(TEXTS) == scorer.score(TEXTS)  # the trial left no rounding behind


def test_long_texts_are_scored_in_windows_each_token_once(
    scorer: Gpt2Scorer, reference: GPT2LMHeadModel
) -> None:
    text = " ".join(TEXTS * 3)
    ids = [scorer._begin_id, *scorer._encode(text), scorer._end_id]
    assert len(ids) > 3 * N_POSITIONS
    expected, half = 0.0, N_POSITIONS // 2
    for n in range(1, len(ids)):
        # The window that scores token n begins at the latest multiple of half that leaves room for it.
        start = 0 if n <= N_POSITIONS else -(-(n - N_POSITIONS) // half) * half
        with torch.no_grad():
            logits = reference(input_ids=torch.tensor([ids[start:n]])).logits[0, -1]
        assert n <= N_POSITIONS or n - start > half
        expected += float(torch.log_softmax(logits.double(), dim=0)[ids[n]])
    assert scorer.score([text])[0] == pytest.approx(expected, abs=1e-3)


def test_text_that_names_the_end_token_is_still_scored(scorer: Gpt2Scorer) -> None:
    assert scorer.score([END])[0] < 0.0


def test_absent_and_broken_models_are_refused(gpt2_folder: Path, tmp_path: Path) -> None:
    for missing in ("config.json", "tokenizer.json", "model.safetensors"):
        with pytest.raises(MissingFileError, match=missing):
            Gpt2Scorer.load(tmp_path)
        (tmp_path / missing).write_bytes((gpt2_folder / missing).read_bytes())
    (tmp_path / "tokenizer_config.json").write_bytes((gpt2_folder / "tokenizer_config.json").read_bytes())
    assert Gpt2Scorer.load(tmp_path).score(["an apple"])[0] < 0.0
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(MismatchError, match="cannot be read"):
        Gpt2Scorer.load(tmp_path)


def test_loading_writes_nothing(gpt2_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Gpt2Scorer.load(gpt2_folder)
    assert capfd.readouterr() == ("", "")


def test_model_smaller_than_its_tokenizer_is_refused(gpt2_folder: Path, scorer: Gpt2Scorer) -> None:
    config = GPT2Config(**json.loads((gpt2_folder / "config.json").read_text()) | {"vocab_size": 10})
    with pytest.raises(MismatchError, match="10 tokens"):
        Gpt2Scorer(GPT2LMHeadModel(config), scorer._tokenizer, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_scores_on_cuda_equal_scores_on_cpu(gpt2_folder: Path, scorer: Gpt2Scorer) -> None:
    assert Gpt2Scorer.load(gpt2_folder, "cuda").score(TEXTS) == pytest.approx(scorer.score(TEXTS), abs=1e-2)


class ScriptedScorer:
    """Gives each text the score it is told to, and remembers what was asked."""

    def __init__(self, **scores: float) -> None:
        self.scores = scores
        self.asked: list[str] = []

    def score(self, texts: Sequence[str], *, deadline: float | None = None) -> list[float]:
        self.asked += texts
        return [self.scores[text] for text in texts]


def test_rescoring_reorders_and_the_parts_add_up() -> None:
    hypotheses = [
        Hypothesis("a", Scores(-1.0, ngram=-2.0, length=0.5)),
        Hypothesis("b", Scores(-1.5, ngram=-2.0, hotwords=0.25)),
    ]
    found = rescore(hypotheses, ScriptedScorer(a=-10.0, b=-4.0), gamma=0.5, limit=30)
    assert [h.text for h in found] == ["b", "a"]
    assert found[0].scores == Scores(-1.5, ngram=-2.0, hotwords=0.25, gpt2=-2.0)
    assert found[0].scores.total == pytest.approx(-5.25)
    assert found[1].scores.total == pytest.approx(-7.5)


def test_only_the_first_are_scored_and_returned() -> None:
    scorer = ScriptedScorer(a=-1.0, b=-1.0)
    found = rescore([Hypothesis(text, Scores(0.0)) for text in "bac"], scorer, gamma=1.0, limit=2)
    assert scorer.asked == ["b", "a"]
    assert [h.text for h in found] == ["a", "b"]  # equal totals: alphabetical
    assert rescore([], scorer, gamma=1.0, limit=2) == []


def test_the_usual_folder_is_read_without_transformers(gpt2_folder: Path, tmp_path: Path) -> None:
    """One with another activation is not."""
    own, other = Gpt2Scorer.load(gpt2_folder), Path(shutil.copytree(gpt2_folder, tmp_path / "unusual"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"activation_function": "relu"}))
    assert isinstance(own._model, Gpt2)
    unusual = Gpt2Scorer.load(other)
    assert isinstance(unusual._model, GPT2LMHeadModel)
    assert unusual.score(TEXTS) != pytest.approx(own.score(TEXTS), abs=1e-3)
