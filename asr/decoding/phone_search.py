"""Beam search over an acoustic model's phones with a pronunciation lexicon and a word n-gram, compiled.

A second source of texts beside the search over pieces (`asr.decoding.native_beam`), which spells: this one
knows a hundred thousand words by their sound. Only the lexicon's words that the n-gram has are found, each in
any of its pronunciations; others, a caller's hotwords and a posted text's new words among them, stay the
pieces' job. Hotwords earn nothing here: they count when the texts of both searches are scored alike.
`asr.decoding.phone_kernels` holds the algorithm. It frees the GIL while it searches.
"""

import math
import time
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding import phone_kernels, phone_lists
from asr.decoding.array_ngram import ArrayNgram
from asr.decoding.found import Found, ranked
from asr.decoding.lexicon_tree import ROOT, LexiconTree, LexiconWords, build_tree, look_ahead
from asr.decoding.memory_pool import MemoryPool
from asr.decoding.mixed_ngram import MixedNgram
from asr.decoding.native_beam import no_mixture, no_ngram
from asr.decoding.ngram_kernels import CONTEXT_SIZE
from asr.decoding.options import DecodingSettings
from asr.decoding.phone_state import (
    PhoneRoom,
    PhoneSearch,
    PhoneWeights,
    WordHistory,
    longer_history,
    new_room,
    new_workspace,
)
from asr.decoding.posteriors import checked_log_probs, keep_best_tokens, phones_divided
from asr.decoding.result import LENGTH, Hypothesis, totals_of
from asr.decoding.text_arrays import Texts, texts_of
from asr.errors import DecodingTimeoutError
from asr.pronunciation import Pronunciations

_LN_10 = math.log(10.0)
_FRAMES_AT_ONCE = 256  # between two looks at the clock


class Lexicon:
    """What searches with any n-gram share: the lexicon's words and the tree of their pronunciations."""

    def __init__(self, pronunciations: Pronunciations) -> None:
        labels = pronunciations.of_lexicon()
        self.words = labels.words
        self.spelled = texts_of(labels.words)
        self.longest = int(np.diff(self.spelled.first).max(initial=0))  # word, in letters
        self.n_outputs = pronunciations.n_outputs
        self.tree: LexiconTree = build_tree(labels)
        self.most_words = int(np.diff(self.tree.first_word).max())  # that are pronounced alike


class PhoneBeamDecoder:
    """Search over phones with one lexicon and one n-gram.

    Calls do not depend on each other, and may overlap, on several threads at once.
    """

    def __init__(
        self, lexicon: Lexicon, lm: ArrayNgram | MixedNgram | None, settings: DecodingSettings
    ) -> None:
        """settings: `phone_beam_width`, `phone_alpha` and, as in the search over pieces, the rest; but no
        label that reaches `token_min_logp` is left out on a crowded frame: every phone is there twice.
        Without an n-gram (`lm=None`) all words are equally likely. Compiles the search unless that was done
        before (seconds).
        """
        self._lexicon, self._settings = lexicon, settings
        model = no_ngram() if lm is None else lm
        mixed = isinstance(model, MixedNgram)
        alpha = settings.alpha if settings.phone_alpha is None else settings.phone_alpha
        alpha = alpha * _LN_10 if lm is not None else 0.0
        self._search = PhoneSearch(
            model.arrays,
            model.mixture if isinstance(model, MixedNgram) else no_mixture(),
            lexicon.tree,
            _words(lexicon, lm, alpha),
            PhoneWeights(
                alpha=alpha,
                beta=settings.beta,
                has_ngram=int(lm is not None),
                has_mixture=int(mixed),
                width=settings.phone_beam_width or 1,
                prune=math.exp(settings.beam_prune_logp),
                optimistic=int(alpha >= 0.0),
            ),
        )
        self._context_size = CONTEXT_SIZE * (1 + mixed)
        self._begin = np.full(self._context_size, -1)  # the n-gram's context before the first word
        phone_kernels.begin(self._search, self._begin)
        tree = lexicon.tree
        self._n_starts = int(tree.first_child[ROOT + 1] - tree.first_child[ROOT])
        self._pool = MemoryPool(
            partial(new_room, self._search.weights.width, self._n_starts, self._context_size),
            PhoneRoom.is_small,
        )
        self.decode(np.zeros((1, lexicon.n_outputs)))  # compiles

    def decode(
        self, phones_TP: NDArray[np.floating[Any]], *, limit: int = 100, deadline_s: float | None = None
    ) -> list[Hypothesis]:
        """Up to `limit` different texts, best first, equal totals in alphabetical order; there may be none.

        `phones_TP`: natural-log posteriors of phones (T, P), blank first, T may be 0. `deadline_s`: seconds
        that this call may take, looked at every 256 frames. `acoustic` sums the text's paths that the search
        kept. Raises DecodingTimeoutError, and ValueError on a wrong shape or NaN.
        """
        return self.find(phones_TP, limit=limit, deadline_s=deadline_s).hypotheses()

    def find(
        self, phones_TP: NDArray[np.floating[Any]], *, limit: int = 100, deadline_s: float | None = None
    ) -> Found:
        """What `decode` answers, as arrays."""
        started_s = time.monotonic()
        probs_TP = self._probabilities(phones_TP)
        search = self._search
        with self._pool.one() as room:
            room.begin()
            room.history.contexts[0] = self._begin
            n, n_entries, first = 1, 1, 0
            while first < len(probs_TP):
                if deadline_s is not None and time.monotonic() - started_s >= deadline_s:
                    raise DecodingTimeoutError(f"beam search over phones passed its {deadline_s:g} s")
                frames_TP = probs_TP[first : first + _FRAMES_AT_ONCE]
                done, n, n_entries, swapped = phone_kernels.search_frames(
                    search,
                    room.beam,
                    room.spare,
                    n,
                    room.work,
                    room.history,
                    n_entries,
                    room.asked,
                    first,
                    frames_TP,
                )
                if swapped:
                    room.beam, room.spare = room.spare, room.beam
                first += done
                if done < len(frames_TP):
                    self._make_room(room, n_entries)
            return self._found(room, n, n_entries, limit)

    def _make_room(self, room: PhoneRoom, n_entries: int) -> None:
        """More of what there was too little of. The frame at hand begins anew, with no candidates."""
        entries = room.history.entries
        if n_entries + self._lexicon.most_words > len(entries):
            room.history = longer_history(room.history, 2 * len(entries), self._context_size)
            room.work.frames.fill(-1)
        else:
            room.work = new_workspace(2 * len(room.work.candidates), self._n_starts)

    def _probabilities(self, phones_TP: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """(T, P) in which labels that are not tried are 0."""
        checked_TP = checked_log_probs(phones_TP, self._lexicon.n_outputs)
        divided_TP = phones_divided(checked_TP, self._settings)
        return np.exp(keep_best_tokens(divided_TP, self._settings.token_min_logp, checked_TP.shape[1]))

    def _found(self, room: PhoneRoom, n: int, n_entries: int, limit: int) -> Found:
        most = n * max(self._lexicon.most_words, 1)
        if n_entries + most > len(room.history.entries):
            room.history = longer_history(room.history, n_entries + most, self._context_size)
        history = room.history
        entries, parts = np.empty(most, np.int64), np.empty((most, 2))
        context = np.zeros(self._context_size, np.int64)
        slots = np.full(1 << (2 * most).bit_length(), -1)
        size = phone_lists.list_readings(
            self._search, room.beam, n, history, n_entries, room.asked, context, entries, parts, slots
        )
        n_words = history.entries["n_words"][entries[:size]]
        parts_X6 = np.zeros((size, 6))
        parts_X6[:, :2] = parts[:size]
        parts_X6[:, LENGTH] = self._settings.beta * n_words
        best = np.argsort(-totals_of(parts_X6), kind="stable")[:limit]
        return ranked(Found(self._texts(history, entries[best], int(n_words[best].sum())), parts_X6[best]))

    def _texts(self, history: WordHistory, entries: NDArray[np.int64], n_words: int) -> Texts:
        """n_words: of all entries together."""
        points = np.empty(n_words * (self._lexicon.longest + 1), np.uint32)
        first = np.empty(len(entries) + 1, np.int64)
        phone_lists.write_texts(history, entries, self._lexicon.spelled, points, first)
        return Texts(points[: first[-1]], first)


def _words(lexicon: Lexicon, lm: ArrayNgram | MixedNgram | None, alpha: float) -> LexiconWords:
    words = lexicon.words
    if lm is None:
        return look_ahead(lexicon.tree, np.zeros(len(words), np.int32), np.zeros(len(words)))
    known = lm.words
    numbers = np.array([lm.number(word) if word in known else -1 for word in words], np.int64)
    values = alpha * lm.unigrams(np.maximum(numbers, 0))
    return look_ahead(lexicon.tree, numbers.astype(np.int32), values)
