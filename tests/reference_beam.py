"""Slow, obvious decoders that the fast ones are held to, and the scripted tokenizer that both use."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from asr.decoding.greedy import collapse

MARK = "\u2581"


class ScriptedTokenizer:
    """A tokenizer with the pieces a test wants; `encode` takes the longest piece that fits."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = ["", *(piece.replace("_", MARK) for piece in pieces)]
        self.vocab_size = len(self.pieces)
        self.blank_id = 0
        self.separator_id: int | None = None

    def encode(self, text: str) -> list[int]:
        rest, ids = "".join(MARK + word for word in text.split()), []
        while rest:
            i = max(
                (i for i, p in enumerate(self.pieces) if p and rest.startswith(p)),
                key=lambda i: len(self.pieces[i]),
            )
            ids.append(i)
            rest = rest[len(self.pieces[i]) :]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[i] for i in ids).replace(MARK, " ").strip()


def log_softmax(logits_TV: np.ndarray) -> np.ndarray:
    return logits_TV - np.log(np.exp(logits_TV).sum(axis=1, keepdims=True))


def random_log_probs(seed: int, n_frames: int, n_labels: int, scale: float = 1.0) -> np.ndarray:
    return log_softmax(np.random.default_rng(seed).normal(scale=scale, size=(n_frames, n_labels)))


def spelled(tokenizer: ScriptedTokenizer, labels: Sequence[int], certainty: float = 0.98) -> np.ndarray:
    """Log-posteriors (T, V) with `certainty` on each frame's label and the rest shared out."""
    probs = np.full((len(labels), tokenizer.vocab_size), (1 - certainty) / (tokenizer.vocab_size - 1))
    probs[np.arange(len(labels)), list(labels)] = certainty
    return np.log(probs)


def all_paths(log_probs_TV: np.ndarray, tokenizer: ScriptedTokenizer) -> dict[str, float]:
    """Every text -> log of the summed probability of all its paths, by writing every path down."""
    probs: dict[str, float] = defaultdict(float)
    for path in itertools.product(range(tokenizer.vocab_size), repeat=len(log_probs_TV)):
        text = tokenizer.decode(collapse(path, 0))
        probs[text] += math.exp(sum(log_probs_TV[t, label] for t, label in enumerate(path)))
    return {text: math.log(p) for text, p in probs.items()}


def prefix_search(log_probs_TV: np.ndarray, tokenizer: ScriptedTokenizer) -> dict[str, float]:
    """The same by prefix beam search without pruning: probability per (spelling, last frame's label)."""
    beams: dict[tuple[str, int], float] = {("", 0): 1.0}
    for log_probs_V in log_probs_TV:
        grown: dict[tuple[str, int], float] = defaultdict(float)
        for (spelling, last), p in beams.items():
            for label, piece in enumerate(tokenizer.pieces):
                longer = spelling if label in (0, last) else spelling + piece
                grown[longer, label] += p * math.exp(log_probs_V[label])
        beams = grown
    probs: dict[str, float] = defaultdict(float)
    for (spelling, _), p in beams.items():
        probs[spelling.replace(MARK, " ").strip()] += p
    return {text: math.log(p) for text, p in probs.items()}


def best_first(acoustic: dict[str, float], language: Callable[[str], float]) -> list[tuple[str, float]]:
    """Texts with their totals, best first."""
    return sorted(((t, a + language(t)) for t, a in acoustic.items()), key=lambda item: (-item[1], item[0]))
