"""What native beam search remembers: arrays, and what each of their fields means.

A *text* is what the pieces so far spell, however they were cut: "an" spelled by `an` and by `a` `n` is one
text, recognised by a rolling hash of its letters. Paths into a text are told apart only by the label of the
last frame, since that decides whether the same label again repeats or grows it: the blank, or one of a few
last tokens.

Shapes: W beam width, V CTC outputs, P letters of all pieces, E last tokens of a text at most,
C candidates at most, Q history entries, H slots of the hash table (a power of two).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding.hotword_trie import START, HotwordTrie
from asr.decoding.mixture_kernels import Mixture
from asr.decoding.ngram_file import NgramArrays
from asr.decoding.ngram_kernels import CONTEXT_SIZE
from asr.decoding.word_trie import ROOT, WordTrie

TEXT = np.dtype(
    [
        ("hash", "u8"),
        ("node", "i8"),  # its last token in the history
        ("n_tokens", "i8"),  # that spell it
        ("words", "i8"),  # begun
        ("trie", "i8"),  # node of the unfinished word: ROOT between words, OUTSIDE for an unknown one
        ("finished", "f8"),  # weighted n-gram of the finished words, unknown-word penalties included
        ("ahead", "f8"),  # stands for the unfinished word's, until that is finished
        ("hot", "i8"),  # state of the hotwords' automaton
        (
            "covered",
            "i8",
        ),  # bits of finished words, the last lowest: those inside a complete hotword
        ("unknown", "i8"),  # those outside the vocabulary
        ("earned", "f8"),  # by complete hotwords
        ("hope", "f8"),  # provisional credit of an unfinished one
        ("blank", "f8"),  # log-probability of the paths whose last frame is blank
        ("total", "f8"),  # of all paths
        ("n_last", "i8"),  # last tokens that other paths end in
        ("ended", "i8"),  # 1: the fields below hold what the text would be if its word ended here
        ("end_finished", "f8"),
        ("end_hot", "i8"),
        ("end_covered", "i8"),
        ("end_unknown", "i8"),
        ("end_earned", "f8"),
        ("end_hope", "f8"),
    ]
)

CANDIDATE = np.dtype(
    [
        ("hash", "u8"),
        ("source", "i8"),  # the text that it grew from first
        ("token", "i8"),  # by which token; STAYS: it is that text
        ("trie", "i8"),  # like the next three as in TEXT
        ("ahead", "f8"),
        ("hot", "i8"),
        ("hope", "f8"),
        ("language", "f8"),  # everything but the acoustics
        ("blank", "f8"),
        ("total", "f8"),
        ("n_last", "i8"),
        ("rank", "f8"),  # total + language
    ]
)
STAYS = -1

_EMPTY = np.zeros((), TEXT)
_EMPTY["hash"], _EMPTY["trie"], _EMPTY["hot"] = 1, ROOT, START
_KEPT_NODES = 1 << 18  # of a room that the next search gets, 2 MB


class Pieces(NamedTuple):
    """The tokenizer's pieces as letters."""

    blank: int  # the blank's id
    separator: int  # id of the label between words, -1 where pieces say themselves that they start one
    starts: NDArray[np.int32]  # (V,) 1: begins with a word mark, and has letters
    letters: NDArray[np.int32]  # (P,) codes of all pieces' letters, marks left out
    first: NDArray[np.int32]  # (V + 1,) where each piece's letters begin
    factor: NDArray[np.uint64]  # (V,) hash of a text and the piece = hash x factor + term
    term: NDArray[np.uint64]  # (V,)
    trie: NDArray[np.int32]  # (V,) node of the vocabulary that the piece leads to from a word's start


class Spelling(NamedTuple):
    """The tokenizer's pieces as Unicode code points, word marks as spaces. S: points of all pieces."""

    points: NDArray[np.uint32]  # (S,)
    first: NDArray[np.int32]  # (V + 1,) where each piece's begin


class Weights(NamedTuple):
    """Natural logarithms."""

    alpha: float  # of a log10 probability of the n-gram; 0 without one
    beta: float
    penalty: float  # of an unknown word; 0 without an n-gram
    unknown_ahead: float  # stands for a word that cannot be known any more
    hotword: float
    has_ngram: int
    has_mixture: int  # 1: a text's own n-gram is mixed into it
    has_hotwords: int
    width: int
    prune: float  # texts and extensions this far below the best are dropped; negative
    optimistic: int  # 1: scores of words are at most 0, which lets hopeless extensions be skipped early


class Search(NamedTuple):
    """Everything that does not change during a search."""

    ngram: NgramArrays
    mixture: Mixture
    trie: WordTrie
    pieces: Pieces
    hotwords: HotwordTrie
    weights: Weights


class Beam(NamedTuple):
    """The texts kept, best first."""

    texts: NDArray[Any]  # (W,) of TEXT
    contexts: NDArray[np.int64]  # (W, CONTEXT_SIZE) of the n-gram, twice as wide with a mixture, after the
    # finished words
    end_contexts: NDArray[np.int64]  # the same if the unfinished word ended here
    last_tokens: NDArray[np.int64]  # (W, E)
    last_logps: NDArray[np.float64]  # (W, E)


class Workspace(NamedTuple):
    """Room for one frame's work."""

    candidates: NDArray[Any]  # (C,) of CANDIDATE
    last_tokens: NDArray[np.int64]  # (C, E)
    last_logps: NDArray[np.float64]  # (C, E)
    slots: NDArray[np.int64]  # (H,) a candidate's number by its hash
    frames: NDArray[np.int64]  # (H,) the frame in which the slot was filled: no slot is ever cleared
    tokens: NDArray[np.int64]  # (V,) labels tried on the frame, blank and separator apart
    best: NDArray[np.int64]  # (W,) candidates chosen
    start_hot: NDArray[np.int64]  # (V,) state of the hotwords after the piece from a word's start
    start_hope: NDArray[np.float64]  # (V,) and its credit


class History(NamedTuple):
    """How texts were spelled, as a tree; entry 0 is the empty text."""

    parent: NDArray[np.int32]  # (Q,)
    token: NDArray[np.int32]  # (Q,)


def new_beam(width: int, n_last: int, context_size: int = CONTEXT_SIZE) -> Beam:
    """Holds the empty text, all paths at log-probability 0; the n-gram's context is for the search to set."""
    beam = Beam(
        np.zeros(width, TEXT),
        np.full((width, context_size), -1, np.int64),
        np.full((width, context_size), -1, np.int64),
        np.empty((width, n_last), np.int64),
        np.empty((width, n_last)),
    )
    beam.texts[0] = _EMPTY
    return beam


def new_workspace(width: int, n_last: int, n_outputs: int, max_tokens: int) -> Workspace:
    """max_tokens: labels tried per frame."""
    size = width * (min(max_tokens, n_outputs) + 1)
    n_slots = 1 << (4 * size - 1).bit_length()
    return Workspace(
        np.empty(size, CANDIDATE),
        np.empty((size, n_last), np.int64),
        np.empty((size, n_last)),
        np.empty(n_slots, np.int64),
        np.full(n_slots, -1, np.int64),
        np.empty(n_outputs, np.int64),
        np.empty(width, np.int64),
        np.full(n_outputs, START, np.int64),
        np.zeros(n_outputs),
    )


@dataclass
class SearchRoom:
    """All that a search writes to."""

    beam: Beam
    spare: Beam
    work: Workspace
    history: History

    def begin(self, n_nodes: int) -> None:
        """Before a search: the beam holds the empty text. n_nodes: of the history, at most."""
        self.beam.texts[0] = _EMPTY
        self.work.frames.fill(-1)
        self.work.start_hot.fill(START)
        self.work.start_hope.fill(0.0)
        if len(self.history.parent) < n_nodes:
            self.history = new_history(n_nodes)

    def is_small(self) -> bool:
        return len(self.history.parent) <= _KEPT_NODES


def new_room(width: int, n_last: int, context_size: int, n_outputs: int, max_tokens: int) -> SearchRoom:
    """max_tokens: labels tried per frame."""
    beam, spare = (new_beam(width, n_last, context_size) for _ in range(2))
    return SearchRoom(beam, spare, new_workspace(width, n_last, n_outputs, max_tokens), new_history(1))


def new_history(size: int) -> History:
    return History(np.empty(size, np.int32), np.empty(size, np.int32))
