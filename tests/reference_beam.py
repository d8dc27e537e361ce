"""Slow, obvious decoders that the fast ones are held to, and the scripted tokenizer that both use."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from asr.decoding.array_ngram import ArrayNgram
from asr.decoding.greedy import collapse
from asr.decoding.options import DecodingSettings

MARK = "\u2581"


class ScriptedTokenizer:
    """A tokenizer with the pieces a test wants; `encode` takes the longest piece that fits."""

    def __init__(self, *pieces: str) -> None:
        """A lone "_" is the separator between words."""
        self.pieces = ["", *(piece.replace("_", MARK) for piece in pieces)]
        self.vocab_size = len(self.pieces)
        self.blank_id = 0
        self.separator_id = pieces.index("_") + 1 if "_" in pieces else None

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
        return " ".join("".join(self.pieces[i] for i in ids).replace(MARK, " ").split())


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


def log_sum(logps: Iterable[float]) -> float:
    kept = [logp for logp in logps if logp > -math.inf]
    return max(kept) + math.log(sum(math.exp(logp - max(kept)) for logp in kept)) if kept else -math.inf


@dataclass(frozen=True)
class SlowMixture:
    """Two n-grams interpolated, each asked by itself; a word that one lacks has probability 0 there."""

    first: ArrayNgram
    second: ArrayNgram
    weight: float  # of the second

    @property
    def words(self) -> frozenset[str]:
        return self.first.words | self.second.words

    def __contains__(self, word: str) -> bool:
        return word in self.words

    def has_prefix(self, prefix: str) -> bool:
        return any(word.startswith(prefix) for word in self.words)

    def start_state(self) -> tuple[object, object]:
        return self.first.start_state(), self.second.start_state()

    def advance(self, state: tuple[object, object], word: str) -> tuple[float, tuple[object, object]]:
        first_logp, first = self.first.advance(state[0], word)
        second_logp, second = self.second.advance(state[1], word)
        p = 0.0
        if word in self.first or word == "</s>" or word not in self.second:
            p += (1 - self.weight) * math.exp(first_logp)
        if word in self.second or word == "</s>":
            p += self.weight * math.exp(second_logp)
        return math.log(p), (first, second)


@dataclass(frozen=True)
class SlowLanguage:
    """What a text gets beside its acoustics, looked at anew for every text. lm None: no n-gram."""

    settings: DecodingSettings
    lm: ArrayNgram | SlowMixture | None = None
    unigrams: Mapping[str, float] = field(default_factory=dict)  # natural-log P of single words, <unk> too
    hotwords: tuple[str, ...] = ()
    weight: float = 0.0

    def rank(self, text: str) -> float:
        """While the text may grow; a trailing space ends its last word."""
        words = text.split()
        finished = words if not text or text.endswith(" ") else words[:-1]
        score = self.settings.beta * len(words) + self._ngram(finished) + self._earned(finished)
        if len(finished) < len(words):
            score += self._ahead(words[-1])
        return score + self._hope(finished, words[len(finished) :])

    def parts(self, text: str) -> tuple[float, float, float]:
        """n-gram, hotwords and length of a complete text."""
        words = text.split()
        return self._ngram([*words, "</s>"]), self._earned(words), self.settings.beta * len(words)

    def _ngram(self, words: Sequence[str]) -> float:
        if self.lm is None:
            return 0.0
        score, state = 0.0, self.lm.start_state()
        for word in words:
            logp, state = self.lm.advance(state, word)
            score += self.settings.alpha * logp + self._penalty(word)
        return score

    def _penalty(self, word: str) -> float:
        known = self.lm is None or word in self.lm or word == "</s>"
        return 0.0 if known else self.settings.unknown_word_logp

    def _ahead(self, unfinished: str) -> float:
        if self.lm is None:
            return 0.0
        possible = [self.unigrams[w] for w in self.lm.words if w.startswith(unfinished)]
        if possible:
            return self.settings.alpha * max(possible)
        return self.settings.alpha * self.unigrams["<unk>"] + self.settings.unknown_word_logp

    def _covered(self, words: Sequence[str]) -> set[int]:
        covered = set()
        for phrase, start in itertools.product((h.split() for h in self.hotwords), range(len(words))):
            if list(words[start : start + len(phrase)]) == phrase:
                covered |= set(range(start, start + len(phrase)))
        return covered

    def _earned(self, words: Sequence[str]) -> float:
        return sum(self.weight - self._penalty(words[i]) for i in self._covered(words))

    def _hope(self, finished: Sequence[str], unfinished: Sequence[str]) -> float:
        covered = self._covered(finished)
        for start in range(len(finished) + len(unfinished)):
            begun = "".join(f"{word} " for word in finished[start:]) + "".join(unfinished)
            rest = [f"{h} "[len(begun) :] for h in self.hotwords if f"{h} ".startswith(begun)]
            if not rest:
                continue
            fresh = [i for i in range(start, len(finished)) if i not in covered]
            score = sum(self.weight - self._penalty(finished[i]) for i in fresh)
            for word in unfinished:
                left = min(ending.index(" ") for ending in rest)
                score += self.weight * len(word) / (len(word) + left)
                score -= self._penalty(word) if not self._may_be_known(word) else 0.0
            return score
        return 0.0

    def _may_be_known(self, unfinished: str) -> bool:
        return self.lm is None or self.lm.has_prefix(unfinished)


def slow_search(
    kept_TV: np.ndarray, tokenizer: ScriptedTokenizer, language: SlowLanguage
) -> list[tuple[str, float, float]]:
    """Prefix beam search as `asr.decoding.prefix_search` describes it, on strings and dictionaries.

    kept_TV: labels that are not tried are -inf. Returns text, acoustics and total, best first.
    """
    settings = language.settings
    beam: dict[str, dict[int, float]] = {"": {0: 0.0}}  # text -> last frame's label -> log-probability
    for frame_V in kept_TV.tolist():
        grown = {text: _staying(text, paths, frame_V, tokenizer) for text, paths in beam.items()}
        ranks = [log_sum(paths.values()) + language.rank(text) for text, paths in grown.items()]
        best, floor = max(ranks), -math.inf
        for number, (text, paths) in enumerate(beam.items()):
            for label, logp in enumerate(frame_V):
                longer = spell_on(text, label, tokenizer)
                reached = log_sum(p for last, p in paths.items() if last != label) + logp
                if label == 0 or longer == text or reached == -math.inf:
                    continue
                rank = reached + language.rank(longer)
                if rank < floor:
                    continue
                if number == 0 and longer not in grown:
                    best = max(best, rank)
                into = grown.setdefault(longer, {})
                into[label] = log_sum([into.get(label, -math.inf), reached])
            if number == 0:
                floor = best + settings.beam_prune_logp
        totals = {t: log_sum(paths.values()) + language.rank(t) for t, paths in grown.items()}
        least = max(totals.values()) + settings.beam_prune_logp
        chosen = [t for t in sorted(grown, key=lambda t: -totals[t]) if -math.inf < totals[t] >= least]
        beam = {t: grown[t] for t in chosen[: settings.beam_width]}
    acoustic: dict[str, list[float]] = defaultdict(list)
    for text, paths in beam.items():
        acoustic[text.strip()] += paths.values()
    found = [(text, log_sum(logps)) for text, logps in acoustic.items()]
    totals_of = {text: logp + sum(language.parts(text)) for text, logp in found}
    return sorted(((t, a, totals_of[t]) for t, a in found), key=lambda item: (-item[2], item[0]))


def spell_on(text: str, label: int, tokenizer: ScriptedTokenizer) -> str:
    """A text with a label's piece behind it."""
    piece = tokenizer.pieces[label]
    if label == tokenizer.separator_id:
        return text if not text or text.endswith(" ") else text + " "
    if piece.startswith(MARK):
        return f"{text} {piece[1:]}" if text else piece[1:]
    return text + piece


def _staying(
    text: str, paths: Mapping[int, float], frame_V: Sequence[float], tokenizer: ScriptedTokenizer
) -> dict[int, float]:
    """Paths on which a frame leaves the text as it is."""
    everything = log_sum(paths.values())
    staying = {0: everything + frame_V[0]}
    for label, logp in paths.items():
        if label:
            staying[label] = logp + frame_V[label]
    separator = tokenizer.separator_id
    if separator is not None and (not text or text.endswith(" ")):
        staying[separator] = everything + frame_V[separator]
    return {label: logp for label, logp in staying.items() if logp > -math.inf}


def best_first(acoustic: dict[str, float], language: Callable[[str], float]) -> list[tuple[str, float]]:
    """Texts with their totals, best first."""
    return sorted(((t, a + language(t)) for t, a in acoustic.items()), key=lambda item: (-item[1], item[0]))
