"""Waveform augmentation: each effect does what it says, and all of it follows from its draws."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.audio import SAMPLE_RATE, Samples
from tests.speech_of_tones import spoken, write_wav
from training.augment import augment
from training.augment_config import (
    AugmentConfig,
    CodecConfig,
    ColouredNoiseConfig,
    GainConfig,
    NoiseFilesConfig,
    PitchConfig,
    RoomConfig,
    SpeedConfig,
)
from training.waveform import (
    CODECS,
    Codec,
    ColouredNoise,
    Effect,
    FileNoise,
    Gain,
    Pitch,
    Room,
    Speed,
    _active_power,
    _impulse_response,
)
from training.waveform_draws import draw_effects, noise_files

SPEECH = spoken("a cat sat on a mat")
SHARE = st.floats(0, 1)
EFFECTS = st.one_of(
    st.builds(Speed, st.floats(0.8, 1.25)),
    st.builds(Pitch, st.floats(-4, 4)),
    st.builds(Room, st.integers(0, 5), st.just(0.1), st.just(0.5)),
    st.builds(ColouredNoise, st.floats(0, 40), st.floats(0, 2), st.integers(0, 2**63 - 1)),
    st.builds(Gain, st.floats(-20, 20)),
    st.builds(Codec, st.sampled_from(CODECS), SHARE),
)
EVERYTHING = AugmentConfig(
    start_epoch=0,
    speed=SpeedConfig(0.5),
    pitch=PitchConfig(0.5),
    room=RoomConfig(0.5, rooms=3),
    coloured_noise=ColouredNoiseConfig(0.5),
    gain=GainConfig(0.5),
    codec=CodecConfig(0.5),
)


@settings(max_examples=40, deadline=None)
@given(EFFECTS, st.integers(0, 5), st.integers(1, len(SPEECH)))
def test_effects_are_repeatable_finite_and_leave_their_input_alone(
    effect: Effect, start: int, n: int
) -> None:
    samples = SPEECH[start : start + n].copy()
    once, twice = effect.apply(samples), effect.apply(samples)
    np.testing.assert_array_equal(samples, SPEECH[start : start + n])
    np.testing.assert_array_equal(once, twice)
    assert once.dtype == np.float32
    assert np.isfinite(once).all()
    if not isinstance(effect, Speed):
        assert len(once) == len(samples)
    assert str(effect)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_changes_length_and_frequency(factor: float) -> None:
    faster = Speed(factor).apply(_tone(1000))
    assert len(faster) == pytest.approx(SAMPLE_RATE / factor, abs=40)
    assert _loudest_hz(faster) == pytest.approx(1000 * factor, abs=10)


@pytest.mark.parametrize("semitones", [-3.0, 2.0])
def test_pitch_changes_frequency_alone(semitones: float) -> None:
    assert _loudest_hz(Pitch(semitones).apply(_tone(1000))) == pytest.approx(
        1000 * 2 ** (semitones / 12), rel=0.01
    )
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[6000:10000] = _tone(500)[:4000]
    assert abs(_delay(click, Pitch(semitones).apply(click))) < 0.03


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_noise_is_as_loud_as_drawn_against_speech_without_its_pauses(tmp_path: Path, snr_db: float) -> None:
    pause = np.zeros(3 * SAMPLE_RATE, np.float32)
    spoken_once = np.concatenate([SPEECH, pause])
    write_wav(tmp_path / "hum.wav", _tone(100))
    for effect in (ColouredNoise(snr_db, 1.0, 3), FileNoise(tmp_path / "hum.wav", 0.3, snr_db)):
        noise = effect.apply(spoken_once) - spoken_once
        assert 10 * np.log10(_active_power(SPEECH) / np.mean(noise**2)) == pytest.approx(snr_db, abs=0.2)
        assert np.mean(noise[-1000:] ** 2) > 0, "also in the pauses, and beyond the noise file's end"


@pytest.mark.parametrize("colour", [0.0, 1.0, 2.0])
def test_noise_has_its_colour(colour: float) -> None:
    samples = SPEECH.repeat(10)
    power = np.abs(np.fft.rfft(ColouredNoise(10, colour, 1).apply(samples) - samples)) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    octaves = [power[(hz >= low) & (hz < 2 * low)].mean() for low in (100, 200, 400, 800, 1600, 3200)]
    slope_db = np.polyfit(range(6), 10 * np.log10(octaves), 1)[0]
    assert slope_db == pytest.approx(-3.01 * colour, abs=0.4)


def test_rooms_echo_without_delaying() -> None:
    for number in range(4):
        response = _impulse_response(number, 0.2, 0.5)
        assert response[0] == 1.0
        assert np.abs(response).max() == 1.0
        assert np.sum(response[4000:] ** 2) < 0.2 * np.sum(response[:4000] ** 2), "it dies away"
        heard = Room(number, 0.2, 0.5).apply(SPEECH)
        assert np.mean(heard**2) == pytest.approx(np.mean(SPEECH**2), rel=1e-3)
        hiss = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
        likeness = np.correlate(Room(number, 0.2, 0.5).apply(hiss), hiss, "full")
        assert likeness.argmax() == len(hiss) - 1, "the direct sound comes when it came"
    dry, wet = (_impulse_response(1, rt60_s, rt60_s) for rt60_s in (0.1, 0.6))
    assert np.sum(wet[800:] ** 2) > 5 * np.sum(dry[800:] ** 2)


@pytest.mark.parametrize("kind", CODECS)
def test_codecs_keep_the_speech_in_its_place(kind: str) -> None:
    for amount in (0.0, 1.0):
        coded = Codec(kind, amount).apply(SPEECH)
        assert abs(_delay(SPEECH, coded)) < 0.03
        assert np.mean(coded**2) > 0.2 * np.mean(SPEECH**2)
        assert not np.allclose(coded, SPEECH, atol=1e-3)


@pytest.mark.parametrize("kind", ["telephone", "mobile"])
def test_telephones_have_no_treble(kind: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * SAMPLE_RATE).astype(np.float32)
    power = np.abs(np.fft.rfft(Codec(kind, 1.0).apply(noise))) ** 2
    hz = np.fft.rfftfreq(len(noise), 1 / SAMPLE_RATE)
    assert power[hz > 4500].mean() < 1e-3 * power[(hz > 500) & (hz < 3000)].mean()


def test_gain_clips_at_full_scale() -> None:
    assert np.abs(Gain(40.0).apply(SPEECH)).max() == 1.0
    np.testing.assert_allclose(Gain(-20.0).apply(SPEECH), SPEECH / 10, rtol=1e-5)


def test_draws_follow_from_their_generator_and_probabilities() -> None:
    drawn = [draw_effects(EVERYTHING, 0, (), np.random.default_rng(seed)) for seed in range(300)]
    assert drawn == [draw_effects(EVERYTHING, 0, (), np.random.default_rng(seed)) for seed in range(300)]
    for kind in (Speed, Pitch, Room, ColouredNoise, Gain, Codec):
        assert 110 < sum(isinstance(e, kind) for effects in drawn for e in effects) < 190, kind
    assert {e.kind for effects in drawn for e in effects if isinstance(e, Codec)} == set(CODECS)
    assert not draw_effects(AugmentConfig(start_epoch=0), 0, (), np.random.default_rng(0))


def test_one_setting_leaves_the_other_draws_alone() -> None:
    without = replace(EVERYTHING, speed=SpeedConfig(), room=RoomConfig(0.5, rooms=3, start_epoch=9))
    for seed in range(50):
        fewer = draw_effects(without, 0, (), np.random.default_rng(seed))
        more = draw_effects(EVERYTHING, 0, (), np.random.default_rng(seed))
        assert fewer == [e for e in more if not isinstance(e, (Speed, Room))]


def test_each_augmentation_has_its_start_epoch() -> None:
    config = replace(
        EVERYTHING,
        start_epoch=3,
        gain=GainConfig(1.0, start_epoch=5),
        pitch=PitchConfig(1.0),
        speed=SpeedConfig(1.0, start_epoch=0),
    )
    kinds = [
        {type(e) for e in draw_effects(config, epoch, (), np.random.default_rng(1))} & {Gain, Pitch, Speed}
        for epoch in (0, 2, 3, 5)
    ]
    assert kinds == [{Speed}, {Speed}, {Speed, Pitch}, {Speed, Pitch, Gain}]
    assert (config.earliest_epoch, config.latest_epoch) == (3, 5)
    assert AugmentConfig(start_epoch=4, masks_start_epoch=1).earliest_epoch == 1


def test_feature_augmentation_has_start_epochs_too() -> None:
    log_mels_TF = np.random.default_rng(0).normal(size=(100, 80)).astype(np.float32)
    config = AugmentConfig(
        start_epoch=2, stretch_probability=1, stretch_start_epoch=5, warp_probability=1, warp_start_epoch=-1
    )
    told: list[list[str]] = []
    for epoch in (1, 2, 5):
        told.append([])
        augment(log_mels_TF, config, np.random.default_rng(0), epoch=epoch, told=told[-1])
    assert [len(one) for one in told] == [0, 1, 2]


@given(st.integers(0, 2**32), st.integers(60, 100))
def test_no_draw_leaves_fewer_frames_than_the_labels_need(seed: int, min_frames: int) -> None:
    config = AugmentConfig(stretch_probability=1, stretch=0.5, crop_probability=1)
    log_mels_TF = np.full((100, 80), -12.0, np.float32)
    log_mels_TF[30:60] = 3.0
    assert len(augment(log_mels_TF, config, np.random.default_rng(seed), min_frames=min_frames)) >= min_frames
    fast = replace(EVERYTHING, speed=SpeedConfig(1.0, low=1.5, high=2.0))
    speeds = draw_effects(fast, 0, (), np.random.default_rng(seed), fastest=100 / min_frames)
    assert speeds[0] == Speed(min(speeds[0].factor, 100 / min_frames))


def test_crop_takes_nothing_but_quiet_frames() -> None:
    config = AugmentConfig(stretch_probability=0, warp_probability=0, crop_probability=1)
    log_mels_TF = np.full((100, 80), -12.0, np.float32)
    log_mels_TF[30:60] = 3.0
    lengths = set()
    for seed in range(50):
        cropped_TF = augment(log_mels_TF, config, np.random.default_rng(seed))
        assert (cropped_TF[:, 0] > 0).sum() == 30
        assert np.flatnonzero(cropped_TF[:, 0] > 0)[0] >= 5
        lengths.add(len(cropped_TF))
    assert len(lengths) > 20
    assert min(lengths) >= 40


def test_noise_files_are_found_and_their_absence_is_said(tmp_path: Path) -> None:
    (tmp_path / "traffic").mkdir()
    write_wav(tmp_path / "traffic" / "b.wav", _tone(100))
    write_wav(tmp_path / "a.wav", _tone(100))
    config = AugmentConfig(start_epoch=0, noise_files=NoiseFilesConfig(1.0, folder=str(tmp_path)))
    files = noise_files(config)
    assert [path.name for path in files] == ["a.wav", "b.wav"]
    chosen = [draw_effects(config, 0, files, np.random.default_rng(s))[0] for s in range(20)]
    assert {e.path for e in chosen if isinstance(e, FileNoise)} == set(files)
    with pytest.raises(ValueError, match="holds no audio file"):
        noise_files(AugmentConfig(noise_files=NoiseFilesConfig(1.0, folder=str(tmp_path / "none"))))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseFilesConfig(0.5), "needs a folder"),
        (lambda: GainConfig(1.5), r"in 0\.\.1"),
        (lambda: SpeedConfig(0.5, low=0.1), r"0\.5\.\.2"),
        (lambda: ColouredNoiseConfig(0.5, snr_low_db=9, snr_high_db=3), "above"),
        (lambda: CodecConfig(0.5, telephone=0, mobile=0, band=0, mp3=0, opus=0), "weights"),
        (lambda: RoomConfig(0.5, rooms=0), "room"),
        (lambda: PitchConfig(0.5, semitones=40), "semitones"),
        (lambda: AugmentConfig(warp_probability=2), "warp_probability"),
    ],
)
def test_impossible_settings_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()


def _tone(hz: float) -> Samples:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)


def _loudest_hz(samples: Samples) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * SAMPLE_RATE / len(samples))


def _delay(before: Samples, after: Samples) -> float:
    """Seconds by which the loudness of one lags behind the other's."""
    loudness = [np.convolve(np.abs(s), np.ones(160) / 160, "same")[::16] for s in (before, after)]
    loudness = [part - part.mean() for part in loudness]
    lag = int(np.correlate(loudness[1], loudness[0], "full").argmax()) - (len(loudness[0]) - 1)
    return lag * 16 / SAMPLE_RATE
