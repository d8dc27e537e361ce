"""log Z against every path written out, and its gradient against finite differences."""

import math
from itertools import groupby, pairwise, product

import pytest
import torch

from training.label_graph import LabelGraph

N_OUTPUTS, N_FRAMES = 4, 5
LENGTHS_B = torch.tensor([5, 3, 1])


def _graph() -> LabelGraph:
    """Weights of any kind: nothing must rest on their adding up to 1."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((N_OUTPUTS - 1,), (N_OUTPUTS - 1, N_OUTPUTS - 1), (N_OUTPUTS,))
    return LabelGraph(*(torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes))


def _log_probs() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    shape = (len(LENGTHS_B), N_FRAMES, N_OUTPUTS)
    return (2 * torch.randn(shape, generator=generator, dtype=torch.float64)).log_softmax(-1)


def _weight(labels: list[int], graph: LabelGraph) -> float:
    if not labels:
        return float(graph.end_V[0])
    weight = float(graph.start_N[labels[0] - 1] * graph.end_V[labels[-1]])
    return weight * math.prod(float(graph.follow_NN[a - 1, b - 1]) for a, b in pairwise(labels))


def test_log_z_sums_over_every_path() -> None:
    graph, log_probs_BTV = _graph(), _log_probs()
    expected = []
    for log_probs_TV, n_frames in zip(log_probs_BTV, LENGTHS_B.tolist(), strict=True):
        total = 0.0
        for path in product(range(N_OUTPUTS), repeat=n_frames):
            labels = [label for label, _ in groupby(path) if label]
            seen = math.exp(sum(float(log_probs_TV[t, v]) for t, v in enumerate(path)))
            total += seen * _weight(labels, graph)
        expected.append(math.log(total))
    assert graph.log_z(log_probs_BTV, LENGTHS_B).tolist() == pytest.approx(expected, abs=1e-9)


def test_gradients_are_those_of_finite_differences_and_zero_past_the_lengths() -> None:
    graph, log_probs_BTV = _graph(), _log_probs().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: graph.log_z(x, LENGTHS_B), (log_probs_BTV,))
    graph.log_z(log_probs_BTV, LENGTHS_B).sum().backward()
    assert log_probs_BTV.grad is not None
    for gradient_TV, n_frames in zip(log_probs_BTV.grad, LENGTHS_B.tolist(), strict=True):
        # A path is at one output in each of its frames.
        torch.testing.assert_close(gradient_TV[:n_frames].sum(1), torch.ones(n_frames, dtype=torch.float64))
        assert not gradient_TV[n_frames:].any()


def test_long_recordings_do_not_vanish_in_float32() -> None:
    """Their probabilities are far below what a float can hold; by themselves and beside others, the same."""
    graph = LabelGraph.estimate([[1, 2, 3, 1], [2, 3]], N_OUTPUTS)
    generator = torch.Generator().manual_seed(3)
    log_probs_BTV = (5 * torch.randn(2, 900, N_OUTPUTS, generator=generator)).log_softmax(-1)
    log_probs_BTV.requires_grad_()
    found_B = graph.log_z(log_probs_BTV, torch.tensor([900, 400]))
    assert bool(found_B.isfinite().all())
    assert bool((found_B < -100).all())
    alone = graph.log_z(log_probs_BTV[1:, :400], torch.tensor([400]))
    torch.testing.assert_close(alone, found_B[1:])
    (gradient_BTV,) = torch.autograd.grad(found_B.sum(), log_probs_BTV)
    torch.testing.assert_close(gradient_BTV[0].sum(1), torch.ones(900), atol=1e-3, rtol=0)


def test_a_bigram_is_what_follows_what_and_never_nothing() -> None:
    graph = LabelGraph.estimate(20 * [[1, 2], [1, 2, 1]] + [[]], N_OUTPUTS)
    outgoing = torch.cat([graph.follow_NN, graph.end_V[1:, None]], dim=1).sum(1)
    torch.testing.assert_close(outgoing, torch.ones(N_OUTPUTS - 1))
    torch.testing.assert_close(graph.start_N.sum() + graph.end_V[0], torch.ones(()))
    assert graph.start_N[0] > 0.9
    assert graph.follow_NN[0, 1] > 0.6
    assert graph.follow_NN[0, 1] > graph.follow_NN[1, 1]
    assert float(torch.cat([graph.follow_NN.flatten(), graph.start_N, graph.end_V]).min()) > 0  # 3 is unseen
