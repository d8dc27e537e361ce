"""Beam search's texts heard a second time: by their words' pronunciations.

The acoustic model has two output layers, over pieces and over phones. Beam search goes through pieces, and
English spelling is hard to learn from little speech; phones are easier, and what the two get wrong differs.
So the best texts are scored by both, `pronunciation_weight` being the phones' share. Where there is a search
over phones, too, its texts join them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding.options import PRONUNCIATION_NBEST, DecodingSettings
from asr.decoding.posteriors import phones_divided
from asr.decoding.pronunciation_scores import Pronouncing, pronunciation_logps
from asr.decoding.result import ACOUSTIC, PRONUNCIATION, Hypothesis, best_of, parts_of, totals_of

HOPELESS = 30.0  # below beam search's best: such texts end in the beginning of a word, as a rule


def rescored_by_pronunciation(
    hypotheses: Sequence[Hypothesis],
    phones_TP: NDArray[np.floating[Any]],
    pronunciations: Pronouncing,
    settings: DecodingSettings,
    others: Sequence[Hypothesis] = (),
    limit: int | None = None,
) -> list[Hypothesis]:
    """The best `pronunciation_nbest` hypotheses in the order of both, equal totals in alphabetical order.

    phones_TP: natural-log posteriors of phones, (T, P), blank first. `acoustic` and `pronunciation` are
    weighted so that they add up to one. Hypotheses beyond those, and hopeless ones, are left out: nothing
    compares them. others: what a search over phones found, scored by pieces like the hypotheses, in any
    order; of these such are left out that are hopeless when both have scored them. limit: no more than so
    many are answered.
    """
    weight = settings.pronunciation_weight
    if not weight or not len(phones_TP):
        return list(hypotheses[:limit])
    kept = hopeful(hypotheses, settings)
    texts = [hypothesis.text for hypothesis in kept]
    known = set(texts)
    more = [hypothesis for hypothesis in others if hypothesis.text not in known]
    texts += [hypothesis.text for hypothesis in more]
    parts_N6 = parts_of([*kept, *more])
    parts_N6[:, ACOUSTIC] *= 1 - weight
    parts_N6[:, PRONUNCIATION] = weight * pronunciation_logps(
        phones_divided(phones_TP, settings), texts, pronunciations
    )
    totals_N = totals_of(parts_N6)
    hopeful_N = totals_N >= totals_N.max() - HOPELESS
    hopeful_N[: len(kept)] = True
    chosen = np.flatnonzero(hopeful_N)
    return best_of([texts[i] for i in chosen.tolist()], parts_N6[chosen], limit)


def hopeful(hypotheses: Sequence[Hypothesis], settings: DecodingSettings) -> list[Hypothesis]:
    """Those of beam search's list that phones score: the first ones, but for the hopeless."""
    totals_N = totals_of(parts_of(hypotheses))
    best_N = totals_N[: settings.pronunciation_nbest or PRONUNCIATION_NBEST]
    return [hypotheses[i] for i in np.flatnonzero(best_N >= totals_N.max() - HOPELESS).tolist()]
