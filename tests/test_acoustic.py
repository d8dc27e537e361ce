"""The acoustic model: lengths, masks, and padding that changes nothing."""

import pytest
import torch

from asr.acoustic.masking import frame_mask, reversed_within_lengths
from asr.acoustic.residual_gru import ResidualGru, ResidualGruSettings


def _model(subsampling: int) -> ResidualGru:
    torch.manual_seed(5)
    settings = ResidualGruSettings(
        vocab_size=11,
        subsampling=subsampling,
        conv_channels=4,
        conv_blocks=1,
        width=16,
        gru_hidden=12,
        gru_blocks=2,
    )
    return ResidualGru(settings).eval()


@pytest.mark.parametrize("subsampling", [4, 8])
def test_padding_never_changes_a_result(subsampling: int) -> None:
    model = _model(subsampling)
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
            n_frames = -(-length // subsampling)
            assert alone_length_B.tolist() == [n_frames]
            assert out_lengths_B[row] == n_frames
            torch.testing.assert_close(padded_BTV[row, :n_frames], alone_BTV[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(filled_BTV[row, :n_frames], alone_BTV[0], atol=1e-5, rtol=1e-5)


def test_outputs_are_log_probabilities() -> None:
    with torch.inference_mode():
        log_probs_BTV, _ = _model(4)(torch.randn(2, 30, 80), torch.tensor([30, 20]))
    assert log_probs_BTV.dtype == torch.float32
    torch.testing.assert_close(log_probs_BTV.exp().sum(-1), torch.ones(2, 8))


def test_both_directions_reach_every_frame() -> None:
    """The first output depends on the last frame and the other way round."""
    model = _model(4)
    features_BTF = torch.randn(1, 60, 80, requires_grad=True)
    log_probs_BTV, _ = model(features_BTF, torch.tensor([60]))
    (from_first,) = torch.autograd.grad(log_probs_BTV[0, 0, 3], features_BTF, retain_graph=True)
    (from_last,) = torch.autograd.grad(log_probs_BTV[0, -1, 3], features_BTF)
    assert from_first[0, -1].abs().max() > 0
    assert from_last[0, 0].abs().max() > 0


def test_reversal_is_its_own_inverse_and_leaves_padding() -> None:
    values_BTD = torch.arange(10.0).reshape(2, 5, 1)
    lengths_B = torch.tensor([3, 5])
    reversed_BTD = reversed_within_lengths(values_BTD, lengths_B)
    assert reversed_BTD[0, :, 0].tolist() == [2, 1, 0, 3, 4]
    assert reversed_BTD[1, :, 0].tolist() == [9, 8, 7, 6, 5]
    torch.testing.assert_close(reversed_within_lengths(reversed_BTD, lengths_B), values_BTD)


@pytest.mark.parametrize("wrong", [{"subsampling": 3}, {"n_mels": 81}, {"dropout": 1.0}, {"vocab_size": 0}])
def test_impossible_sizes_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ResidualGruSettings(**{"vocab_size": 10, **wrong})
