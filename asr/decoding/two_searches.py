"""Beam search's answer as everyone gets it: by pieces, by phones where the model hears them, in one list.

Shapes: T frames of pieces, V pieces, P phones (blanks included).
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding.beam import BeamDecoder
from asr.decoding.found import Found, found_of
from asr.decoding.languages import Language
from asr.decoding.native_beam import NativeBeamDecoder
from asr.decoding.options import PRONUNCIATION_NBEST, DecodingSettings
from asr.decoding.pronunciation_rescoring import hopeful, rescored_by_pronunciation, rescored_together
from asr.decoding.pronunciation_scores import Pronouncing
from asr.decoding.result import Hypothesis
from asr.decoding.text_arrays import joined
from asr.decoding.text_trie import text_trie
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
    if phones_TP is None or pronunciations is None:
        return language.beam.decode(
            pieces_TV,
            hotwords=hotwords,
            hotword_weight=hotword_weight,
            deadline_s=seconds_left(deadline),
            limit=limit,
        )
    wanted = settings.pronunciation_nbest or PRONUNCIATION_NBEST
    most = None if limit is None else max(limit, wanted)
    found = _found_by_pieces(language.beam, pieces_TV, hotwords, hotword_weight, seconds_left(deadline), most)
    if language.phones is None or not len(phones_TP):
        return rescored_by_pronunciation(found, phones_TP, pronunciations, settings, limit).hypotheses()
    assert isinstance(language.beam, NativeBeamDecoder)
    own = hopeful(found, settings).texts
    others = language.phones.find(phones_TP, limit=wanted, deadline_s=seconds_left(deadline)).texts
    texts = joined(own, others)
    trie = text_trie(texts)
    scored = language.beam.scored(pieces_TV, texts, trie, hotwords=hotwords, hotword_weight=hotword_weight)
    n_own = len(own.first) - 1
    return rescored_together(scored, n_own, trie, phones_TP, pronunciations, settings, limit).hypotheses()


def _found_by_pieces(
    beam: BeamDecoder,
    pieces_TV: NDArray[np.floating[Any]],
    hotwords: Sequence[str],
    hotword_weight: float | None,
    deadline_s: float | None,
    limit: int | None,
) -> Found:
    if isinstance(beam, NativeBeamDecoder):
        return beam.find(
            pieces_TV,
            hotwords=hotwords,
            hotword_weight=hotword_weight,
            deadline_s=deadline_s,
            limit=limit,
        )
    return found_of(
        beam.decode(
            pieces_TV,
            hotwords=hotwords,
            hotword_weight=hotword_weight,
            deadline_s=deadline_s,
            limit=limit,
        )
    )


def seconds_left(deadline: float | None) -> float | None:
    """Until the deadline. Raises DecodingTimeoutError when it has passed."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise DecodingTimeoutError("the time for decoding is up")
    return left
