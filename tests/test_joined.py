"""Joined recordings know where their speech begins and ends, and word times are measured against it."""

from pathlib import Path

import numpy as np
import pytest

from asr.audio import SAMPLE_RATE
from tests.conftest import wav_bytes
from training.joined import join, speech_edges
from training.manifest import Utterance
from training.timing import REFERENCE, Edge, fitted_shifts, timing_figures, words_right


def spoken(*stretches_s: tuple[float, float], duration_s: float = 2.0, noise: float = 1e-4) -> np.ndarray:
    """Faint noise with loud stretches."""
    time_s = np.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
    samples = noise * np.random.default_rng(0).standard_normal(len(time_s))
    for start, end in stretches_s:
        inside = (time_s >= start) & (time_s < end)
        samples[inside] += 0.3 * np.sin(2 * np.pi * 200 * time_s[inside])
    return samples.astype(np.float32)


def test_edges_are_where_energy_rises_and_falls() -> None:
    assert speech_edges(spoken((0.5, 1.3))) == pytest.approx((0.5, 1.3), abs=0.015)


def test_a_plosive_belongs_to_its_word_and_a_click_does_not() -> None:
    assert speech_edges(spoken((0.1, 0.15), (0.5, 1.3), (1.4, 1.43), (1.8, 1.85))) == pytest.approx(
        (0.5, 1.43), abs=0.015
    )


def test_noise_and_nothing_have_no_edges() -> None:
    assert speech_edges(spoken((0.5, 1.3), noise=0.05)) is None
    assert speech_edges(np.zeros(100, dtype=np.float32)) is None
    assert speech_edges(np.zeros(SAMPLE_RATE, dtype=np.float32)) is None
    assert speech_edges(spoken((0.5, 0.55))) is None


def test_joined_recordings_keep_the_edges(tmp_path: Path) -> None:
    utterances = []
    for i, noise in enumerate((1e-4, 0.05, 1e-4, 1e-4)):  # the second is not clear, the last has no partner
        (tmp_path / f"{i}.wav").write_bytes(wav_bytes(spoken((0.2 + 0.1 * i, 1.0 + 0.1 * i), noise=noise)))
        utterances.append(Utterance(tmp_path / f"{i}.wav", f"word {i}", 2.0))
    (joined,) = join(utterances, 2)
    assert joined.texts == ("word 0", "word 2")
    assert joined.text == "word 0 word 2"
    assert len(joined.samples) == 4 * SAMPLE_RATE
    assert joined.starts_s == pytest.approx((0.2, 2.4), abs=0.015)
    assert joined.ends_s == pytest.approx((1.0, 3.2), abs=0.015)


def test_a_constant_lag_is_taken_back_and_stray_edges_do_not_count() -> None:
    def found(kind: str, *errors_s: float) -> list[Edge]:
        return [Edge(REFERENCE, kind, e, 0.0) for e in errors_s]  # type: ignore[arg-type]

    late = found("start", 0.04, 0.05, 0.06, 0.05, 0.9, 0.8, 0.7) + found("end", -0.02, -0.02, 0.5)
    assert fitted_shifts([*late, Edge("greedy", "start", 9.0, 9.0)]) == (-0.05, 0.02)
    assert fitted_shifts(found("start", -0.05, 0.05, 0.001)) == (0.0, 0.0)  # nothing to gain
    assert fitted_shifts([]) == (0.0, 0.0)
    assert fitted_shifts(found("end", 0.9, 0.9, 0.91)) == (0.0, 0.0)  # no CTC model lags so far


def test_figures_are_medians_of_distances() -> None:
    edges = [Edge("greedy", "start", e, e / 2) for e in (-0.1, 0.02, 0.03)] + [Edge(REFERENCE, "end", 1, 0)]
    figures = timing_figures(edges)
    assert figures["greedy"] == {"boundaries": 3, "before_ms": 30.0, "after_ms": 15.0, "after_90_ms": 43.0}
    assert figures[REFERENCE]["after_ms"] == 0.0


def test_words_are_right_as_the_error_rate_counts_them() -> None:
    assert words_right("the cat sat on the mat", "a cat sat the hat") == [False, True, True, True, False]
    assert words_right("", "a b") == [False, False]
    assert words_right("a b", "") == []
