"""The GRU to learn with is torch's: states and gradients."""

import pytest
import torch
from torch import nn

from asr.acoustic.gru import bidirectional_gru
from asr.acoustic.masking import frame_mask, reversed_within_lengths


def _grus(width: int, hidden: int) -> tuple[nn.GRU, nn.GRU]:
    torch.manual_seed(2)
    return nn.GRU(width, hidden, batch_first=True), nn.GRU(width, hidden, batch_first=True)


def _by_torch(x_BTD: torch.Tensor, lengths_B: torch.Tensor, ahead: nn.GRU, back: nn.GRU) -> torch.Tensor:
    ahead_BTH, _ = ahead(x_BTD)
    back_BTH, _ = back(reversed_within_lengths(x_BTD, lengths_B))
    return torch.cat([ahead_BTH, reversed_within_lengths(back_BTH, lengths_B)], dim=-1)


@pytest.mark.parametrize("lengths", [[13, 9, 4, 1, 12], [7], [1, 1]], ids=["mixed", "one", "one frame"])
def test_states_and_gradients_are_torchs(lengths: list[int]) -> None:
    ahead, back = _grus(12, 8)
    lengths_B = torch.tensor(lengths)
    mask_BT = frame_mask(lengths_B, max(lengths))
    x_BTD = torch.randn(len(lengths), max(lengths), 12, requires_grad=True)
    weights_BTH = torch.randn(len(lengths), max(lengths), 16) * mask_BT[..., None]
    learnt = [x_BTD, *ahead.parameters(), *back.parameters()]
    expected_BTH = _by_torch(x_BTD, lengths_B, ahead, back)
    expected = torch.autograd.grad((expected_BTH * weights_BTH).sum(), learnt)
    found_BTH = bidirectional_gru(x_BTD, mask_BT, ahead, back)
    found = torch.autograd.grad((found_BTH * weights_BTH).sum(), learnt)
    torch.testing.assert_close(found_BTH[mask_BT], expected_BTH[mask_BT], rtol=0, atol=1e-6)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_in_bfloat16_it_is_near_float32() -> None:
    ahead, back = _grus(24, 16)
    lengths_B = torch.tensor([20, 11])
    mask_BT = frame_mask(lengths_B, 20)
    x_BTD = torch.randn(2, 20, 24)
    learnt = [*ahead.parameters(), *back.parameters()]
    exact_BTH = _by_torch(x_BTD, lengths_B, ahead, back)
    exact = torch.autograd.grad(exact_BTH[mask_BT].square().sum(), learnt)
    with torch.autocast("cpu", torch.bfloat16):
        low_BTH = bidirectional_gru(x_BTD, mask_BT, ahead, back)
    low = torch.autograd.grad(low_BTH[mask_BT].float().square().sum(), learnt)
    assert low_BTH.dtype is torch.bfloat16
    assert (low_BTH - exact_BTH)[mask_BT].abs().max() < 0.02
    for one, other in zip(low, exact, strict=True):
        assert (one - other).norm() < 0.03 * other.norm()
