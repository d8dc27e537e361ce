"""What a bundle must do before it is served: hear and decode a seeded signal, twice the same."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from asr.audio import SAMPLE_RATE, Samples
from asr.decoding.options import DECODERS, DecodingOptions
from asr.errors import BundleError

if TYPE_CHECKING:  # the transcriber has this as a method
    from asr.transcriber import Transcriber


def self_test(transcriber: "Transcriber") -> None:
    """Decode seeded tones and noise twice with every decoder. Raises BundleError saying what is wrong."""
    prepared = transcriber.prepare_samples(_test_signal())
    posteriors, again = (transcriber.listen_batch([prepared])[0] for _ in range(2))
    log_probs_TV = posteriors.log_probs
    if not len(log_probs_TV) or not np.isfinite(log_probs_TV).all():
        raise BundleError("self-test: the acoustic model gives no finite log-probabilities")
    if not np.allclose(np.exp(log_probs_TV.astype(np.float64)).sum(axis=1), 1.0, atol=1e-3):
        raise BundleError("self-test: the acoustic model's probabilities do not add up to one")
    if not np.array_equal(log_probs_TV, again.log_probs):
        raise BundleError("self-test: the acoustic model gives other values the second time")
    for decoder in DECODERS:
        options = DecodingOptions(decoder, nbest=5, word_timestamps=True)
        try:
            first, second = (
                replace(transcriber.decode(posteriors, options), timings_ms={}) for _ in range(2)
            )
        except Exception as error:
            raise BundleError(f"self-test: decoder {decoder} fails: {error}") from error
        if first != second:
            raise BundleError(f"self-test: decoder {decoder} gives another answer the second time")
        if not all(math.isfinite(hypothesis.scores.total) for hypothesis in first.hypotheses):
            raise BundleError(f"self-test: decoder {decoder} gives scores that are not finite")


def _test_signal() -> Samples:
    """Two seconds of gated tones over seeded noise."""
    rng = np.random.default_rng(0)
    time_s = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    tones = sum(np.sin(2 * np.pi * hz * time_s) for hz in (220.0, 700.0, 1900.0))
    gate = np.sin(2 * np.pi * 4 * time_s) > 0
    signal = 0.1 * tones * gate + 0.02 * rng.standard_normal(len(time_s))
    samples: Samples = signal.astype(np.float32)
    return samples
