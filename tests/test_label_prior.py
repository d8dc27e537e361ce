"""Posteriors divided by the labels' prior before beam search."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asr.bundle import Bundle
from asr.decoding.beam import make_beam_decoder
from asr.decoding.options import DecodingOptions, DecodingSettings
from asr.decoding.posteriors import divided_by_prior, mean_posterior
from asr.errors import MismatchError, OptionsError
from asr.tokenizer import Tokenizer
from asr.transcriber import Posteriors, Transcriber


def _log_probs(n_frames: int, n_outputs: int, seed: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(scale=2.0, size=(n_frames, n_outputs))
    logits[:, 0] += 3.0  # the blank is frequent
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def test_the_quotient_is_a_distribution_and_weight_zero_changes_nothing() -> None:
    log_probs = _log_probs(50, 8, seed=1)
    prior = np.array(mean_posterior([log_probs]))
    divided = divided_by_prior(log_probs, prior, 0.4)
    assert np.allclose(np.exp(divided).sum(axis=1), 1.0)
    assert np.allclose(divided_by_prior(log_probs, prior, 0.0), log_probs)
    # Between two labels of one frame the odds change by exactly the ratio of their priors to that power.
    odds = (divided[:, 0] - divided[:, 3]) - (log_probs[:, 0] - log_probs[:, 3])
    assert np.allclose(odds, -0.4 * (np.log(prior[0]) - np.log(prior[3])))
    assert (divided[:, 0] < log_probs[:, 0]).all()  # the most frequent label always loses


def test_the_mean_posterior_counts_frames_alike_and_is_never_nothing() -> None:
    short, long = _log_probs(1, 5, seed=2), _log_probs(99, 5, seed=3)
    long[:, 4] = -np.inf
    short[:, 4] = -np.inf
    mean = mean_posterior([short, long])
    assert np.allclose(mean[:4], np.exp(np.concatenate([short, long])).mean(axis=0)[:4], rtol=1e-3)
    assert mean[4] == 1e-6


def test_beam_search_divides_and_greedy_does_not(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    n_outputs = bundle.settings.acoustic.vocab_size
    log_probs = _log_probs(40, n_outputs, seed=4).astype(np.float32)
    prior = tuple(mean_posterior([log_probs]))
    decoding = replace(bundle.settings.decoding, prior_weight=0.5, label_prior=prior)
    contents = {name: bundle.path / name for name in bundle.files}
    Bundle.save(tmp_path / "divided", replace(bundle.settings, decoding=decoding), contents)

    plain, divided = Transcriber.load(tiny_bundle, "cpu"), Transcriber.load(tmp_path / "divided", "cpu")
    assert divided.settings == decoding  # bundle.json keeps the prior
    posteriors = Posteriors(log_probs, 1.0)
    greedy = DecodingOptions("greedy", nbest=1)
    assert divided.decode(posteriors, greedy).hypotheses == plain.decode(posteriors, greedy).hypotheses
    beam = DecodingOptions("beam_lm", nbest=5)
    quotient = divided_by_prior(log_probs, np.array(prior), 0.5)
    expected = plain.decode(Posteriors(quotient.astype(np.float64), 1.0), beam).hypotheses
    assert divided.decode(posteriors, beam).hypotheses == expected
    assert expected != plain.decode(posteriors, beam).hypotheses


def test_a_prior_that_does_not_fit_is_refused(tiny_tokenizer_model: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(tiny_tokenizer_model)
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.model")
    settings = DecodingSettings(prior_weight=0.3, label_prior=(0.5, 0.5))
    with pytest.raises(MismatchError, match="label_prior is of 2 outputs"):
        make_beam_decoder(tokenizer, None, settings)
    with pytest.raises(OptionsError, match="needs label_prior"):
        DecodingSettings(prior_weight=0.3)
    with pytest.raises(OptionsError, match="above 0"):
        DecodingSettings(prior_weight=0.3, label_prior=(1.0, 0.0))
