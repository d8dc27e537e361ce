"""CTC prefix beam search with a word n-gram and hotwords, compiled: the engine that the service uses.

`asr.decoding.prefix_search` holds the algorithm. It frees the GIL while it searches. Score of a text:
acoustic + alpha x n-gram + unknown_word_logp x unknown words + beta x words + hotwords.
"""

import functools
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding import prefix_search, text_scores
from asr.decoding.arpa import BEGIN, END, UNKNOWN, Level, NgramTable
from asr.decoding.array_ngram import ArrayNgram
from asr.decoding.found import Found, ranked
from asr.decoding.hotword_trie import HotwordTrie, build_hotwords
from asr.decoding.hotwords import phrase_of
from asr.decoding.memory_pool import MemoryPool
from asr.decoding.mixed_ngram import MixedNgram
from asr.decoding.mixture_kernels import Mixture
from asr.decoding.ngram_kernels import CONTEXT_SIZE
from asr.decoding.options import DecodingSettings
from asr.decoding.pieces import check_pieces
from asr.decoding.posteriors import checked_log_probs, prior_divided, search_candidates
from asr.decoding.prefix_state import (
    History,
    Pieces,
    Search,
    SearchRoom,
    Spelling,
    Weights,
    new_beam,
    new_room,
    new_workspace,
)
from asr.decoding.result import ACOUSTIC, LENGTH, Hypothesis
from asr.decoding.spelling_scores import ExactSpelling
from asr.decoding.text_arrays import Texts, lines_of, strings_of, texts_of
from asr.decoding.text_trie import TextTrie, text_trie
from asr.decoding.word_trie import SPACE, build_trie, letter_codes
from asr.errors import DecodingTimeoutError
from asr.tokenizer import WORD_MARK, Tokenizer

_LN_10 = math.log(10.0)
_FRAMES_AT_ONCE = 128  # between two looks at the clock
HOTWORD_LISTS = 8  # whose automata are kept, the latest used; one of 1,000 words takes some 3 MB


class NativeBeamDecoder:
    """Prefix beam search over one tokenizer and one n-gram.

    Calls do not depend on each other, and may overlap, on several threads at once.
    """

    def __init__(
        self, tokenizer: Tokenizer, lm: ArrayNgram | MixedNgram | None, settings: DecodingSettings
    ) -> None:
        """Without an n-gram (`lm=None`) words still earn beta, and no word is unknown.

        Compiles the search unless that was done before (seconds). Raises MismatchError when a piece of the
        tokenizer is no plain part of a word.
        """
        check_pieces(tokenizer)
        self._settings = settings
        self._vocab_size = tokenizer.vocab_size
        self._pieces_text = [piece.replace(WORD_MARK, " ") for piece in tokenizer.pieces]
        words = lm.sorted_words if lm is not None else []
        self._codes = letter_codes([*self._pieces_text, *words])
        model = no_ngram() if lm is None else lm
        mixed = isinstance(model, MixedNgram)
        mixture = model.mixture if isinstance(model, MixedNgram) else no_mixture()
        alpha = settings.alpha * _LN_10 if lm is not None else 0.0
        penalty = settings.unknown_word_logp if lm is not None else 0.0
        numbers = np.array([model.number(word) for word in words], np.int64)
        ahead = alpha * model.unigrams(np.append(numbers, model.arrays.unknown))
        trie = build_trie(words, numbers, ahead[:-1], self._codes)
        self._weights = Weights(
            alpha=alpha,
            beta=settings.beta,
            penalty=penalty,
            unknown_ahead=float(ahead[-1]) + penalty,
            hotword=0.0,
            has_ngram=int(lm is not None),
            has_mixture=int(mixed),
            has_hotwords=0,
            width=settings.beam_width,
            prune=settings.beam_prune_logp,
            optimistic=int(alpha >= 0.0 and penalty <= 0.0),
        )
        pieces = _pieces_as_letters(tokenizer, self._pieces_text, self._codes)
        prefix_search.place_pieces(trie, pieces)
        self._search = Search(
            model.arrays, mixture, trie, pieces, build_hotwords([], self._codes), self._weights
        )
        self._context_size = CONTEXT_SIZE * (1 + mixed)
        # The same list comes again with a caller's next recording.
        self._automaton = functools.lru_cache(maxsize=HOTWORD_LISTS)(self._build_automaton)
        self._code_of_point = _by_code_point({" ": SPACE, **self._codes})
        self._longest_piece = max(map(len, self._pieces_text))
        self._n_last = 2 + self._longest_piece
        max_tokens = settings.max_tokens_per_frame
        self._pool = MemoryPool(
            functools.partial(
                new_room, settings.beam_width, self._n_last, self._context_size, self._vocab_size, max_tokens
            ),
            SearchRoom.is_small,
        )
        self._spelling = _as_code_points(self._pieces_text)
        self._exact = ExactSpelling(tokenizer.pieces) if tokenizer.separator_id is None else None
        self.decode(np.zeros((1, self._vocab_size)))  # compiles

    def decode(
        self,
        log_probs_TV: NDArray[np.floating[Any]],
        *,
        hotwords: Sequence[str] = (),
        hotword_weight: float | None = None,
        deadline_s: float | None = None,
        limit: int | None = None,
    ) -> list[Hypothesis]:
        """Up to `beam_width` different texts, best first, equal totals in alphabetical order; never empty.

        `log_probs_TV`: natural-log posteriors (T, V), T may be 0. `hotwords`: words and phrases, normalised
        like transcripts; those that the pieces cannot spell have no effect. `hotword_weight` None is the
        settings'. `deadline_s`: seconds that this call may take, looked at every 128 frames. `limit`: texts
        answered, the best of all; None: no limit. `acoustic` sums
        the text's paths that the search kept. Raises DecodingTimeoutError, and ValueError on a wrong shape or
        NaN.
        """
        return self.find(
            log_probs_TV,
            hotwords=hotwords,
            hotword_weight=hotword_weight,
            deadline_s=deadline_s,
            limit=limit,
        ).hypotheses()

    def find(
        self,
        log_probs_TV: NDArray[np.floating[Any]],
        *,
        hotwords: Sequence[str] = (),
        hotword_weight: float | None = None,
        deadline_s: float | None = None,
        limit: int | None = None,
    ) -> Found:
        """What `decode` answers, as arrays."""
        started_s = time.monotonic()
        kept_TV = search_candidates(log_probs_TV, self._vocab_size, self._settings)
        search = self._searching(hotwords, hotword_weight)
        return self._find(search, kept_TV, started_s, deadline_s, limit)

    def score(
        self,
        log_probs_TV: NDArray[np.floating[Any]],
        texts: Sequence[str],
        *,
        hotwords: Sequence[str] = (),
        hotword_weight: float | None = None,
    ) -> list[Hypothesis]:
        """Texts that others have found as `decode` would have scored them, in the order given.

        texts: words with single spaces between them, of letters that the pieces or the n-gram's words have.
        `acoustic` sums all of the text's paths, those over labels that the search does not try, too. Raises
        ValueError on a wrong shape or NaN, and for a tokenizer with a separator between words.
        """
        found = texts_of(texts)
        return self.scored(
            log_probs_TV, found, text_trie(found), hotwords=hotwords, hotword_weight=hotword_weight
        ).hypotheses()

    def scored(
        self,
        log_probs_TV: NDArray[np.floating[Any]],
        texts: Texts,
        trie: TextTrie,
        *,
        hotwords: Sequence[str] = (),
        hotword_weight: float | None = None,
    ) -> Found:
        """What `score` answers, as arrays. trie: of the texts."""
        if self._exact is None:
            raise ValueError("texts cannot be scored where words have a separator between them")
        checked_TV = checked_log_probs(log_probs_TV, self._vocab_size)
        parts_X6 = np.zeros((len(trie.last), 6))
        parts_X6[:, ACOUSTIC] = self._exact.trie_logps(prior_divided(checked_TV, self._settings), trie)
        parts = self._language_parts(self._searching(hotwords, hotword_weight), trie)
        parts_X6[:, 1:3], parts_X6[:, LENGTH] = parts[:, 1:3], self._settings.beta * parts[:, 3]
        return Found(texts, parts_X6)

    def _language_parts(self, search: Search, trie: TextTrie) -> NDArray[np.float64]:
        """(X, 4), of which the first column is for acoustics."""
        beam = new_beam(1 + int(trie.depth.max(initial=0)), 1, self._context_size)
        work = new_workspace(1, 1, self._vocab_size, 1)
        letters, ends = np.empty(len(trie.words.points), np.int64), np.empty((len(trie.depth), 4))
        parts = np.zeros((len(trie.last), 4))
        codes = self._code_of_point
        if not text_scores.score_language(search, beam, work, trie, codes, letters, ends, parts):
            raise ValueError("a text has letters that neither the pieces nor the n-gram's words have")
        return parts

    def _searching(self, hotwords: Sequence[str], hotword_weight: float | None) -> Search:
        """The search for a request's hotwords."""
        weight = self._settings.hotword_weight if hotword_weight is None else hotword_weight
        automaton = self._automaton(tuple(hotwords)) if weight > 0 and len(hotwords) else None
        if automaton is None:
            return self._search
        weights = self._weights._replace(hotword=weight, has_hotwords=1)
        return self._search._replace(hotwords=automaton, weights=weights)

    def _find(
        self,
        search: Search,
        kept_TV: NDArray[np.float64],
        started_s: float,
        deadline_s: float | None,
        limit: int | None,
    ) -> Found:
        n_frames, n_texts, n_nodes = len(kept_TV), 1, 1
        parts = np.empty((0, 4))
        with self._pool.one() as room:
            room.begin(1 + n_frames * search.weights.width)
            for first in range(0, max(n_frames, 1), _FRAMES_AT_ONCE):
                if deadline_s is not None and time.monotonic() - started_s >= deadline_s:
                    raise DecodingTimeoutError(f"beam search passed its {deadline_s:g} s")
                frames_TV = kept_TV[first : first + _FRAMES_AT_ONCE]
                if first + len(frames_TV) == n_frames:
                    parts = np.empty((search.weights.width, 4))
                n_texts, n_nodes, swapped = prefix_search.search_frames(
                    search,
                    room.beam,
                    room.spare,
                    n_texts,
                    room.work,
                    room.history,
                    n_nodes,
                    first,
                    frames_TV,
                    parts,
                )
                if swapped:
                    room.beam, room.spare = room.spare, room.beam
            return self._found(room.beam.texts[:n_texts], parts[:n_texts], room.history, limit)

    def _found(
        self,
        beam_texts: NDArray[Any],
        parts: NDArray[np.float64],
        history: History,
        limit: int | None,
    ) -> Found:
        texts = self._spelled(beam_texts, history)
        if self._search.pieces.separator >= 0:  # of two texts that are the same one ends in it
            texts, parts = _added_up(strings_of(texts), parts)
        parts_X6 = np.zeros((len(parts), 6))
        parts_X6[:, :3], parts_X6[:, LENGTH] = parts[:, :3], self._settings.beta * parts[:, 3]
        return ranked(Found(texts, parts_X6), limit)

    def _spelled(self, texts: NDArray[Any], history: History) -> Texts:
        n_tokens = texts["n_tokens"]
        tokens = np.empty(int(n_tokens.max()), np.int64)
        written = np.empty(int(n_tokens.sum()) * self._longest_piece + len(texts), np.uint32)
        size = prefix_search.spell_texts(history, texts, self._spelling, tokens, written)
        return lines_of(written[:size], len(texts))

    def _build_automaton(self, hotwords: tuple[str, ...]) -> HotwordTrie | None:
        """None where the pieces can spell none of them."""
        phrases = sorted({" ".join(phrase_of(term)) for term in hotwords if term.split()})
        letters = {" ", *self._codes}
        spellable = [phrase for phrase in phrases if letters.issuperset(phrase)]
        return build_hotwords(spellable, self._codes) if spellable else None


def _pieces_as_letters(tokenizer: Tokenizer, pieces: Sequence[str], codes: dict[str, int]) -> Pieces:
    separator = -1 if tokenizer.separator_id is None else tokenizer.separator_id
    letters: list[int] = []
    first, factors, terms = [0], [], []
    mask = (1 << 64) - 1
    for piece in pieces:
        factor, term = 1, 0
        for character in piece.replace(" ", ""):
            letters.append(codes[character])
            factor = factor * int(prefix_search.FACTOR) & mask
            term = (term * int(prefix_search.FACTOR) + codes[character] + 1) & mask
        first.append(len(letters))
        factors.append(factor)
        terms.append(term)
    return Pieces(
        blank=tokenizer.blank_id,
        separator=separator,
        starts=np.array([piece.startswith(" ") and piece != " " for piece in pieces], np.int32),
        letters=np.array(letters, np.int32),
        first=np.array(first, np.int32),
        factor=np.array(factors, np.uint64),
        term=np.array(terms, np.uint64),
        trie=np.zeros(len(pieces), np.int32),
    )


def _as_code_points(pieces: Sequence[str]) -> Spelling:
    return Spelling(
        points=np.array([ord(character) for piece in pieces for character in piece], np.uint32),
        first=np.cumsum([0, *map(len, pieces)], dtype=np.int32),
    )


def _by_code_point(codes: dict[str, int]) -> NDArray[np.int64]:
    """Each code point's code; -1 for those without, of which the last is one."""
    table = np.full(max(map(ord, codes)) + 2, -1)
    table[[ord(letter) for letter in codes]] = list(codes.values())
    return table


def _added_up(texts: Sequence[str], parts: NDArray[np.float64]) -> tuple[Texts, NDArray[np.float64]]:
    """Each text once, the paths of all that spell it added up."""
    rows: dict[str, NDArray[np.float64]] = {}
    for text, row in zip(texts, parts, strict=True):
        if text in rows:
            row[0] = np.logaddexp(rows[text][0], row[0])
        rows[text] = row
    return texts_of(list(rows)), np.array(list(rows.values()))


@functools.cache
def no_ngram() -> ArrayNgram:
    """Stands where kernels take a model that they never ask."""
    one = np.zeros(4, np.float32)
    words = [END, BEGIN, UNKNOWN, "a"]
    return ArrayNgram.of(NgramTable(words, [Level(np.arange(4), one, one)]))


@functools.cache
def no_mixture() -> Mixture:
    """Stands where kernels take a mixture that they never ask."""
    return Mixture(no_ngram().arrays, np.zeros(0, np.int64), 0, 0.0)
