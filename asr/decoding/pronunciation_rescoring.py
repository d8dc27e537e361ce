"""Beam search's texts heard a second time: by their words' pronunciations.

The acoustic model has two output layers, over pieces and over phones. Beam search goes through pieces, and
English spelling is hard to learn from little speech; phones are easier, and what the two get wrong differs.
So the best texts are scored by both, `pronunciation_weight` being the phones' share.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding.options import PRONUNCIATION_NBEST, DecodingSettings
from asr.decoding.posteriors import divided_by_prior
from asr.decoding.pronunciation_scores import Pronouncing, pronunciation_logps
from asr.decoding.result import ACOUSTIC, PRONUNCIATION, Hypothesis, best_of, parts_of, totals_of

HOPELESS = 30.0  # below beam search's best: such texts end in the beginning of a word, as a rule


def rescored_by_pronunciation(
    hypotheses: Sequence[Hypothesis],
    phones_TP: NDArray[np.floating[Any]],
    pronunciations: Pronouncing,
    settings: DecodingSettings,
    limit: int | None = None,
) -> list[Hypothesis]:
    """The best `pronunciation_nbest` hypotheses in the order of both, equal totals in alphabetical order.

    limit: no more than so many of them are answered. phones_TP: natural-log posteriors of phones, (T, P),
    blank first. `acoustic` and `pronunciation` are weighted so that they add up to one. Hypotheses beyond
    those, and hopeless ones, are left out: nothing compares them.
    """
    weight = settings.pronunciation_weight
    if not weight or not len(phones_TP):
        return list(hypotheses[:limit])
    best = hypotheses[: settings.pronunciation_nbest or PRONUNCIATION_NBEST]
    parts_N6 = parts_of(best)
    totals_N = totals_of(parts_N6)
    kept = np.flatnonzero(totals_N >= totals_N[0] - HOPELESS)
    texts, rescored_N6 = [best[i].text for i in kept.tolist()], parts_N6[kept]
    rescored_N6[:, ACOUSTIC] *= 1 - weight
    rescored_N6[:, PRONUNCIATION] = weight * pronunciation_logps(
        divided(phones_TP, settings), texts, pronunciations
    )
    return best_of(texts, rescored_N6, limit)


def divided(phones_TP: NDArray[np.floating[Any]], settings: DecodingSettings) -> NDArray[np.floating[Any]]:
    """By the phones' prior where the settings say so."""
    if not (settings.phone_prior_weight and settings.phone_prior):
        return phones_TP
    return divided_by_prior(phones_TP, np.array(settings.phone_prior), settings.phone_prior_weight)
