"""Beam search's texts heard a second time: by their words' pronunciations.

The acoustic model has two output layers, over pieces and over phones. Beam search goes through pieces, and
English spelling is hard to learn from little speech; phones are easier, and what the two get wrong differs.
So the best texts are scored by both, `pronunciation_weight` being the phones' share. Where there is a search
over phones, too, its texts join them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding.found import Found, at_places, ranked
from asr.decoding.options import PRONUNCIATION_NBEST, DecodingSettings
from asr.decoding.posteriors import phones_divided
from asr.decoding.pronunciation_scores import Pronouncing, trie_logps
from asr.decoding.result import ACOUSTIC, PRONUNCIATION, totals_of
from asr.decoding.text_arrays import longest_words
from asr.decoding.text_trie import TextTrie, text_trie

HOPELESS = 30.0  # below beam search's best: such texts end in the beginning of a word, as a rule
LONGEST_WORD = (
    100  # letters; over noise beam search writes longer ones, of which no two texts need be compared
)


def rescored_by_pronunciation(
    found: Found,
    phones_TP: NDArray[np.floating[Any]],
    pronunciations: Pronouncing,
    settings: DecodingSettings,
    limit: int | None = None,
) -> Found:
    """The best `pronunciation_nbest` texts in the order of both, equal totals in alphabetical order.

    found: best first. phones_TP: natural-log posteriors of phones, (T, P), blank first. `acoustic` and
    `pronunciation` are weighted so that they add up to one. Texts beyond those, and hopeless ones, are left
    out: nothing compares them. limit: no more than so many are answered.
    """
    if not settings.pronunciation_weight or not len(phones_TP):
        return at_places(found, np.arange(len(found.parts_X6))[:limit])
    kept = hopeful(found, settings)
    both = both_heard(kept, text_trie(kept.texts), phones_TP, pronunciations, settings)
    return ranked(both, limit)


def rescored_together(
    scored: Found,
    n_own: int,
    trie: TextTrie,
    phones_TP: NDArray[np.floating[Any]],
    pronunciations: Pronouncing,
    settings: DecodingSettings,
    limit: int | None = None,
) -> Found:
    """The same for texts of which only the first `n_own` are beam search's, and a search over phones found
    the others: all are scored alike by pieces, and in any order.

    trie: of the texts. Of the others such are left out that are hopeless when both have scored them.
    """
    spelled_X = totals_of(scored.parts_X6)
    is_other_X = np.arange(len(spelled_X)) >= n_own
    kept_X = (spelled_X >= spelled_X[:n_own].max() - HOPELESS) & ~is_other_X
    both = both_heard(scored, trie, phones_TP, pronunciations, settings)
    totals_X = totals_of(both.parts_X6)
    hopeful_X = totals_X >= totals_X[kept_X | is_other_X].max() - HOPELESS
    return ranked(at_places(both, np.flatnonzero(kept_X | (hopeful_X & is_other_X))), limit)


def hopeful(found: Found, settings: DecodingSettings) -> Found:
    """Those of beam search's list that phones score: the first ones, but for the hopeless.

    found: best first. Texts with a word that is longer than any are left out, unless it is the best.
    """
    totals_X = totals_of(found.parts_X6)
    best_X = totals_X[: settings.pronunciation_nbest or PRONUNCIATION_NBEST]
    kept_X = best_X >= totals_X.max() - HOPELESS
    kept_X[1:] &= longest_words(found.texts)[1 : len(best_X)] <= LONGEST_WORD
    return at_places(found, np.flatnonzero(kept_X))


def both_heard(
    found: Found,
    trie: TextTrie,
    phones_TP: NDArray[np.floating[Any]],
    pronunciations: Pronouncing,
    settings: DecodingSettings,
) -> Found:
    """The same texts with the phones' say. trie: of the texts."""
    weight = settings.pronunciation_weight or 0.0
    parts_X6 = found.parts_X6.copy()
    parts_X6[:, ACOUSTIC] *= 1 - weight
    parts_X6[:, PRONUNCIATION] = weight * trie_logps(
        phones_divided(phones_TP, settings), trie, pronunciations
    )
    return Found(found.texts, parts_X6)
