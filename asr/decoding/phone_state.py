"""What the beam search over phones remembers: arrays, and what each of their fields means.

A *hypothesis* is finished words and a node of the lexicon's tree: as much of the next word as was heard.
Paths into it are told apart only by whether the last frame is blank, since that decides whether the node's
label again repeats or grows it. They are kept as *masses*: probabilities times e^language, over that of the
best hypothesis, so that a frame is multiplications and additions alone.

Shapes: W beam width, P phone outputs, C candidates, Q history entries, H slots of the hash table (a power
of two), S labels that begin a word, B bins.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding.lexicon_tree import ROOT, LexiconTree, LexiconWords
from asr.decoding.mixture_kernels import Mixture
from asr.decoding.ngram_file import NgramArrays

HYPOTHESIS = np.dtype(
    [
        ("hash", "u8"),  # of its finished words
        ("blank", "f8"),  # mass of the paths whose last frame is blank
        ("other", "f8"),  # of those whose last frame is the node's label
        ("node", "i4"),  # ROOT before the first word
        ("history", "i4"),  # entry of its finished words
        ("ends", "i4"),  # first of the entries that it has if its word ends here; UNMADE: not made yet
        ("n_ends", "i4"),
    ]
)
UNMADE = -1

ENTRY = np.dtype(
    [
        ("hash", "u8"),
        ("finished", "f8"),  # weighted n-gram of the words
        ("factor", "f8"),  # e^(what the last word's n-gram is above what stood for it)
        ("parent", "i4"),  # entry of the words before the last
        ("word", "i4"),  # the last, by its number in the lexicon
        ("n_words", "i4"),
    ]
)

N_BINS = 256
_FIRST_ENTRIES = 1024
_ANSWERS = 2048
_KEPT_ENTRIES = 1 << 15  # of a room that the next search gets, some 3 MB
_KEPT_CANDIDATES = 1 << 15


class PhoneWeights(NamedTuple):
    """Natural logarithms."""

    alpha: float  # of a log10 probability of the n-gram; 0 without one
    beta: float
    has_ngram: int
    has_mixture: int  # 1: a text's own n-gram is mixed into it
    width: int
    prune: float  # e^(how far below the best hypotheses are dropped)
    optimistic: int  # 1: an n-gram's word is never worth more than 0


class PhoneSearch(NamedTuple):
    """Everything that does not change during a search."""

    ngram: NgramArrays
    mixture: Mixture
    tree: LexiconTree
    words: LexiconWords
    weights: PhoneWeights


class PhoneBeam(NamedTuple):
    """The hypotheses kept; the first is the best, the others are in the order in which they were found."""

    hypotheses: NDArray[Any]  # (W,) of HYPOTHESIS
    log_scale: NDArray[np.float64]  # (1,) natural log of what masses are to be multiplied by
    least: NDArray[np.float64]  # (1,) the smallest mass that was kept where others did not fit, else 0


class PhoneWorkspace(NamedTuple):
    """Room for one frame's work."""

    candidates: NDArray[Any]  # (C,) of HYPOTHESIS
    chosen: NDArray[np.int32]  # (C,) candidates
    binned: NDArray[np.int32]  # (C,) the bin of each
    bins: NDArray[np.int32]  # (B,) how many have masses of a size
    slots: NDArray[np.int32]  # (H,) a candidate's number by its hash
    frames: NDArray[np.int32]  # (H,) the frame in which the slot was filled: no slot is ever cleared
    starts: NDArray[np.int32]  # (S,) nodes that may begin a word on the frame
    start_masses: NDArray[np.float64]  # (S,) probability times the first step


class Asked(NamedTuple):
    """What the n-gram last answered; each question has one place. Histories share their latest words, and
    words their pronunciations: two questions of three were asked before."""

    context: NDArray[np.int64]  # (A,) the longest n-gram of the words before, its length in the lowest bits
    word: NDArray[np.int64]  # (A,) -1: not asked yet
    logp: NDArray[np.float64]  # (A,) log10
    after: NDArray[np.int64]  # (A, context size)


class WordHistory(NamedTuple):
    """Finished words, as a tree; entry 0 has none."""

    entries: NDArray[Any]  # (Q,) of ENTRY
    contexts: NDArray[np.int64]  # (Q, context size) of the n-gram after the words


@dataclass
class PhoneRoom:
    """All that a search writes to."""

    beam: PhoneBeam
    spare: PhoneBeam
    work: PhoneWorkspace
    history: WordHistory
    asked: Asked  # of one n-gram

    def begin(self) -> None:
        """Before a search: the beam holds the empty hypothesis."""
        self.beam.hypotheses[0] = (1, 1.0, 0.0, ROOT, 0, UNMADE, 0)
        self.beam.log_scale[0] = self.beam.least[0] = 0.0
        self.work.frames.fill(-1)

    def is_small(self) -> bool:
        return len(self.history.entries) <= _KEPT_ENTRIES and len(self.work.candidates) <= _KEPT_CANDIDATES


def new_room(width: int, n_starts: int, context_size: int) -> PhoneRoom:
    beam, spare = (PhoneBeam(np.zeros(width, HYPOTHESIS), np.zeros(1), np.zeros(1)) for _ in range(2))
    history = longer_history(None, _FIRST_ENTRIES, context_size)
    asked = Asked(
        np.zeros(_ANSWERS, np.int64),
        np.full(_ANSWERS, -1),
        np.zeros(_ANSWERS),
        np.zeros((_ANSWERS, context_size), np.int64),
    )
    return PhoneRoom(beam, spare, new_workspace(8 * width, n_starts), history, asked)


def new_workspace(n_candidates: int, n_starts: int) -> PhoneWorkspace:
    n_slots = 1 << (2 * n_candidates - 1).bit_length()
    return PhoneWorkspace(
        np.zeros(n_candidates, HYPOTHESIS),
        np.zeros(n_candidates, np.int32),
        np.zeros(n_candidates, np.int32),
        np.zeros(N_BINS, np.int32),
        np.zeros(n_slots, np.int32),
        np.full(n_slots, -1, np.int32),
        np.zeros(n_starts, np.int32),
        np.zeros(n_starts),
    )


def longer_history(history: WordHistory | None, size: int, context_size: int) -> WordHistory:
    """A history with room for `size` entries that begins as the given one does."""
    longer = WordHistory(np.empty(size, ENTRY), np.empty((size, context_size), np.int64))
    if history is not None:
        n = len(history.entries)
        longer.entries[:n], longer.contexts[:n] = history
    else:
        longer.entries[0] = (1, 0.0, 1.0, -1, -1, 0)
    return longer
