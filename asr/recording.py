"""A recording on its way to words, before any decoder.

Shapes: T frames, F mel bands, V CTC outputs and P phones (blanks included).
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from asr.acoustic.phones import PHONE_FRAMES, split_rows
from asr.decoding.options import DecoderName


@dataclass(frozen=True)
class Prepared:
    """A recording as the acoustic model reads it."""

    features: torch.Tensor  # (T, F), feature frames; T is 0 for silence and for less than one output frame
    duration_s: float  # of the decoded audio
    timings_ms: dict[str, float] = field(default_factory=dict)  # audio, features
    clipped: float = 0.0  # share of the samples at full scale
    silent: float = 0.0  # share of the time without sound
    phones: bool = True  # whether they will be asked for: greedy decoding does not

    def for_decoder(self, decoder: DecoderName) -> "Prepared":
        """Without the work that the decoder has no use for."""
        return replace(self, phones=decoder != "greedy")


@dataclass(frozen=True)
class Posteriors:
    """What the acoustic model heard, from which every decoder starts."""

    log_probs: NDArray[np.float32]  # (T, V), natural logarithm; T is 0 where there were no features
    duration_s: float  # of the decoded audio
    timings_ms: dict[str, float] = field(default_factory=dict)  # audio, features, acoustic
    phones: NDArray[np.float32] | None = None  # (2T, P), of a model that hears phones too

    @classmethod
    def of_rows(
        cls, rows_TC: NDArray[Any], vocab_size: int, duration_s: float, timings_ms: dict[str, float]
    ) -> "Posteriors":
        """rows_TC: as the acoustic model gives them, see `asr.acoustic.phones`."""
        if rows_TC.shape[1] == vocab_size:
            return cls(rows_TC, duration_s, timings_ms)
        pieces_TV, phones_TP = split_rows(rows_TC, vocab_size)
        return cls(np.ascontiguousarray(pieces_TV), duration_s, timings_ms, np.ascontiguousarray(phones_TP))

    @property
    def rows(self) -> NDArray[np.float32]:
        """(T, V + 2P), what `of_rows` takes."""
        if self.phones is None:
            return self.log_probs
        n_frames, n_phones = len(self.log_probs), self.phones.shape[1]
        phones_TC = self.phones.reshape(n_frames, PHONE_FRAMES * n_phones)
        return np.concatenate([self.log_probs, phones_TC], axis=1)
