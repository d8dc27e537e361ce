"""The reference engine: CTC prefix beam search on pyctcdecode 0.5.0 with its faults worked round.

- A lone word mark or <unk> that is a mere rival on a frame splits other beams' words: such tokenizers are
  refused.
- It guesses the alphabet's style, warns, and may add columns: the alphabet is built here, one label per
  column.
- Cost explodes with flat posteriors: at most `max_tokens_per_frame` labels are tried, with a deadline.
- `decode_beams` renormalises, which would hide what that cap took away: its search loop is fed directly.
- Its hotword scorer is slow: `asr.decoding.hotwords`.
- A binary n-gram has no word list, an ARPA's is read incompletely: ours carry the list.
- `lm_score` is the running total of everything: the parts are computed again from the text.
- Language models live in a class-level container: each search holds its own.
- Merged beams keep one beam's frames: they are ignored, `asr.decoding.alignment` places words.
- The empty text is scored as one unknown word, so silence becomes words: `_WordScorer.score`.
- Every text ever scored stays cached, so memory grows with the square of the length: dead texts are
  dropped.

Private methods are overridden, so the version is pinned; tests/test_pyctcdecode_beam.py has a test per fault.
Score of a text: acoustic + alpha x n-gram + unknown_word_logp x unknown words + beta x words + hotwords.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pyctcdecode.alphabet import Alphabet
from pyctcdecode.decoder import BeamSearchDecoderCTC
from pyctcdecode.language_model import AbstractLanguageModel

from asr.decoding.array_ngram import WordNgram
from asr.decoding.hotwords import HotwordScorer
from asr.decoding.options import DecodingSettings
from asr.decoding.pieces import check_pieces
from asr.decoding.posteriors import search_candidates
from asr.decoding.result import Hypothesis, Scores
from asr.errors import DecodingTimeoutError
from asr.tokenizer import Tokenizer

_MAX_CACHED_TEXTS = 20_000  # per decode call; each is at most as long as the transcript


class PyctcdecodeDecoder:
    """Prefix beam search over one tokenizer and one n-gram.

    Keeps no state between calls, so calls may overlap.
    """

    def __init__(self, tokenizer: Tokenizer, lm: WordNgram | None, settings: DecodingSettings) -> None:
        """Without an n-gram (`lm=None`) words still earn beta, and no word is unknown.

        Raises MismatchError when the tokenizer has a lone word mark, an unknown, or another piece that
        pyctcdecode would not take literally.
        """
        check_pieces(tokenizer)
        self._lm = lm
        self._settings = settings
        self._vocab_size = tokenizer.vocab_size
        labels = [" " if i == tokenizer.separator_id else p for i, p in enumerate(tokenizer.pieces)]
        is_bpe = tokenizer.separator_id is None
        self._search = _PrefixSearch(labels, is_bpe, _WordScorer(lm, settings))

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
        like transcripts; `hotword_weight` None is the settings'. `deadline_s`: seconds that this call may
        take, checked before each frame. `limit`: texts answered, the best of all; None: no limit. `acoustic`
        sums the text's paths that the search kept. Raises DecodingTimeoutError, and ValueError on a wrong
        shape or NaN.
        """
        started_s = time.monotonic()
        settings = self._settings
        weight = settings.hotword_weight if hotword_weight is None else hotword_weight
        kept = search_candidates(log_probs_TV, self._vocab_size, settings)
        scorer = HotwordScorer(hotwords, weight, self._lm, settings.unknown_word_logp)
        beams = self._search.run(_frames(kept, scorer, started_s, deadline_s), scorer, settings)
        found = [Hypothesis(text, self._scores(text, acoustic, scorer)) for text, acoustic in beams]
        return sorted(found, key=lambda h: (-h.scores.total, h.text))[:limit]

    def _scores(self, text: str, acoustic: float, scorer: HotwordScorer) -> Scores:
        settings = self._settings
        ngram, n_words = 0.0, len(text.split())
        if self._lm is not None:
            parts = self._lm.parts(text)
            ngram = settings.alpha * parts.logp + settings.unknown_word_logp * parts.n_unknown
        return Scores(acoustic, ngram=ngram, hotwords=scorer.score(text), length=settings.beta * n_words)


class _PrefixSearch(BeamSearchDecoderCTC):  # type: ignore[misc, unused-ignore]
    """pyctcdecode's search loop with a language model of its own and bounded caches."""

    def __init__(self, labels: list[str], is_bpe: bool, words: "_WordScorer") -> None:
        super().__init__(
            Alphabet(labels, is_bpe=is_bpe)
        )  # not build_alphabet: it guesses, warns and may add columns
        self.cleanup()  # leaves the class-level container as it was
        self._words = words

    @property
    def _language_model(self) -> "_WordScorer":
        return self._words

    def run(
        self, frames: Iterator[NDArray[np.float64]], scorer: HotwordScorer, settings: DecodingSettings
    ) -> list[tuple[str, float]]:
        """(text, log-probability over the paths kept) of the last beams; texts differ."""
        beams = self._decode_logits(
            cast(Any, frames),  # the loop only iterates over them
            beam_width=settings.beam_width,
            beam_prune_logp=settings.beam_prune_logp,
            token_min_logp=settings.token_min_logp,
            prune_history=False,  # would drop hypotheses that an n-best list must have
            hotword_scorer=cast(Any, scorer),  # has the methods that the loop calls
        )
        found: dict[str, float] = {}
        for text, _, _, acoustic, _ in beams:  # with a separator label, a text may or may not end in one
            found[text] = float(np.logaddexp(found.get(text, -np.inf), acoustic))
        return list(found.items())

    def _get_lm_beams(
        self,
        beams: list[Any],
        hotword_scorer: Any,
        cached_lm_scores: dict[Any, Any],
        cached_partial_token_scores: dict[str, float],
        is_eos: bool = False,
    ) -> list[Any]:
        scored = super()._get_lm_beams(
            beams, hotword_scorer, cached_lm_scores, cached_partial_token_scores, is_eos
        )
        if len(cached_lm_scores) > _MAX_CACHED_TEXTS and not is_eos:
            alive = {beam[0] for beam in scored}
            for key in [key for key in cached_lm_scores if key[0] not in alive]:
                del cached_lm_scores[key]
            cached_partial_token_scores.clear()
            hotword_scorer.forget_except(alive)
        return scored  # type: ignore[no-any-return, unused-ignore]


class _WordScorer(AbstractLanguageModel):  # type: ignore[misc, unused-ignore]
    """Weighted n-gram score per word, as pyctcdecode's loop asks for it."""

    def __init__(self, lm: WordNgram | None, settings: DecodingSettings) -> None:
        self._lm = lm
        self._settings = settings

    @property
    def order(self) -> int:
        return 1 if self._lm is None else self._lm.order

    def get_start_state(self) -> Any:
        return None if self._lm is None else self._lm.start_state()

    def score_partial_token(self, partial_token: str) -> float:
        """The unknown-word penalty, as soon as no word of the vocabulary starts so."""
        if self._lm is None or self._lm.has_prefix(partial_token):
            return 0.0
        return self._settings.unknown_word_logp

    def score(self, prev_state: Any, word: str, is_last_word: bool = False) -> tuple[float, Any]:
        """Score of a complete word, `</s>` added when it is the last, and the state after the word.

        The word is empty only at the end of an empty text: then `</s>` alone is scored.
        """
        score, state = 0.0, prev_state
        if word:
            score += self._settings.beta
            if self._lm is not None:
                logp, state = self._lm.advance(prev_state, word)
                score += self._settings.alpha * logp
                score += 0.0 if word in self._lm else self._settings.unknown_word_logp
        if is_last_word and self._lm is not None:
            score += self._settings.alpha * self._lm.advance(state, "</s>")[0]
        return score, state


def _frames(
    log_probs_TV: NDArray[np.float64], scorer: HotwordScorer, started_s: float, deadline_s: float | None
) -> Iterator[NDArray[np.float64]]:
    """The frames one by one. Raises DecodingTimeoutError between two; after the last, `scorer.finish()`."""
    for log_probs_V in log_probs_TV:
        if deadline_s is not None and time.monotonic() - started_s >= deadline_s:
            raise DecodingTimeoutError(f"beam search passed its {deadline_s:g} s")
        yield log_probs_V
    scorer.finish()
