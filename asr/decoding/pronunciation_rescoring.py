"""Beam search's texts heard a second time: by their words' pronunciations.

The acoustic model has two output layers, over pieces and over phones. Beam search goes through pieces, and
English spelling is hard to learn from little speech; phones are easier, and what the two get wrong differs.
So the best texts are scored by both, `pronunciation_weight` being the phones' share. Where there is a search
over phones, too, its texts join them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding.options import PRONUNCIATION_NBEST, DecodingSettings
from asr.decoding.posteriors import divided_by_prior
from asr.decoding.pronunciation_scores import Pronouncing, pronunciation_logps
from asr.decoding.result import Hypothesis

HOPELESS = 30.0  # below beam search's best: such texts end in the beginning of a word, as a rule


def rescored_by_pronunciation(
    hypotheses: Sequence[Hypothesis],
    phones_TP: NDArray[np.floating[Any]],
    pronunciations: Pronouncing,
    settings: DecodingSettings,
    others: Sequence[Hypothesis] = (),
) -> list[Hypothesis]:
    """The best `pronunciation_nbest` hypotheses in the order of both, equal totals in alphabetical order.

    phones_TP: natural-log posteriors of phones, (T, P), blank first. `acoustic` and `pronunciation` are
    weighted so that they add up to one. Hypotheses beyond those, and hopeless ones, are left out: nothing
    compares them. others: what a search over phones found, scored by pieces like the hypotheses, in any
    order; of these such are left out that are hopeless when both have scored them.
    """
    weight = settings.pronunciation_weight
    if not weight or not len(phones_TP):
        return list(hypotheses)
    kept = hopeful(hypotheses, settings)
    texts = {hypothesis.text for hypothesis in kept}
    kept += [hypothesis for hypothesis in others if hypothesis.text not in texts]
    logps = pronunciation_logps(
        divided(phones_TP, settings), [hypothesis.text for hypothesis in kept], pronunciations
    )
    rescored = [
        replace(
            h, scores=replace(h.scores, acoustic=(1 - weight) * h.scores.acoustic, pronunciation=weight * p)
        )
        for h, p in zip(kept, logps.tolist(), strict=True)
    ]
    least = max(h.scores.total for h in rescored) - HOPELESS
    rescored = [h for h in rescored if h.text in texts or h.scores.total >= least]
    return sorted(rescored, key=lambda h: (-h.scores.total, h.text))


def hopeful(hypotheses: Sequence[Hypothesis], settings: DecodingSettings) -> list[Hypothesis]:
    """Those of beam search's list, best first, that phones score."""
    least = hypotheses[0].scores.total - HOPELESS
    best = hypotheses[: settings.pronunciation_nbest or PRONUNCIATION_NBEST]
    return [hypothesis for hypothesis in best if hypothesis.scores.total >= least]


def divided(phones_TP: NDArray[np.floating[Any]], settings: DecodingSettings) -> NDArray[np.floating[Any]]:
    """By the phones' prior where the settings say so."""
    if not (settings.phone_prior_weight and settings.phone_prior):
        return phones_TP
    return divided_by_prior(phones_TP, np.array(settings.phone_prior), settings.phone_prior_weight)
