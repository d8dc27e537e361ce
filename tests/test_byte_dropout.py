"""Dropout with a byte of randomness a value."""

import pytest
import torch

from asr.acoustic.byte_dropout import ByteDropout


def test_evaluation_changes_nothing() -> None:
    x = torch.randn(3, 5)
    assert torch.equal(ByteDropout(0.5).eval()(x), x)


def test_no_dropout_changes_nothing() -> None:
    x = torch.randn(3, 5)
    assert torch.equal(ByteDropout(0.0)(x), x)


@pytest.mark.parametrize("p", [0.1, 0.25, 0.9])
def test_drops_its_share_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    y = ByteDropout(p)(torch.ones(100_001))
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.005)
    assert y.mean().item() == pytest.approx(1.0, rel=0.02)
    kept = y[y != 0]
    assert torch.equal(kept, torch.full_like(kept, 256 / (256 - round(256 * p))))


def test_the_generator_decides_and_neighbours_differ() -> None:
    x, dropout = torch.ones(7, 11, 13), ByteDropout(0.5)
    torch.manual_seed(1)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(1)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(second, first)
    agree = (first.flatten()[1:] == first.flatten()[:-1]).float().mean().item()
    assert 0.4 < agree < 0.6  # neighbouring values are drawn apart


def test_gradients_and_16_bits() -> None:
    torch.manual_seed(2)
    x = torch.ones(1000, dtype=torch.bfloat16, requires_grad=True)
    y = ByteDropout(0.5)(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_refuses_what_is_not_a_probability_below_1(p: float) -> None:
    with pytest.raises(ValueError, match="dropout"):
        ByteDropout(p)
