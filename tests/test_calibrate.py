"""`asr-train calibrate`: fits what it should, and the bundle answers with what was fitted."""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from asr.audio import SAMPLE_RATE
from asr.bundle import CALIBRATION, MODEL_CARD, RELIABILITY, Bundle
from asr.decoding.evidence import FEATURES
from asr.decoding.options import DECODERS, DecodingOptions
from asr.transcriber import Transcriber
from tests.conftest import wav_bytes
from training import calibrate
from training.calibrate import Judged, fit
from training.manifest import Utterance, read_bytes, read_manifest, write_manifest
from training.reliability import calibration_error


def judged(seed: int, n_words: int) -> tuple[Judged, np.ndarray]:
    """Words whose chance of being right is a logistic function of three features, and that chance."""
    rng = np.random.default_rng(seed)
    evidence = rng.normal(3.0, 2.0, (n_words, len(FEATURES)))
    evidence[:, 5] = 1.0  # never varies
    chance = 1 / (1 + np.exp(-(-2.0 + 0.8 * evidence[:, 0] - 0.5 * evidence[:, 4] + 0.3 * evidence[:, 14])))
    right = rng.random(n_words) < chance
    return Judged("cv", evidence, np.full(n_words, 0.9), right, np.zeros(n_words, dtype=bool)), chance


def test_the_fit_finds_the_law_that_made_the_words() -> None:
    words, _ = judged(0, 20_000)
    learned = fit([words])
    assert learned.weights["sure_least"] == pytest.approx(0.8, abs=0.05)
    assert learned.weights["gap"] == pytest.approx(-0.5, abs=0.05)
    assert learned.weights["ngram"] == pytest.approx(0.3, abs=0.05)
    assert learned.weights["greedy_agrees"] == 0.0
    unseen, chance = judged(1, 5000)
    assert np.abs(learned.probability(unseen.evidence) - chance).mean() < 0.03
    assert calibration_error(learned.probability(unseen.evidence), unseen.right) < 0.03


def test_the_fit_survives_words_that_one_feature_tells_apart() -> None:
    words, _ = judged(0, 200)
    certain = words.evidence[:, 0] > 3.0
    learned = fit([Judged("cv", words.evidence, words.entropy, certain, words.lm_only)])
    found = learned.probability(words.evidence)
    assert np.isfinite(list(learned.weights.values())).all()
    assert ((found > 0.5) == certain).mean() > 0.97


@pytest.fixture
def manifests(tiny_bundle: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Noise whose transcripts hold what the tiny model writes for every second one: there it is right."""
    transcriber = Transcriber.load(tiny_bundle, "cpu")
    rng = np.random.default_rng(3)
    paths = []
    for name, count in (("dev", 6), ("check", 4)):
        utterances = []
        for i in range(count):
            path = tmp_path / f"{name}{i}.wav"
            time_s = np.arange(24000) / SAMPLE_RATE
            wobble = np.sin(2 * np.pi * rng.uniform(200, 900) * time_s) * (np.sin(20 * time_s) > 0)
            gate = np.repeat([0.001, 1.0, 0.001], (4000, 16000, 4000))  # so that its edges are clear
            path.write_bytes(wav_bytes(gate * (0.3 * wobble + 0.05 * rng.standard_normal(24000))))
            texts = [transcriber.transcribe(path, DecodingOptions(d)).text for d in DECODERS]
            text = "no" if i % 2 else " ".join(texts)
            utterances.append(Utterance(path, f"{text} {'abc'[i % 3]}{name}", 1.5, set="cv", name=f"{i}"))
        write_manifest(tmp_path / f"{name}.jsonl", utterances)
        paths.append(tmp_path / f"{name}.jsonl")
    return paths[0], paths[1]


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    calibrate.add_arguments(parser)
    return parser.parse_args(given)


def test_a_calibrated_bundle_answers_what_was_fitted(
    tiny_bundle: Path, tmp_path: Path, manifests: tuple[Path, Path]
) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    dev, check = manifests
    calibrate.main(arguments(str(folder), "--manifest", str(dev), "--check", str(check)))
    transcriber = Transcriber.load(folder, "cpu")
    learned = transcriber.calibration
    assert learned is not None
    assert set(learned.maps) == set(DECODERS)
    assert transcriber.bundle.measured_sha256 == Bundle.load(tiny_bundle).measured_sha256
    report = json.loads((folder / CALIBRATION).read_text())
    assert set(report["checked"]["all"]) == set(learned.maps)
    card = (folder / MODEL_CARD).read_text()
    assert "## Confidence and word times" in card
    assert (folder / RELIABILITY).read_text().startswith("<svg")

    # The figures are those of the answers that callers get.
    utterances = read_manifest(check)
    for decoder in DECODERS:
        options = DecodingOptions(decoder, word_timestamps=True)
        answers = [transcriber.transcribe(read_bytes(u), options) for u in utterances]
        rows = [calibrate.judge(transcriber, u)[decoder] for u in utterances]
        for answer, row in zip(answers, rows, strict=True):
            assert answer.calibrated
            expected = learned.maps[decoder].probability(row.evidence)
            assert [w.confidence for w in answer.words] == pytest.approx(expected.tolist())
            assert [w.lm_only for w in answer.words] == row.lm_only.tolist()
        right = np.concatenate([row.right for row in rows])
        found = np.array([w.confidence for answer in answers for w in answer.words])
        assert report["checked"]["all"][decoder]["after"]["ece"] == pytest.approx(
            calibration_error(found, right), abs=1e-3
        )


def test_data_of_the_fit_cannot_check_it(tiny_bundle: Path, manifests: tuple[Path, Path]) -> None:
    dev = str(manifests[0])
    with pytest.raises(ValueError, match="share"):
        calibrate.main(arguments(str(tiny_bundle), "--manifest", dev, "--check", dev))
