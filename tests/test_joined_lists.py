"""Texts of the search over phones beside those of the search over pieces: from audio to scores."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asr.bundle import INDEX, Bundle
from asr.decoding.found import found_of
from asr.decoding.native_beam import NativeBeamDecoder
from asr.decoding.options import DecodingOptions, DecodingSettings, decoding_to_section
from asr.decoding.pronunciation_rescoring import hopeful
from asr.decoding.pronunciation_scores import pronunciation_logps
from asr.errors import DecodingTimeoutError, OptionsError
from asr.recording import Posteriors
from asr.transcriber import Transcriber


@pytest.fixture(scope="module")
def joined_bundle(phone_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = Path(shutil.copytree(phone_bundle, tmp_path_factory.mktemp("bundles") / "joined"))
    bundle = Bundle.load(copy)
    decoding = replace(bundle.settings.decoding, phone_beam_width=30, phone_alpha=0.4)
    return bundle.with_changes(replace(bundle.settings, decoding=decoding), {}).path


@pytest.fixture(scope="module")
def transcriber(joined_bundle: Path) -> Transcriber:
    return Transcriber.load(joined_bundle, "cpu")


@pytest.fixture(scope="module")
def posteriors(transcriber: Transcriber) -> Posteriors:
    """Rows that say something, pieces and phones not the same."""
    assert transcriber.pronunciations is not None
    rng = np.random.default_rng(3)
    pieces, phones = (
        rng.normal(scale=3.0, size=shape)
        for shape in ((12, transcriber.tokenizer.vocab_size), (24, transcriber.pronunciations.n_outputs))
    )
    pieces, phones = (x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in (pieces, phones))
    return Posteriors(pieces.astype(np.float32), 0.5, {}, phones.astype(np.float32))


@pytest.mark.parametrize("hotwords", [(), ("cat", "the mat")])
def test_the_list_has_both_searches_texts(
    transcriber: Transcriber, posteriors: Posteriors, hotwords: tuple[str, ...]
) -> None:
    options = DecodingOptions("beam_lm", nbest=50, hotwords=hotwords)
    found = transcriber.search(posteriors, options).hypotheses
    language = transcriber.languages.default
    assert language.phones is not None
    assert posteriors.phones is not None
    everything = found_of(language.beam.decode(posteriors.log_probs, hotwords=hotwords))
    by_pieces = hopeful(everything, transcriber.settings).hypotheses()
    by_phones = language.phones.decode(posteriors.phones, limit=12)
    texts = [h.text for h in found]
    assert len(set(texts)) == len(texts)
    assert {h.text for h in by_pieces} <= set(texts)
    new = set(texts) - {h.text for h in by_pieces}
    assert new
    assert new <= {h.text for h in by_phones}
    best = found[0].scores.total
    beam = language.beam
    assert isinstance(beam, NativeBeamDecoder)
    missing = {h.text for h in by_phones} - set(texts)
    scored = beam.score(posteriors.log_probs, texts + sorted(missing), hotwords=hotwords)
    assert transcriber.pronunciations is not None
    logps = pronunciation_logps(posteriors.phones, [h.text for h in scored], transcriber.pronunciations)
    for hypothesis, alike, logp in zip(scored, [*found, *[None] * len(missing)], logps, strict=True):
        both = hypothesis.scores._replace(acoustic=0.6 * hypothesis.scores.acoustic, pronunciation=0.4 * logp)
        if alike is None:
            assert both.total < best - 29.9
        elif alike.text in new:
            assert alike.scores == both
        else:
            assert alike.scores.total == pytest.approx(both.total, abs=1.0)
            assert (alike.scores.ngram, alike.scores.hotwords) == pytest.approx((both.ngram, both.hotwords))


def test_scores_add_up_and_are_in_order(transcriber: Transcriber, posteriors: Posteriors) -> None:
    options = DecodingOptions("beam_lm", nbest=50, hotwords=("cat",))
    found = transcriber.decode(posteriors, options).hypotheses
    assert transcriber.decode(posteriors, options).hypotheses == found
    keys = [(-h.scores.total, h.text) for h in found]
    assert keys == sorted(keys)
    for h in found:
        s = h.scores
        assert s.total == pytest.approx(
            s.acoustic + s.pronunciation + s.ngram + s.hotwords + s.length, abs=1e-9
        )


def test_every_decoder_and_a_posted_text(
    transcriber: Transcriber, posteriors: Posteriors, recording: bytes
) -> None:
    transcriber.self_test()
    for decoder in ("greedy", "beam_lm", "beam_lm_rescore"):
        assert transcriber.transcribe(recording, DecodingOptions(decoder)).hypotheses == ()
    posted = DecodingOptions("beam_lm", nbest=50, lm_text="the cat sat on a zebra")
    found = transcriber.decode(posteriors, posted).hypotheses
    assert found != transcriber.decode(posteriors, DecodingOptions("beam_lm", nbest=50)).hypotheses


def test_without_a_width_nothing_changes(
    phone_bundle: Path, transcriber: Transcriber, posteriors: Posteriors
) -> None:
    plain = Transcriber.load(phone_bundle, "cpu")
    options = DecodingOptions("beam_lm", nbest=50)
    assert plain.languages.default.phones is None
    texts = [h.text for h in plain.decode(posteriors, options).hypotheses]
    assert set(texts) < {h.text for h in transcriber.search(posteriors, options).hypotheses}
    for settings in (DecodingSettings(), plain.settings):
        assert not {"phone_beam_width", "phone_alpha"} & decoding_to_section(settings).keys()
    assert "phone_beam_width" not in (phone_bundle / INDEX).read_text()


def test_the_bundle_says_so(joined_bundle: Path) -> None:
    decoding = json.loads((joined_bundle / INDEX).read_text())["decoding"]
    assert (decoding["phone_beam_width"], decoding["phone_alpha"]) == (30, 0.4)
    with pytest.raises(OptionsError, match="phone_beam_width must be at least 0"):
        DecodingSettings(phone_beam_width=-1)


def test_the_other_engine_has_no_such_search(joined_bundle: Path, tiny_arpa: Path, tmp_path: Path) -> None:
    pytest.importorskip("kenlm")
    from asr.bundle import KENLM, NGRAM

    copy = Path(shutil.copytree(joined_bundle, tmp_path / "kenlm"))
    bundle = Bundle.load(copy)
    bundle.with_changes(bundle.settings, {NGRAM: None, KENLM: tiny_arpa.read_bytes()})
    assert Transcriber.load(copy, "cpu").languages.default.phones is None


def test_time_is_up(transcriber: Transcriber, posteriors: Posteriors) -> None:
    with pytest.raises(DecodingTimeoutError):
        transcriber.search(posteriors, DecodingOptions("beam_lm"), deadline=0.0)
