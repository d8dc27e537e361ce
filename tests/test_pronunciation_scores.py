"""Texts scored by their pronunciations: against CTC over every choice, and against enumeration of paths."""

import itertools
import math

import numpy as np
import pytest
import torch

from asr.decoding.pronunciation_scores import pronunciation_logps

VOICES = {
    "a": ((5,), (6,)),
    "be": ((5, 1),),
    "see": ((6, 1, 1), (6, 2)),
    "dodo": ((7, 3, 3, 3),),
    "eye": ((7,),),
}


class Spoken:
    def of(self, word: str) -> tuple[tuple[int, ...], ...]:
        return VOICES[word]


def random_log_probs(n_frames: int, n_phones: int, seed: int, spread: float = 1.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(n_frames, n_phones)) * spread
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def by_ctc(log_probs_TP: np.ndarray, text: str) -> float:
    """log of the sum of torch's CTC over every choice of pronunciations."""
    total = -math.inf
    for choice in itertools.product(*(VOICES[word] for word in text.split())):
        labels = [phone for phones in choice for phone in phones]
        loss = torch.nn.functional.ctc_loss(
            torch.from_numpy(log_probs_TP)[:, None],
            torch.tensor([labels]),
            torch.tensor([len(log_probs_TP)]),
            torch.tensor([len(labels)]),
            reduction="sum",
        )
        total = float(np.logaddexp(total, -float(loss)))
    return total


@pytest.mark.parametrize("seed", range(12))
def test_scores_are_the_sum_of_ctc_over_every_choice_of_pronunciations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    log_probs_TP = random_log_probs(int(rng.integers(18, 60)), 8, seed, spread=float(rng.uniform(0.3, 4.0)))
    texts = [" ".join(rng.choice(list(VOICES), rng.integers(1, 6))) for _ in range(30)]
    found = pronunciation_logps(log_probs_TP, texts, Spoken())
    assert found == pytest.approx([by_ctc(log_probs_TP, text) for text in texts], abs=1e-6)


def test_scores_are_the_sum_over_all_paths() -> None:
    log_probs_TP = random_log_probs(5, 8, seed=3)
    wanted = {(*first, *second) for first in VOICES["a"] for second in VOICES["be"]}
    paths = [
        sum(log_probs_TP[t, label] for t, label in enumerate(path))
        for path in itertools.product(range(8), repeat=5)
        if tuple(label for label, _ in itertools.groupby(path) if label) in wanted
    ]
    # "a be" with the first "a" is the label 5 twice: only with a blank between, as CTC has it.
    assert pronunciation_logps(log_probs_TP, ["a be"], Spoken())[0] == pytest.approx(
        np.logaddexp.reduce(paths), abs=1e-9
    )


def test_a_text_scores_the_same_alone_and_among_others() -> None:
    log_probs_TP = random_log_probs(70, 8, seed=5, spread=3.0)
    rng = np.random.default_rng(9)
    texts = [" ".join(rng.choice(list(VOICES), rng.integers(0, 9))) for _ in range(60)]
    together = pronunciation_logps(log_probs_TP, texts, Spoken())
    alone = [pronunciation_logps(log_probs_TP, [text], Spoken())[0] for text in texts]
    assert together.tolist() == alone


def test_the_empty_text_is_all_blanks() -> None:
    log_probs_TP = random_log_probs(9, 8, seed=1)
    assert pronunciation_logps(log_probs_TP, [""], Spoken())[0] == pytest.approx(log_probs_TP[:, 0].sum())


def test_a_text_that_needs_more_frames_than_there_are_scores_far_below_any_other() -> None:
    log_probs_TP = random_log_probs(4, 8, seed=1)
    long, short = pronunciation_logps(log_probs_TP, ["dodo dodo", "be"], Spoken())
    assert long < short - 600
    assert np.isfinite(long)


def test_hours_of_words_neither_underflow_nor_take_a_square_of_memory() -> None:
    """Four thousand frames: far more than a float's range of probabilities, and the sums stay exact."""
    text = " ".join(["see", "dodo", "be", "eye"] * 60)
    labels = [phone for word in text.split() for phone in VOICES[word][-1]]
    frames = [label for phone in labels for label in (phone, phone, 0, 0, 0)]
    log_probs_TP = random_log_probs(len(frames), 8, seed=2, spread=0.5)
    log_probs_TP[np.arange(len(frames)), frames] += 1.5
    log_probs_TP -= np.logaddexp.reduce(log_probs_TP, axis=1, keepdims=True)
    other = text.replace("be", "a", 1)
    found = pronunciation_logps(log_probs_TP, [text, other], Spoken())
    one = {**VOICES, "see": (VOICES["see"][-1],)}

    class Single:
        def of(self, word: str) -> tuple[tuple[int, ...], ...]:
            return one[word]

    exact = pronunciation_logps(log_probs_TP, [text], Single())[0]
    loss = torch.nn.functional.ctc_loss(
        torch.from_numpy(log_probs_TP)[:, None],
        torch.tensor([labels]),
        torch.tensor([len(frames)]),
        torch.tensor([len(labels)]),
        reduction="sum",
    )
    assert exact == pytest.approx(-float(loss), rel=1e-9)
    assert found[1] < found[0]
