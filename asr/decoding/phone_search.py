"""Beam search over an acoustic model's phones with a pronunciation lexicon and a word n-gram, compiled.

A second source of texts beside the search over pieces (`asr.decoding.native_beam`), which spells: this one
knows a hundred thousand words by their sound. Only the lexicon's words that the n-gram has are found, each in
any of its pronunciations; others, a caller's hotwords and a posted text's new words among them, stay the
pieces' job. Hotwords earn nothing here: they count when the texts of both searches are scored alike.
`asr.decoding.phone_kernels` holds the algorithm. It frees the GIL while it searches.
"""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding import phone_kernels
from asr.decoding.array_ngram import ArrayNgram
from asr.decoding.lexicon_tree import ROOT, LexiconTree, LexiconWords, build_tree, look_ahead
from asr.decoding.mixed_ngram import MixedNgram
from asr.decoding.native_beam import no_mixture, no_ngram
from asr.decoding.ngram_kernels import CONTEXT_SIZE
from asr.decoding.options import DecodingSettings
from asr.decoding.phone_state import (
    PhoneBeam,
    PhoneSearch,
    PhoneWeights,
    WordHistory,
    longer_history,
    new_beam,
    new_workspace,
)
from asr.decoding.posteriors import checked_log_probs, keep_best_tokens, phones_divided
from asr.decoding.result import LENGTH, Hypothesis, best_of, totals_of
from asr.errors import DecodingTimeoutError
from asr.pronunciation import Pronunciations

_LN_10 = math.log(10.0)
_FRAMES_AT_ONCE = 64  # between two looks at the clock


class Lexicon:
    """What searches with any n-gram share: the lexicon's words and the tree of their pronunciations."""

    def __init__(self, pronunciations: Pronunciations) -> None:
        labels = pronunciations.of_lexicon()
        self.words = labels.words
        self.n_outputs = pronunciations.n_outputs
        self.tree: LexiconTree = build_tree(labels)
        self.most_words = int(np.diff(self.tree.first_word).max())  # that are pronounced alike


class PhoneBeamDecoder:
    """Search over phones with one lexicon and one n-gram.

    Keeps no state between calls, so calls may overlap, on several threads at once.
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
        tree = lexicon.tree
        self._n_starts = int(tree.first_child[ROOT + 1] - tree.first_child[ROOT])
        self.decode(np.zeros((1, lexicon.n_outputs)))  # compiles

    def decode(
        self, phones_TP: NDArray[np.floating[Any]], *, limit: int = 100, deadline_s: float | None = None
    ) -> list[Hypothesis]:
        """Up to `limit` different texts, best first, equal totals in alphabetical order; there may be none.

        `phones_TP`: natural-log posteriors of phones (T, P), blank first, T may be 0. `deadline_s`: seconds
        that this call may take, looked at every 64 frames. `acoustic` sums the text's paths that the search
        kept. Raises DecodingTimeoutError, and ValueError on a wrong shape or NaN.
        """
        started_s = time.monotonic()
        probs_TP = self._probabilities(phones_TP)
        search, n_starts = self._search, self._n_starts
        beam, spare = (new_beam(search.weights.width) for _ in range(2))
        work = new_workspace(8 * search.weights.width, n_starts)
        history = longer_history(None, 1024, self._context_size)
        phone_kernels.prepare(search, history)
        n, n_entries, first = 1, 1, 0
        while first < len(probs_TP):
            if deadline_s is not None and time.monotonic() - started_s >= deadline_s:
                raise DecodingTimeoutError(f"beam search over phones passed its {deadline_s:g} s")
            frames_TP = probs_TP[first : first + _FRAMES_AT_ONCE]
            done, n, n_entries, swapped = phone_kernels.search_frames(
                search, beam, spare, n, work, history, n_entries, first, frames_TP
            )
            if swapped:
                beam, spare = spare, beam
            first += done
            if done < len(frames_TP):  # no room
                if n_entries + self._lexicon.most_words > len(history.entries):
                    history = longer_history(history, 2 * len(history.entries), self._context_size)
                else:
                    work = new_workspace(2 * len(work.candidates), n_starts)
        return self._hypotheses(beam, n, history, n_entries, limit)

    def _probabilities(self, phones_TP: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """(T, P) in which labels that are not tried are 0."""
        checked_TP = checked_log_probs(phones_TP, self._lexicon.n_outputs)
        divided_TP = phones_divided(checked_TP, self._settings)
        return np.exp(keep_best_tokens(divided_TP, self._settings.token_min_logp, checked_TP.shape[1]))

    def _hypotheses(
        self, beam: PhoneBeam, n: int, history: WordHistory, n_entries: int, limit: int
    ) -> list[Hypothesis]:
        room = n * max(self._lexicon.most_words, 1)
        if n_entries + room > len(history.entries):
            history = longer_history(history, n_entries + room, self._context_size)
        entries, parts = np.zeros(room, np.int64), np.zeros((room, 2))
        context = np.zeros(self._context_size, np.int64)
        size = phone_kernels.finish(self._search, beam, n, history, n_entries, context, entries, parts)
        found: dict[int, tuple[int, float, float]] = {}
        hashes = history.entries["hash"][entries[:size]].tolist()
        for key, entry, (acoustic, ngram) in zip(
            hashes, entries[:size].tolist(), parts[:size].tolist(), strict=True
        ):
            if key in found:  # heard in other pronunciations
                acoustic = float(np.logaddexp(found[key][1], acoustic))
            found[key] = entry, acoustic, ngram
        chosen = np.array([entry for entry, _, _ in found.values()], np.int64)
        n_words = history.entries["n_words"][chosen]
        parts_N6 = np.zeros((len(chosen), 6))
        parts_N6[:, :2] = np.array([both for _, *both in found.values()]).reshape(-1, 2)
        parts_N6[:, LENGTH] = self._settings.beta * n_words
        best = np.argsort(-totals_of(parts_N6), kind="stable")[:limit]
        return best_of(self._texts(history, chosen[best], n_words[best].tolist()), parts_N6[best])

    def _texts(self, history: WordHistory, entries: NDArray[np.int64], n_words: Sequence[int]) -> list[str]:
        last = np.cumsum(n_words, dtype=np.int64)
        numbers = np.zeros(sum(n_words), np.int64)
        phone_kernels.spell_out(history, entries, last, numbers)
        words = [self._lexicon.words[number] for number in numbers.tolist()]
        return [" ".join(words[end - n : end]) for end, n in zip(last.tolist(), n_words, strict=True)]


def _words(lexicon: Lexicon, lm: ArrayNgram | MixedNgram | None, alpha: float) -> LexiconWords:
    words = lexicon.words
    if lm is None:
        return look_ahead(lexicon.tree, np.zeros(len(words), np.int32), np.zeros(len(words)))
    known = lm.words
    numbers = np.array([lm.number(word) if word in known else -1 for word in words], np.int64)
    values = alpha * lm.unigrams(np.maximum(numbers, 0))
    return look_ahead(lexicon.tree, numbers.astype(np.int32), values)
