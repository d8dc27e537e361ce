"""The acoustic model in whole numbers: as good as the torch model, and the same bits in every batch."""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.acoustic.int16_gru import Int16Gru, _packed, fits
from asr.acoustic.int16_kernels import LARGEST, gelu, tanh
from asr.acoustic.listener import AcousticPrecision, heard_in_one_pass, listener
from asr.acoustic.residual_gru import ResidualGru, ResidualGruSettings

SMALL = ResidualGruSettings(
    vocab_size=11, subsampling=4, conv_channels=4, conv_blocks=1, width=16, gru_hidden=12, gru_blocks=2
)
SHAPES = {
    "4x": SMALL,
    "8x, two outputs a frame": replace(SMALL, subsampling=8, upsampling=2, conv_blocks=2),
    "phones too": replace(SMALL, subsampling=8, phones=9),
    "a tower": replace(
        SMALL, subsampling=8, phones=9, tower_blocks=2, tower_channels=4, tower_width=18, tower_bottleneck=6
    ),
    "both by shares": replace(SMALL, subsampling=8, phones=70, tower_blocks=1, tower_share=0.4),
    "a tower that hears pieces": replace(
        SMALL,
        subsampling=8,
        phones=9,
        tower_blocks=1,
        tower_width=18,
        tower_share=0.4,
        tower_pieces_share=0.3,
    ),
    "pieces of the tower's alone": replace(
        SMALL, subsampling=8, phones=9, tower_blocks=1, tower_width=18, tower_pieces_share=1.0
    ),
    "several panels": replace(SMALL, vocab_size=70, width=70, gru_hidden=34, conv_channels=34),
}
CPU = torch.device("cpu")


@lru_cache
def _model(shape: ResidualGruSettings) -> ResidualGru:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = ResidualGru(shape).eval().requires_grad_(False)
        for parameter in model.parameters():  # norms and biases that do something
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def _features(lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(sum(lengths))
    return [rng.standard_normal((length, 80)).astype(np.float32) for length in lengths]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_it_hears_what_the_torch_model_hears(shape: ResidualGruSettings) -> None:
    features = _features([37, 1, 64, 50, 9, 8, 3])
    expected = heard_in_one_pass(_model(shape), [torch.from_numpy(one) for one in features])
    for length, found, wanted in zip(
        map(len, features), Int16Gru(_model(shape))(features), expected, strict=True
    ):
        assert found.shape == (shape.output_frames(length), shape.n_columns)
        np.testing.assert_allclose(found, wanted, atol=1e-2)


@pytest.mark.parametrize("shape", [SMALL, SHAPES["a tower that hears pieces"]], ids=["no tower", "tower"])
@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=14), st.randoms())
def test_a_recording_gives_the_same_bits_alone_and_in_any_batch(
    shape: ResidualGruSettings, lengths: list[int], random: object
) -> None:
    model = Int16Gru(_model(shape))
    features = _features(lengths)
    alone = [model([one])[0] for one in features]
    order = list(range(len(features)))
    random.shuffle(order)  # type: ignore[attr-defined]
    for place, found in zip(order, model([features[place] for place in order]), strict=True):
        assert found.tobytes() == alone[place].tobytes()


@pytest.mark.parametrize("loudness", [0.0, 1e-6, 1e6])
def test_any_loudness_gives_log_probabilities(loudness: float) -> None:
    (found,) = Int16Gru(_model(SMALL))([loudness * _features([30])[0]])
    np.testing.assert_allclose(np.exp(found).sum(axis=-1), 1.0, atol=1e-5)


@given(st.integers(1, 700), st.floats(0.0, 1.0), st.integers(0, 9))
def test_no_sum_leaves_32_bits(n_pairs: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((3, 1, 2 * n_pairs)) * (rng.random((3, 1, 2 * n_pairs)) < share)
    panels = _packed(weight, np.zeros(3)).panels.astype(np.int64)
    by_column = np.abs(panels.reshape(-1, 64, 2)).sum(axis=(0, 2))
    assert by_column.max() * LARGEST < 2**31


def test_approximations_are_near() -> None:
    near_tanh, near_gelu = tanh.py_func, gelu.py_func  # type: ignore[attr-defined]
    for x in np.linspace(-12, 12, 2001, dtype=np.float32):
        assert abs(near_tanh(x) - math.tanh(x)) < 3e-6
        assert abs(near_gelu(x) - x * (1 + math.erf(x / math.sqrt(2))) / 2) < 1e-5 * max(1.0, abs(x))


def test_models_that_do_not_fit_are_heard_by_torch() -> None:
    for shape in (replace(SMALL, self_condition_every=1), replace(SMALL, gru_hidden=11)):
        assert not fits(shape)
        features = [torch.from_numpy(one) for one in _features([20, 9])]
        expected = heard_in_one_pass(_model(shape), features)
        for found, wanted in zip(listener(_model(shape), CPU, "int16")(features), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES.values() if shape.tower_blocks])
@pytest.mark.parametrize("precision", ["int16", "float32"])
def test_phones_are_heard_for_those_who_want_them(
    precision: AcousticPrecision, shape: ResidualGruSettings
) -> None:
    features = [torch.from_numpy(one) for one in _features([37, 20, 64])]
    hear = listener(_model(shape), CPU, precision)
    whole, some, none = (hear(features, phones) for phones in ([True] * 3, [True, False, True], [False] * 3))
    n_pieces = shape.vocab_size
    for place, rows_TC in enumerate(whole):
        assert rows_TC.shape[1] == shape.n_columns
        np.testing.assert_array_equal(none[place], rows_TC[:, :n_pieces])
        np.testing.assert_array_equal(some[place], rows_TC[:, :n_pieces] if place == 1 else rows_TC)
