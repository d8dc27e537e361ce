"""Calibration in bundle.json: read strictly, refused when it is another model's, and never in a text."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.bundle import ACOUSTIC, INDEX, Bundle
from asr.decoding.calibration import Calibration, LogisticMap, calibration_from_json
from asr.decoding.evidence import FEATURES
from asr.decoding.options import DECODERS, DecodingOptions
from asr.errors import MismatchError
from asr.transcriber import Transcriber

MAP = LogisticMap(0.25, {name: 0.1 * i for i, name in enumerate(FEATURES)})


def calibration(sha256: str) -> Calibration:
    return Calibration(sha256, {"greedy": MAP, "beam_lm_rescore": MAP}, 0.012, -0.03)


@given(st.lists(st.floats(-1e4, 1e4), min_size=len(FEATURES), max_size=len(FEATURES)))
def test_probability_is_the_logistic_function_and_never_overflows(row: list[float]) -> None:
    (found,) = MAP.probability(np.array([row]))
    score = np.longdouble(MAP.bias) + sum(
        np.longdouble(w) * x for w, x in zip(MAP.weights.values(), row, strict=True)
    )
    with np.errstate(over="ignore"):
        assert found == pytest.approx(float(1 / (1 + np.exp(-score))), abs=1e-9)
    assert 0.0 <= found <= 1.0


def test_json_round_trip() -> None:
    section = json.loads(json.dumps(calibration("ab").as_json()))
    assert calibration_from_json(section) == calibration("ab")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": 3}, "maps"),
        ({"maps": {"guess": {}}}, "must have only greedy"),
        ({"maps": {"greedy": {"bias": 1.0}}}, "bias and weights"),
        ({"maps": {"greedy": {"bias": 1.0, "weights": {"gap": 1.0}}}}, "calibrate again"),
        ({"maps": {"greedy": MAP.__dict__ | {"bias": float("nan")}}}, "finite"),
        ({"maps": {"greedy": MAP.__dict__ | {"bias": True}}}, "finite"),
        ({"start_shift_s": 3.0}, "shifts times"),
        ({"end_shift_s": "soon"}, "end_shift_s"),
        ({"more": 1}, "keys"),
    ],
)
def test_malformed_sections_are_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        calibration_from_json(calibration("ab").as_json() | change)
    with pytest.raises(MismatchError, match="must be an object"):
        calibration_from_json([change])


def calibrated_bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    bundle = Bundle.load(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    learned = calibration(bundle.files[ACOUSTIC].sha256)
    return bundle.with_changes(replace(bundle.settings, calibration=learned), {})


def test_a_bundle_keeps_its_calibration_and_its_measured_identity(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = calibrated_bundle(tiny_bundle, tmp_path)
    loaded = Bundle.load(bundle.path)
    assert loaded.settings.calibration == calibration(bundle.files[ACOUSTIC].sha256)
    assert loaded.sha256 != Bundle.load(tiny_bundle).sha256
    assert loaded.measured_sha256 == Bundle.load(tiny_bundle).measured_sha256  # texts are as they were


def test_a_calibration_of_other_weights_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = calibrated_bundle(tiny_bundle, tmp_path)
    index = json.loads((bundle.path / INDEX).read_text())
    index["calibration"]["acoustic_sha256"] = "0" * 64
    (bundle.path / INDEX).write_text(json.dumps(index))
    with pytest.raises(MismatchError, match="calibrate again"):
        Bundle.load(bundle.path)


def test_the_answer_says_whether_its_confidence_is_calibrated(
    tiny_bundle: Path, tmp_path: Path, recording: bytes
) -> None:
    plain = Transcriber.load(tiny_bundle, "cpu")
    fitted = Transcriber.load(calibrated_bundle(tiny_bundle, tmp_path).path, "cpu")
    posteriors = plain.listen(recording)
    for decoder in DECODERS:
        options = DecodingOptions(decoder, nbest=3, word_timestamps=True)
        before, after = plain.decode(posteriors, options), fitted.decode(posteriors, options)
        assert (before.text, before.hypotheses) == (after.text, after.hypotheses)
        assert (before.calibrated, after.calibrated) == (False, decoder != "beam_lm")
        same = [w.confidence for w in before.words] == [w.confidence for w in after.words]
        assert same == (decoder == "beam_lm")
        assert [w.start_s for w in before.words] != [w.start_s for w in after.words]
    fitted.self_test()
