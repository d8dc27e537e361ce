"""The acoustic models: lengths, masks, and padding that changes nothing."""

import json
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.acoustic.conformer import ConformerSettings
from asr.acoustic.kinds import ADDED_LATER, KINDS, AcousticModel, AcousticSettings, build, kind_of, to_section
from asr.acoustic.masking import frame_mask, reversed_within_lengths
from asr.acoustic.residual_gru import ResidualGruSettings
from asr.bundle_checks import acoustic_from_dict
from asr.errors import MismatchError

GRU = ResidualGruSettings(
    vocab_size=11, subsampling=4, conv_channels=4, conv_blocks=1, width=16, gru_hidden=12, gru_blocks=2
)
CONFORMER = ConformerSettings(
    vocab_size=11, subsampling=4, conv_channels=4, width=16, heads=2, blocks=2, expansion=2, kernel=7
)
CONDITIONED = {"self_condition_every": 1}
SHAPES = {
    "gru 4x": GRU,
    "gru 8x": replace(GRU, subsampling=8),
    "gru 8x, two outputs a frame": replace(GRU, subsampling=8, upsampling=2),
    "gru, self-conditioned": replace(GRU, upsampling=2, **CONDITIONED),
    "conformer 4x": CONFORMER,
    "conformer 8x": replace(CONFORMER, subsampling=8),
    "conformer 8x, self-conditioned, three outputs a frame": replace(
        CONFORMER, subsampling=8, upsampling=3, **CONDITIONED
    ),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def _model(shape: AcousticSettings) -> AcousticModel:
    torch.manual_seed(5)
    return build(shape).eval()


@shapes
def test_padding_never_changes_a_result(shape: AcousticSettings) -> None:
    model = _model(shape)
    lengths_B = torch.tensor([37, 1, 64, 50, 9])
    features_BTF = torch.randn(5, 64, 80)
    with torch.inference_mode():
        padded_BTV, out_lengths_B = model(features_BTF, lengths_B)
        # whatever lies in the padding, and however much of it there is
        filled_BTF = torch.where(frame_mask(lengths_B, 64)[:, :, None], features_BTF, torch.full((), 1e3))
        filled_BTF = torch.cat([filled_BTF, torch.full((5, 23, 80), -7.0)], dim=1)
        filled_BTV, _ = model(filled_BTF, lengths_B)
        for row, length in enumerate(lengths_B.tolist()):
            alone_BTV, alone_length_B = model(features_BTF[row : row + 1, :length], lengths_B[row : row + 1])
            n_frames = shape.output_frames(length)
            assert alone_BTV.shape[1] == n_frames
            assert alone_length_B.tolist() == [n_frames]
            assert out_lengths_B[row] == n_frames
            torch.testing.assert_close(padded_BTV[row, :n_frames], alone_BTV[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(filled_BTV[row, :n_frames], alone_BTV[0], atol=1e-5, rtol=1e-5)


@shapes
def test_padding_gets_and_gives_no_gradient(shape: AcousticSettings) -> None:
    features_BTF = torch.randn(2, 40, 80, requires_grad=True)
    log_probs_BTV, lengths_B = _model(shape)(features_BTF, torch.tensor([40, 13]))
    log_probs_BTV[1, : int(lengths_B[1])].sum().backward()
    assert features_BTF.grad is not None
    assert features_BTF.grad[0].abs().max() == 0
    assert features_BTF.grad[1, 13:].abs().max() == 0
    assert features_BTF.grad[1, :13].abs().max() > 0


@shapes
def test_outputs_are_log_probabilities(shape: AcousticSettings) -> None:
    with torch.inference_mode():
        log_probs_BTV, lengths_B = _model(shape)(torch.randn(2, 30, 80), torch.tensor([30, 20]))
    assert log_probs_BTV.dtype == torch.float32
    assert log_probs_BTV.shape == (2, int(lengths_B[0]), 11)
    torch.testing.assert_close(log_probs_BTV.exp().sum(-1), torch.ones(log_probs_BTV.shape[:2]))


@pytest.mark.parametrize("shape", [GRU, CONFORMER], ids=["gru", "conformer"])
def test_every_frame_reaches_every_output(shape: AcousticSettings) -> None:
    """The first output depends on the last frame and the other way round."""
    model = _model(shape)
    features_BTF = torch.randn(1, 60, 80, requires_grad=True)
    log_probs_BTV, _ = model(features_BTF, torch.tensor([60]))
    (from_first,) = torch.autograd.grad(log_probs_BTV[0, 0, 3], features_BTF, retain_graph=True)
    (from_last,) = torch.autograd.grad(log_probs_BTV[0, -1, 3], features_BTF)
    assert from_first[0, -1].abs().max() > 0
    assert from_last[0, 0].abs().max() > 0


@shapes
def test_intermediate_outputs_leave_the_last_as_it_is(shape: AcousticSettings) -> None:
    model = _model(shape)
    features_BTF, lengths_B = torch.randn(2, 50, 80), torch.tensor([50, 31])
    with torch.inference_mode():
        expected_BTV, expected_B = model(features_BTF, lengths_B)
        outputs, out_B = model.at_blocks(features_BTF, lengths_B, (1,))
    assert [o.shape for o in outputs] == [expected_BTV.shape] * 2
    assert torch.equal(outputs[-1], expected_BTV)
    assert torch.equal(out_B, expected_B)
    assert not torch.equal(outputs[0], outputs[1])


@pytest.mark.parametrize("shape", [GRU, CONFORMER], ids=["gru", "conformer"])
def test_self_conditioning_feeds_posteriors_back(shape: AcousticSettings) -> None:
    """Without the projection's weights the conditioned model is the plain one; with them it is not."""
    plain, conditioned = _model(shape), _model(replace(shape, **CONDITIONED))
    state = conditioned.state_dict()
    conditioned.load_state_dict(state | plain.state_dict())
    features_BTF, lengths_B = torch.randn(1, 40, 80), torch.tensor([40])
    with torch.inference_mode():
        assert not torch.allclose(plain(features_BTF, lengths_B)[0], conditioned(features_BTF, lengths_B)[0])
        assert conditioned.condition is not None
        for parameter in conditioned.condition.parameters():
            parameter.zero_()
        torch.testing.assert_close(plain(features_BTF, lengths_B)[0], conditioned(features_BTF, lengths_B)[0])


def test_upsampling_writes_a_frames_outputs_one_after_another() -> None:
    model = _model(replace(GRU, upsampling=2))
    single = _model(replace(GRU, vocab_size=22))
    single.load_state_dict(model.state_dict())  # the same weights, read as one frame of twice the outputs
    features_BTF, lengths_B = torch.randn(1, 40, 80), torch.tensor([40])
    with torch.inference_mode():
        log_probs_BTV, out_B = model(features_BTF, lengths_B)
        wide_BTV, _ = single(features_BTF, lengths_B)
    assert out_B.tolist() == [20]
    for half in range(2):
        expected_BTV = wide_BTV[:, :, 11 * half : 11 * half + 11].log_softmax(-1)
        torch.testing.assert_close(log_probs_BTV[:, half::2], expected_BTV)


def test_conformer_hears_distance_not_place() -> None:
    """Rotary positions: attention without convolutions sees only how far apart frames are."""
    from asr.acoustic.conformer import _rotated

    q_BTHK, k_BTHK = torch.randn(1, 1, 1, 8).expand(1, 40, 1, 8), torch.randn(1, 1, 1, 8).expand(1, 40, 1, 8)
    products_TT = (_rotated(q_BTHK)[0, :, 0] @ _rotated(k_BTHK)[0, :, 0].T).double()
    for distance in (0, 3, 17):
        diagonal = products_TT.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)
    assert (products_TT[0, 0] - products_TT[0, 17]).abs() > 1e-3


@given(st.integers(1, 90), st.sampled_from([4, 8]), st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_output_frames_are_what_the_models_give(n_features: int, subsampling: int, upsampling: int) -> None:
    for shape in (GRU, CONFORMER):
        sized = replace(shape, subsampling=subsampling, upsampling=upsampling)
        with torch.inference_mode():
            log_probs_BTV, lengths_B = build(sized)(
                torch.zeros(1, n_features, 80), torch.tensor([n_features])
            )
        assert log_probs_BTV.shape[1] == sized.output_frames(n_features) == int(lengths_B)
        assert sized.features_per_output == Fraction(subsampling, upsampling)


def test_reversal_is_its_own_inverse_and_leaves_padding() -> None:
    values_BTD = torch.arange(10.0).reshape(2, 5, 1)
    lengths_B = torch.tensor([3, 5])
    reversed_BTD = reversed_within_lengths(values_BTD, lengths_B)
    assert reversed_BTD[0, :, 0].tolist() == [2, 1, 0, 3, 4]
    assert reversed_BTD[1, :, 0].tolist() == [9, 8, 7, 6, 5]
    torch.testing.assert_close(reversed_within_lengths(reversed_BTD, lengths_B), values_BTD)


@pytest.mark.parametrize(
    "wrong",
    [{"subsampling": 3}, {"n_mels": 81}, {"dropout": 1.0}, {"vocab_size": 0}, {"upsampling": 0}],
)
@pytest.mark.parametrize("kind", ["residual_gru", "conformer"])
def test_impossible_sizes_are_refused(kind: str, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        KINDS[kind](**{"vocab_size": 10, **wrong})


@pytest.mark.parametrize("wrong", [{"kernel": 8}, {"heads": 5}, {"blocks": 0}, {"self_condition_every": -1}])
def test_impossible_conformers_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ConformerSettings(**{"vocab_size": 10, **wrong})


@shapes
def test_settings_come_back_from_a_bundles_index(shape: AcousticSettings) -> None:
    section = json.loads(json.dumps(to_section(shape)))
    assert section["kind"] == kind_of(shape)
    assert acoustic_from_dict(section, "acoustic") == shape
    with pytest.raises(MismatchError, match="acoustic lacks width"):
        acoustic_from_dict({k: v for k, v in section.items() if k != "width"}, "acoustic")


def test_an_index_of_before_there_were_kinds_is_a_residual_gru() -> None:
    index = json.loads((Path(__file__).parents[1] / "models" / "default" / "bundle.json").read_text())
    section = index["acoustic"] | {"kind": "residual_gru"}
    old = {key: value for key, value in asdict(GRU).items() if key in ResidualGruSettings.__annotations__}
    old = {k: v for k, v in old.items() if k not in ADDED_LATER["residual_gru"]}
    assert acoustic_from_dict(old, "acoustic") == GRU
    assert to_section(GRU) == {"kind": "residual_gru"} | old  # and its index keeps its bytes
    assert to_section(acoustic_from_dict(section, "acoustic")) == section
