"""Beam search's answer as everyone gets it: by pieces, by phones where the model hears them, in one list.

Shapes: T frames of pieces, V pieces, P phones (blanks included).
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding.languages import Language
from asr.decoding.native_beam import NativeBeamDecoder
from asr.decoding.options import PRONUNCIATION_NBEST, DecodingSettings
from asr.decoding.pronunciation_rescoring import hopeful, rescored_by_pronunciation
from asr.decoding.pronunciation_scores import Pronouncing
from asr.decoding.result import Hypothesis
from asr.errors import DecodingTimeoutError


def search_both(
    language: Language,
    pieces_TV: NDArray[np.floating[Any]],
    phones_TP: NDArray[np.floating[Any]] | None,
    pronunciations: Pronouncing | None,
    settings: DecodingSettings,
    *,
    hotwords: Sequence[str] = (),
    hotword_weight: float | None = None,
    limit: int | None = None,
    deadline: float | None = None,
) -> list[Hypothesis]:
    """Texts best first, at least one and up to `limit`. phones_TP: (2T, P), None where the model has none.

    Where there is a search over phones, the texts of both searches are scored alike, by whole sums over the
    pieces. deadline: on `time.monotonic`'s clock. Raises DecodingTimeoutError.
    """
    wanted = settings.pronunciation_nbest or PRONUNCIATION_NBEST
    hears_phones = phones_TP is not None and pronunciations is not None
    hypotheses = language.beam.decode(
        pieces_TV,
        hotwords=hotwords,
        hotword_weight=hotword_weight,
        deadline_s=seconds_left(deadline),
        limit=limit if limit is None or not hears_phones else max(limit, wanted),
    )
    if phones_TP is None or pronunciations is None:
        return hypotheses
    others: list[Hypothesis] = []
    if language.phones is not None:
        assert isinstance(language.beam, NativeBeamDecoder)
        found = language.phones.decode(phones_TP, limit=wanted, deadline_s=seconds_left(deadline))
        texts = [hypothesis.text for hypothesis in hopeful(hypotheses, settings)]
        known = set(texts)
        scored = language.beam.score(
            pieces_TV,
            texts + [hypothesis.text for hypothesis in found if hypothesis.text not in known],
            hotwords=hotwords,
            hotword_weight=hotword_weight,
        )
        hypotheses, others = scored[: len(texts)], scored[len(texts) :]
    return rescored_by_pronunciation(hypotheses, phones_TP, pronunciations, settings, others, limit)


def seconds_left(deadline: float | None) -> float | None:
    """Until the deadline. Raises DecodingTimeoutError when it has passed."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise DecodingTimeoutError("the time for decoding is up")
    return left
