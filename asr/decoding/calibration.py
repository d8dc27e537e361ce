"""From the evidence for a word to the probability that it is right: one logistic map per decoder.

Fitted on dev by `asr-train calibrate`, kept in bundle.json; a bundle without it answers uncalibrated entropy
confidence and says so. Beside it the constant by which CTC's times are off: its peaks lag behind the
beginning of a word and come before its end.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding.evidence import FEATURES
from asr.decoding.options import DECODERS
from asr.errors import MismatchError

MOST_SHIFT_S = 0.5  # a larger correction is a broken alignment


@dataclass(frozen=True)
class LogisticMap:
    """p = 1 / (1 + exp(-(bias + weights . features)))."""

    bias: float
    weights: Mapping[str, float]  # one for each of FEATURES

    def probability(self, features_WF: NDArray[np.float64]) -> NDArray[np.float64]:
        """(W, F) -> (W,), 0-1."""
        score_W = self.bias + features_WF @ np.array([self.weights[name] for name in FEATURES])
        probability_W: NDArray[np.float64] = 0.5 * (1.0 + np.tanh(0.5 * score_W))  # no overflow
        return probability_W


@dataclass(frozen=True)
class Calibration:
    """What a bundle has learned on dev about its own words."""

    acoustic_sha256: str  # of the acoustic weights that it was fitted for
    maps: Mapping[str, LogisticMap]  # by decoder
    start_shift_s: float = 0.0  # added to the times at which words begin
    end_shift_s: float = 0.0  # added to the times at which they end

    def as_json(self) -> dict[str, Any]:
        """For bundle.json."""
        maps = {name: {"bias": m.bias, "weights": dict(m.weights)} for name, m in self.maps.items()}
        shifts = {"start_shift_s": self.start_shift_s, "end_shift_s": self.end_shift_s}
        return {"acoustic_sha256": self.acoustic_sha256, **shifts, "maps": maps}


def calibration_from_json(section: Any) -> Calibration:
    """Raises MismatchError naming what is wrong with bundle.json's section."""
    if not isinstance(section, Mapping):
        raise MismatchError("calibration must be an object")
    keys = {"acoustic_sha256", "start_shift_s", "end_shift_s", "maps"}
    if set(section) != keys:
        raise MismatchError(f"calibration has the keys {sorted(section)}, expected {sorted(keys)}")
    maps = section["maps"]
    if not isinstance(maps, Mapping) or not set(maps) <= set(DECODERS):
        raise MismatchError(f"calibration.maps must have only {', '.join(DECODERS)}")
    shifts = [_number(section[key], f"calibration.{key}") for key in ("start_shift_s", "end_shift_s")]
    if max(map(abs, shifts)) > MOST_SHIFT_S:
        raise MismatchError(f"calibration shifts times by {shifts} s, at most {MOST_SHIFT_S} is believed")
    return Calibration(
        acoustic_sha256=str(section["acoustic_sha256"]),
        maps={name: _map(values, f"calibration.maps.{name}") for name, values in maps.items()},
        start_shift_s=shifts[0],
        end_shift_s=shifts[1],
    )


def _map(values: Any, where: str) -> LogisticMap:
    if not isinstance(values, Mapping) or set(values) != {"bias", "weights"}:
        raise MismatchError(f"{where} must have bias and weights")
    weights = values["weights"]
    if not isinstance(weights, Mapping) or set(weights) != set(FEATURES):
        raise MismatchError(f"{where}.weights must have exactly {', '.join(FEATURES)}: calibrate again")
    return LogisticMap(
        _number(values["bias"], f"{where}.bias"),
        {name: _number(weights[name], f"{where}.weights.{name}") for name in FEATURES},
    )


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise MismatchError(f"{where} is {value!r}, expected a finite number")
    return float(value)
