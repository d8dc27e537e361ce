"""The library's face: the same words for the same recording, whoever asks and however often."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

import asr.transcriber
from asr.audio import SAMPLE_RATE
from asr.bundle import ACOUSTIC, NGRAM, Bundle
from asr.decoding.native_beam import NativeBeamDecoder
from asr.decoding.options import DECODERS, ENGINES, DecoderName, DecodingOptions
from asr.decoding.pyctcdecode_beam import PyctcdecodeDecoder
from asr.decoding.result import Transcript
from asr.errors import (
    AudioTooLongError,
    BundleError,
    DecodingTimeoutError,
    OptionsError,
    RescoringTimeoutError,
)
from asr.transcriber import Posteriors, Transcriber
from tests.conftest import wav_bytes


@pytest.fixture(scope="module")
def transcriber(tiny_bundle: Path) -> Transcriber:
    return Transcriber.load(tiny_bundle, device="cpu")


def _without_timings(transcript: Transcript) -> Transcript:
    return replace(transcript, timings_ms={})


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_answers(transcriber: Transcriber, recording: bytes, decoder: DecoderName) -> None:
    options = DecodingOptions(decoder, nbest=5, word_timestamps=True)
    transcript = transcriber.transcribe(recording, options)
    assert transcript.text
    assert transcript.decoder == decoder
    assert transcript.duration_s == 1.0
    assert [word.word for word in transcript.words] == transcript.text.split()
    assert transcript.hypotheses[0].text == transcript.text
    totals = [hypothesis.scores.total for hypothesis in transcript.hypotheses]
    assert totals == sorted(totals, reverse=True)
    expected = ["audio", "features", "acoustic", "decoding", "rescoring", "alignment"]
    assert list(transcript.timings_ms) == [s for s in expected if s != "rescoring" or "rescore" in decoder]


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_same_answer_again_and_from_a_path_and_after_a_restart(
    transcriber: Transcriber, tiny_bundle: Path, recording: bytes, tmp_path: Path, decoder: DecoderName
) -> None:
    options = DecodingOptions(decoder, nbest=5, word_timestamps=True)
    first = _without_timings(transcriber.transcribe(recording, options))
    assert _without_timings(transcriber.transcribe(recording, options)) == first
    (tmp_path / "a.wav").write_bytes(recording)
    assert _without_timings(transcriber.transcribe(tmp_path / "a.wav", options)) == first
    restarted = Transcriber.load(tiny_bundle)
    assert _without_timings(restarted.transcribe(recording, options)) == first


def test_concurrent_callers_get_what_they_would_alone(transcriber: Transcriber) -> None:
    rng = np.random.default_rng(1)
    jobs = [
        (wav_bytes(0.2 * rng.standard_normal(n)), DecodingOptions(decoder, nbest=5, word_timestamps=True))
        for n in (4000, 9000, 16000, 20000)
        for decoder in DECODERS
    ]
    alone = [_without_timings(transcriber.transcribe(*job)) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: _without_timings(transcriber.transcribe(*job)), jobs * 3))
    assert together == alone * 3


def test_posteriors_are_normalised_and_feed_the_same_decoding(
    transcriber: Transcriber, recording: bytes
) -> None:
    posteriors = transcriber.listen(recording)
    assert posteriors.log_probs.shape == (26, 55)  # 101 feature frames, 4 to an output frame
    np.testing.assert_allclose(np.exp(posteriors.log_probs).sum(axis=1), 1.0, atol=1e-5)
    options = DecodingOptions("beam_lm", nbest=3)
    cached = transcriber.decode(posteriors, options)
    assert _without_timings(cached) == _without_timings(transcriber.transcribe(recording, options))


SIZES = st.lists(st.sampled_from([0, 100, 640, 2000, 7777, 16000, 40000]), min_size=1, max_size=6)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=SIZES, seed=st.integers(0, 99))
def test_a_recording_in_any_batch_gives_what_it_gives_alone(
    transcriber: Transcriber, sizes: list[int], seed: int
) -> None:
    """The same log-probabilities, and text, exactly; GPT-2's scores within the tolerance that is promised."""
    rng = np.random.default_rng(seed)
    prepared = [transcriber.prepare_samples((0.2 * rng.standard_normal(n)).astype(np.float32)) for n in sizes]
    alone = [transcriber.listen_batch([one])[0] for one in prepared]
    together = transcriber.listen_batch(prepared)
    for one, among in zip(alone, together, strict=True):
        assert among.log_probs.tobytes() == one.log_probs.tobytes()
        for decoder in DECODERS:
            options = DecodingOptions(decoder, nbest=3)
            expected, found = transcriber.decode(one, options), transcriber.decode(among, options)
            assert found.text == expected.text
            assert [h.scores.total for h in found.hypotheses] == pytest.approx(
                [h.scores.total for h in expected.hypotheses], abs=1e-3
            )
    lists = [transcriber.search(one, DecodingOptions("beam_lm")) for one in alone]
    rescored = transcriber.rescore_batch(lists)
    for nbest, among in zip(lists, rescored, strict=True):
        (one,) = transcriber.rescore_batch([nbest])
        assert among.rescoring == one.rescoring == "done"
        assert [h.text for h in among.hypotheses] == [h.text for h in one.hypotheses]
        assert [h.scores.gpt2 for h in among.hypotheses] == pytest.approx(
            [h.scores.gpt2 for h in one.hypotheses], abs=1e-3
        )


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    "samples",
    [np.zeros(1), np.zeros(SAMPLE_RATE), np.full(160, 0.5), np.full(639, 0.5)],
    ids=["one sample", "silence", "10 ms", "just short of a frame"],
)
def test_nothing_to_hear_gives_nothing(
    transcriber: Transcriber, samples: np.ndarray, decoder: DecoderName
) -> None:
    transcript = transcriber.transcribe(
        wav_bytes(samples), DecodingOptions(decoder, nbest=3, word_timestamps=True)
    )
    assert (transcript.text, transcript.words) == ("", ())
    assert [hypothesis.text for hypothesis in transcript.hypotheses] == [""]


@pytest.mark.parametrize("n_samples", [640, 641, 1280])
def test_a_frame_or_two_do_not_crash(transcriber: Transcriber, n_samples: int) -> None:
    noise = 0.3 * np.random.default_rng(2).standard_normal(n_samples)
    for decoder in DECODERS:
        transcriber.transcribe(wav_bytes(noise), DecodingOptions(decoder, word_timestamps=True))


def test_hotwords_are_normalised_and_scored(transcriber: Transcriber, recording: bytes) -> None:
    plain = transcriber.transcribe(recording, DecodingOptions("beam_lm", nbest=50))
    wanted = plain.hypotheses[-1].text.split()[0]
    options = DecodingOptions(
        "beam_lm", nbest=50, hotwords=(f" {wanted.upper()}! ", "", "?!"), hotword_weight=50
    )
    boosted = transcriber.transcribe(recording, options)
    assert wanted in boosted.text.split()
    assert boosted.hypotheses[0].scores.hotwords >= 50


def test_rescoring_uses_its_own_weights(
    transcriber: Transcriber, tiny_bundle: Path, recording: bytes, tmp_path: Path
) -> None:
    bundle = Bundle.load(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    decoding = replace(bundle.settings.decoding, rescore_alpha=0.0, rescore_beta=-3.0, unknown_word_logp=-1.0)
    bundle.with_changes(replace(bundle.settings, decoding=decoding), {})
    options = DecodingOptions("beam_lm_rescore", nbest=5)
    for hypothesis in Transcriber.load(bundle.path).transcribe(recording, options).hypotheses:
        words = hypothesis.text.split()
        assert hypothesis.scores.length == -3.0 * len(words)
        assert hypothesis.scores.ngram == -1.0 * sum(word not in transcriber.lm for word in words)


def test_when_rescoring_runs_out_of_time_the_beams_order_stands(
    transcriber: Transcriber, recording: bytes
) -> None:
    beam = transcriber.transcribe(recording, DecodingOptions("beam_lm", nbest=50))
    assert beam.rescoring == "none"
    options = DecodingOptions("beam_lm_rescore", nbest=50, rescore_budget_s=0.0)
    late = transcriber.transcribe(recording, options)
    assert late.rescoring == "out_of_time"
    assert (late.text, late.hypotheses) == (beam.text, beam.hypotheses)
    done = transcriber.transcribe(recording, replace(options, rescore_budget_s=3600.0))
    assert done.rescoring == "done"
    assert (
        done.hypotheses
        == transcriber.transcribe(recording, replace(options, rescore_budget_s=None)).hypotheses
    )


def test_the_callers_own_deadline_is_no_budget(
    transcriber: Transcriber, recording: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: object, **__: object) -> list[float]:
        monkeypatch.setattr(asr.transcriber.time, "monotonic", lambda: float("inf"))
        raise RescoringTimeoutError("the time for rescoring is up")

    monkeypatch.setattr(transcriber.gpt2, "score", late)
    with pytest.raises(DecodingTimeoutError):
        transcriber.transcribe(recording, DecodingOptions("beam_lm_rescore"), timeout_s=1000.0)


def test_limits_are_kept(transcriber: Transcriber, recording: bytes) -> None:
    with pytest.raises(AudioTooLongError):
        transcriber.transcribe(recording, DecodingOptions("greedy"), max_duration_s=0.5)
    with pytest.raises(DecodingTimeoutError):
        transcriber.transcribe(recording, DecodingOptions("beam_lm"), timeout_s=0.0)


def test_self_test_passes_on_a_good_bundle(transcriber: Transcriber) -> None:
    transcriber.self_test()


def test_self_test_refuses_weights_that_are_not_finite(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    weights = load_file(bundle.path / ACOUSTIC)
    weights["output.bias"][3] = float("nan")
    bundle.with_changes(bundle.settings, {ACOUSTIC: save(weights)})
    with pytest.raises(BundleError, match="no finite log-probabilities"):
        Transcriber.load(bundle.path).self_test()


def test_an_ngram_that_cannot_be_read_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    bundle.with_changes(bundle.settings, {NGRAM: b"not an n-gram model"})
    with pytest.raises(BundleError, match=NGRAM):
        Transcriber.load(bundle.path)


def test_a_bundle_with_kenlms_file_decodes_with_pyctcdecode(kenlm_bundle: Path, recording: bytes) -> None:
    transcriber = Transcriber.load(kenlm_bundle)
    transcriber.self_test()
    assert isinstance(transcriber.languages.default.beam, PyctcdecodeDecoder)
    with pytest.raises(BundleError, match=r"engine native needs the n-gram in arrays"):
        Transcriber.load(kenlm_bundle, engine="native")


def test_both_engines_write_the_same_where_nothing_is_pruned(tiny_bundle: Path, recording: bytes) -> None:
    """One n-gram, one sum of paths: only what is dropped on the way differs."""
    native, reference = (Transcriber.load(tiny_bundle, engine=engine) for engine in ENGINES)
    assert isinstance(native.languages.default.beam, NativeBeamDecoder)
    log_probs = reference.listen(recording).log_probs[:5]
    options = DecodingOptions("beam_lm", nbest=5, hotwords=("we ran", "zebra"))
    first, second = (t.decode(Posteriors(log_probs, 0.2), options) for t in (native, reference))
    assert first.text == second.text
    assert first.hypotheses[0].scores.total == pytest.approx(second.hypotheses[0].scores.total, abs=0.05)


def test_the_engine_is_a_setting_of_the_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    assert "engine" not in json.loads((bundle.path / "bundle.json").read_text())["decoding"]
    decoding = replace(bundle.settings.decoding, engine="pyctcdecode")
    changed = bundle.with_changes(replace(bundle.settings, decoding=decoding), {})
    chosen = Transcriber.load(changed.path), Transcriber.load(changed.path, engine="native")
    assert isinstance(chosen[0].languages.default.beam, PyctcdecodeDecoder)
    assert isinstance(chosen[1].languages.default.beam, NativeBeamDecoder)
    with pytest.raises(OptionsError, match="engine must be one of"):
        replace(decoding, engine="other")


def test_identity_is_the_bundles(transcriber: Transcriber, tiny_bundle: Path) -> None:
    assert transcriber.name == "tiny"
    assert transcriber.sha256 == Bundle.load(tiny_bundle).sha256
    assert (transcriber.sample_rate, transcriber.device) == (16000, "cpu")
    assert transcriber.frame_s == 0.04
