"""Configuration, batches, augmentation and schedule."""

import tomllib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.augment import augment, mask
from training.batches import epoch_batches
from training.config import AugmentConfig, OptimConfig, TrainConfig, load_config
from training.config_tables import ConfigError
from training.corpus import needed_frames
from training.optimisation import learning_rate
from training.toml_writer import to_toml

MINIMAL = '[data]\ntrain = "a"\ndev = "b"\ntokenizer = "c"\n'


def _config(tmp_path: Path, text: str = MINIMAL, overrides: tuple[str, ...] = ()) -> TrainConfig:
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    return load_config(tmp_path / "c.toml", list(overrides))


def test_overrides_reach_their_field(tmp_path: Path) -> None:
    config = _config(
        tmp_path, overrides=("optim.lr=3e-4", "optim.schedule=onecycle", "data.repeat.cv=2", "seed=7")
    )
    assert (config.optim.lr, config.optim.schedule, config.data.repeat, config.seed) == (
        3e-4,
        "onecycle",
        {"cv": 2},
        7,
    )


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        (
            MINIMAL + "[optim]\nlearning_rate = 1\n",
            "seed=1",
            r"unknown key optim\.learning_rate; known: .*lr",
        ),
        (MINIMAL, "optim.epochs=ten", r"optim\.epochs must be int"),
        (MINIMAL, "optim.epochs=true", r"optim\.epochs must be int"),
        (MINIMAL, "optim.schedule=linear", r"optim\.schedule must be one of 'cosine', 'onecycle', 'noam'"),
        (MINIMAL, "optim=3", r"optim must be a table"),
        (MINIMAL, "nonsense", r"expected section\.key=value"),
        ('[data]\ntrain = "a"\n', "seed=1", r"missing key data\.dev"),
        ("[data\n", "seed=1", r"c\.toml"),
    ],
)
def test_what_a_config_gets_wrong_is_named(tmp_path: Path, text: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _config(tmp_path, text, (override,))


def test_config_survives_its_own_toml(tmp_path: Path) -> None:
    config = _config(tmp_path, overrides=("data.repeat.common-voice=2", "optim.autocast=bf16"))
    text = to_toml(asdict(config))
    assert tomllib.loads(text) == asdict(config) | {"stages": []}
    assert _config(tmp_path, text) == config


def test_shipped_configs_load() -> None:
    paths = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))
    assert paths
    for path in paths:
        assert all(wave.config.optim.epochs > 0 for wave in load_config(path, []).waves())


@given(st.lists(st.floats(0.3, 20), min_size=1, max_size=60), st.integers(0, 3), st.floats(20, 200))
def test_every_utterance_comes_as_often_as_asked_in_batches_that_fit(
    seconds: list[float], epoch: int, batch_s: float
) -> None:
    durations_s = np.array(seconds)
    repeats = np.arange(len(seconds)) % 3
    batches = epoch_batches(durations_s, repeats, batch_s=batch_s, seed=1, epoch=epoch)
    seen = np.bincount(np.concatenate([*batches, np.array([], int)]).astype(int), minlength=len(seconds))
    np.testing.assert_array_equal(seen, repeats)
    assert all(len(b) == 1 or len(b) * durations_s[b].max() <= batch_s for b in batches)
    again = epoch_batches(durations_s, repeats, batch_s=batch_s, seed=1, epoch=epoch)
    assert [b.tolist() for b in batches] == [b.tolist() for b in again]


def test_first_epoch_goes_from_short_to_long_and_later_ones_differ() -> None:
    durations_s = np.random.default_rng(0).uniform(1, 15, 300)
    ones = np.ones(300, int)
    first, second, third = (epoch_batches(durations_s, ones, batch_s=60, seed=1, epoch=e) for e in range(3))
    assert np.all(np.diff([durations_s[b].max() for b in first]) >= 0)
    assert [b.tolist() for b in second] != [b.tolist() for b in third]
    padded = sum(len(b) * durations_s[b].max() for b in second)
    assert padded < 1.2 * durations_s.sum()


def test_augmentation_is_drawn_from_its_generator_alone() -> None:
    log_mels_TF = np.random.default_rng(0).normal(size=(200, 80)).astype(np.float32)
    config = AugmentConfig()
    once, twice = (augment(log_mels_TF, config, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(once, twice)
    lengths = {len(augment(log_mels_TF, config, np.random.default_rng(seed))) for seed in range(60)}
    assert min(lengths) >= 200 * (1 - config.stretch) - 1
    assert max(lengths) <= 200 * (1 + config.stretch) + 1
    assert len(lengths) > 10


def test_stretch_and_warp_of_nothing_change_nothing() -> None:
    log_mels_TF = np.random.default_rng(0).normal(size=(50, 80)).astype(np.float32)
    still = AugmentConfig(stretch_probability=1, stretch=0.0, warp_probability=1, warp=0.0)
    np.testing.assert_allclose(augment(log_mels_TF, still, np.random.default_rng(0)), log_mels_TF, atol=1e-5)


def test_warp_moves_a_peak_along_the_frequency_axis() -> None:
    log_mels_TF = np.zeros((4, 80), np.float32)
    log_mels_TF[:, 40] = 1.0
    config = AugmentConfig(stretch_probability=0, warp_probability=1, warp=0.1)
    peaks = {int(augment(log_mels_TF, config, np.random.default_rng(s))[0].argmax()) for s in range(40)}
    assert min(peaks) >= 36
    assert max(peaks) <= 45
    assert len(peaks) > 3


def test_noise_fills_what_is_quieter_and_leaves_what_is_louder() -> None:
    log_mels_TF = np.full((100, 80), -10.0, np.float32)
    log_mels_TF[40:60] = 3.0
    snr = {"noise_snr_low_db": 20.0, "noise_snr_high_db": 20.0}
    config = AugmentConfig(stretch_probability=0, warp_probability=0, noise_probability=1, **snr)
    for seed in range(20):
        noisy_TF = augment(log_mels_TF, config, np.random.default_rng(seed))
        mean_power = np.mean(np.exp(log_mels_TF))
        quiet_power = np.mean(np.exp(noisy_TF[:40]).mean(axis=0)[35:45])  # in the middle of the tilt
        assert 10 * np.log10(mean_power / quiet_power) == pytest.approx(20, abs=2.5)
        assert np.abs(noisy_TF[40:60] - 3.0)[:, 40].max() < 0.2


def test_masks_cover_what_they_may() -> None:
    config = AugmentConfig(masks_probability=1.0)
    for seed in range(30):
        masked_TF = mask(np.ones((300, 80), np.float32), config, np.random.default_rng(seed))
        bands = int((masked_TF == 0).all(axis=0).sum())
        frames = int((masked_TF == 0).all(axis=1).sum())
        assert bands <= config.frequency_masks * config.frequency_mask_bands
        assert frames <= 2 * config.time_mask_fraction * 300
    assert mask(np.ones((1, 80), np.float32), config, np.random.default_rng(0)).shape == (1, 80)


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "noam"])
def test_learning_rate_rises_to_its_peak_and_falls(schedule: str) -> None:
    optim = OptimConfig(lr=1e-3, schedule=schedule, warmup_fraction=0.1)
    rates = [learning_rate(step, 1000, optim) for step in range(1000)]
    peak = int(np.argmax(rates))
    assert peak in range(98, 102)
    assert rates[peak] == pytest.approx(1e-3, rel=1e-3)
    assert np.all(np.diff(rates[:peak]) > 0)
    assert np.all(np.diff(rates[peak + 1 :]) < 0)
    end = 1e-3 * 0.1**0.5 if schedule == "noam" else 1e-5  # noam: at ten times the warm-up
    assert rates[-1] == pytest.approx(end, rel=0.01)


def test_repeated_labels_need_a_blank_between_them() -> None:
    assert needed_frames([3, 3, 4, 4, 4]) == 8
    assert needed_frames([]) == 0
