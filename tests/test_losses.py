"""What a step minimises: against sums written out, and cut into parts in every way."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from asr.acoustic.conformer import ConformerSettings
from asr.acoustic.kinds import build
from asr.acoustic.residual_gru import ResidualGruSettings
from training.config import LossConfig, OptimConfig
from training.losses import Batch, Objective, ctc_sum, disagreement_sum
from training.optimisation import AveragedWeights, Progress, TrainingState
from training.processes import Processes
from training.step import StepResult, take_step

CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)
CTC = LossConfig()
OPTIM = OptimConfig(clip_norm=1e9)
SHAPE = ResidualGruSettings(
    vocab_size=7,
    subsampling=4,
    conv_channels=4,
    conv_blocks=0,
    width=12,
    gru_hidden=8,
    gru_blocks=2,
    dropout=0,
)
N_LABELS = 20


def _model(shape: ResidualGruSettings | ConformerSettings = SHAPE) -> torch.nn.Module:
    torch.manual_seed(1)
    return build(shape).train()


def _batch(n_views: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(4)
    views = tuple(torch.randn(5, 60, 80, generator=generator) for _ in range(n_views))
    targets_BL = torch.randint(1, 7, (5, 5), generator=generator)
    return Batch(views, torch.tensor([60, 44, 52, 60, 31]), targets_BL, torch.tensor([5, 3, 4, 5, 3]))


def _rows(batch: Batch, rows: slice) -> Batch:
    views = tuple(view[rows] for view in batch.views)
    return Batch(views, batch.lengths_B[rows], batch.targets_BL[rows], batch.target_lengths_B[rows])


def _step(
    batches: list[Batch],
    loss: LossConfig = CTC,
    optim: OptimConfig = OPTIM,
) -> tuple[TrainingState, StepResult]:
    model = _model()
    state = TrainingState.start(model, optim, Progress(), CPU)
    return state, take_step(state, Objective(model, loss, optim), batches, N_LABELS, optim, ALONE)


def _gradients(state: TrainingState) -> list[torch.Tensor]:
    return [p.grad.clone() for p in state.model.parameters() if p.grad is not None]


def test_ctc_is_minus_the_log_of_the_sum_over_alignments() -> None:
    """One label on three frames, by hand."""
    log_probs_TV = torch.randn(3, 3).log_softmax(-1)
    paths = [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (1, 1, 0), (1, 1, 1)]
    expected = -torch.logsumexp(
        torch.stack([sum(log_probs_TV[t, v] for t, v in enumerate(p)) for p in paths]), 0
    )
    found = ctc_sum(log_probs_TV[None], torch.tensor([3]), torch.tensor([[1]]), torch.tensor([1]))
    torch.testing.assert_close(found, expected)


def test_ctc_of_no_labels_is_minus_the_log_of_blanks_alone() -> None:
    """Recordings without words beside one with a label, and by themselves; value and gradient."""
    logits_BTV = torch.randn(2, 6, 5, dtype=torch.float64, requires_grad=True)
    log_probs_BTV = logits_BTV.log_softmax(-1)
    lengths_B = torch.tensor([6, 4])
    blanks = -(log_probs_BTV[0, :, 0].sum() + log_probs_BTV[1, :4, 0].sum())
    found = ctc_sum(log_probs_BTV, lengths_B, torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2).long())
    torch.testing.assert_close(found, blanks)
    (expected,) = torch.autograd.grad(blanks, logits_BTV, retain_graph=True)
    (gradient,) = torch.autograd.grad(found, logits_BTV, retain_graph=True)
    torch.testing.assert_close(gradient, expected)
    beside = ctc_sum(log_probs_BTV, lengths_B, torch.tensor([[0, 0], [3, 2]]), torch.tensor([0, 2]))
    (gradient,) = torch.autograd.grad(beside, logits_BTV)
    torch.testing.assert_close(gradient[0], expected[0])


def test_intermediate_losses_are_mixed_in_by_their_weight() -> None:
    shape = ConformerSettings(
        vocab_size=7, conv_channels=4, width=8, heads=2, blocks=4, kernel=3, dropout=0, self_condition_every=1
    )
    model, batch = _model(shape), _batch()
    loss = LossConfig(inter_ctc=0.3, inter_ctc_every=1)
    assert loss.blocks(shape) == (1, 2, 3)
    total, parts_P = Objective(model, loss, OPTIM)(batch, N_LABELS)
    outputs, lengths_B = model.at_blocks(batch.views[0], batch.lengths_B, (1, 2, 3))
    each = [
        functional.ctc_loss(
            o.transpose(0, 1), batch.targets_BL, lengths_B, batch.target_lengths_B, reduction="sum"
        )
        / N_LABELS
        for o in outputs
    ]
    torch.testing.assert_close(parts_P[0], each[-1].detach())
    torch.testing.assert_close(parts_P[1], (sum(each[:3]) / 3).detach())
    torch.testing.assert_close(total, 0.7 * each[-1] + 0.3 * sum(each[:3]) / 3)


@pytest.mark.parametrize(
    ("loss", "n_blocks", "every", "expected"),
    [
        (LossConfig(), 6, 0, ()),
        (LossConfig(inter_ctc=0.3), 6, 0, (3,)),
        (LossConfig(inter_ctc=0.3), 5, 0, (2,)),
        (LossConfig(inter_ctc=0.3), 6, 2, (2, 4)),
        (LossConfig(inter_ctc=0.3, inter_ctc_every=3), 6, 2, (3,)),
        (LossConfig(inter_ctc=0.3), 1, 0, ()),
    ],
)
def test_which_blocks_get_a_loss(loss: LossConfig, n_blocks: int, every: int, expected: tuple[int]) -> None:
    assert loss.blocks(replace(SHAPE, gru_blocks=n_blocks, self_condition_every=every)) == expected


def test_equal_views_agree_and_double_nothing() -> None:
    """CR-CTC on one view shown twice is plain CTC: the mean of the two losses, nothing for disagreement."""
    batch = _batch()
    twice = replace(batch, views=batch.views * 2)
    plain, plain_result = _step([batch])
    double, double_result = _step([twice], LossConfig(cr_ctc=0.2))
    assert double_result.parts.get("cr_ctc", 0.0) == pytest.approx(0.0, abs=1e-6)
    assert double_result.loss == pytest.approx(plain_result.loss, rel=1e-5)
    for one, two in zip(_gradients(plain), _gradients(double), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-4)


def test_disagreement_is_the_symmetric_divergence_of_real_frames() -> None:
    log_probs_BTV = torch.randn(4, 6, 5).log_softmax(-1).requires_grad_()
    lengths_B = torch.tensor([6, 4, 6, 4])
    expected = torch.zeros(())
    for one, other in ((0, 2), (1, 3)):
        for t in range(int(lengths_B[one])):
            a, b = log_probs_BTV[one, t].detach(), log_probs_BTV[other, t].detach()
            expected += 0.5 * ((b.exp() * (b - a)).sum() + (a.exp() * (a - b)).sum())
    found = disagreement_sum(log_probs_BTV, lengths_B)
    torch.testing.assert_close(found.detach(), expected)
    found.backward()
    assert log_probs_BTV.grad is not None
    # the target is stopped: d/da of KL(sg(b) || a) with respect to log a is -b
    torch.testing.assert_close(log_probs_BTV.grad[0, 0], -0.5 * log_probs_BTV[2, 0].detach().exp())
    assert log_probs_BTV.grad[1, 4:].abs().max() == 0


@pytest.mark.parametrize("loss", [LossConfig(), LossConfig(inter_ctc=0.3, cr_ctc=0.2)])
def test_accumulated_batches_take_the_step_of_one(loss: LossConfig) -> None:
    batch = _batch(n_views=2 if loss.cr_ctc else 1)
    whole, whole_result = _step([batch], loss)
    parts = [_rows(batch, slice(0, 1)), _rows(batch, slice(1, 3)), _rows(batch, slice(3, 5))]
    cut, cut_result = _step([*parts, _rows(batch, slice(5, 5))], loss)
    assert cut_result.loss == pytest.approx(whole_result.loss, rel=1e-5)
    assert cut_result.grad_norm == pytest.approx(whole_result.grad_norm, rel=1e-4)
    for one, two in zip(_gradients(whole), _gradients(cut), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-4)


def _short_of_memory(monkeypatch: pytest.MonkeyPatch, most_frames: int, *, in_backward: bool) -> None:
    """A model that cannot hold more padded frames than this at once."""

    class Greedy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            ctx.frames = x.shape[0] * x.shape[1]  # type: ignore[attr-defined]
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
            if ctx.frames > most_frames:  # type: ignore[attr-defined]
                raise torch.OutOfMemoryError("CUDA out of memory")
            return gradient

    from asr.acoustic.residual_gru import ResidualGru

    whole = ResidualGru.at_blocks

    def at_blocks(self: ResidualGru, features_BTF: torch.Tensor, *rest: object) -> object:
        if in_backward:
            # after the first layers' gradients, that is late in the backward pass
            outputs, lengths_B = whole(self, features_BTF, *rest)
            frames = features_BTF.shape[0] * features_BTF.shape[1]
            first = self.gru_blocks[0].norm.weight
            hungry = Greedy.apply(first[None, None].expand(1, frames, -1))
            return [o + 0 * hungry.sum() for o in outputs], lengths_B
        if features_BTF.shape[0] * features_BTF.shape[1] > most_frames:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, features_BTF, *rest)

    monkeypatch.setattr(ResidualGru, "at_blocks", at_blocks)


@pytest.mark.parametrize("in_backward", [False, True])
def test_a_batch_that_does_not_fit_is_halved_and_not_lost(
    monkeypatch: pytest.MonkeyPatch, in_backward: bool
) -> None:
    batch = _batch()
    whole, whole_result = _step([batch])
    _short_of_memory(monkeypatch, 130, in_backward=in_backward)
    cut, cut_result = _step([batch])
    assert (whole_result.splits, whole_result.lost) == (0, 0)
    assert cut_result.splits == 2  # five utterances: two and three, these one and two
    assert cut_result.lost == 0
    assert cut_result.loss == pytest.approx(whole_result.loss, rel=1e-5)
    for one, two in zip(_gradients(whole), _gradients(cut), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-4)


def test_an_utterance_that_does_not_fit_alone_is_counted_and_the_rest_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = _batch()
    fitting = _rows(batch, slice(1, 3)), _rows(batch, slice(4, 5))
    expected, _ = _step(list(fitting))
    _short_of_memory(monkeypatch, 55, in_backward=False)  # two of the five have 60 frames
    found, result = _step([batch])
    assert result.lost == 2
    for one, two in zip(_gradients(expected), _gradients(found), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-4)


def test_other_errors_of_the_model_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    from asr.acoustic.residual_gru import ResidualGru

    def broken(self: ResidualGru, *rest: object) -> object:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(ResidualGru, "at_blocks", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        _step([_batch()])


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    batch = _batch()
    model = _model()
    state = TrainingState.start(model, OPTIM, Progress(), CPU)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    broken = replace(batch, views=(batch.views[0] * float("nan"),))
    assert take_step(state, Objective(model, CTC, OPTIM), [broken], N_LABELS, OPTIM, ALONE).skipped
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not take_step(state, Objective(model, CTC, OPTIM), [batch], N_LABELS, OPTIM, ALONE).skipped


@pytest.mark.parametrize("autocast", ["bf16", "fp16"])
def test_half_precision_takes_nearly_the_same_step(autocast: str) -> None:
    exact, exact_result = _step([_batch()])
    optim = replace(OPTIM, autocast=autocast)
    half, half_result = _step([_batch()], optim=optim)
    assert half.scaler.is_enabled() == (autocast == "fp16")
    while half_result.skipped:  # the scale starts too high on purpose and is halved until nothing overflows
        assert half.scaler.get_scale() > 1
        objective = Objective(half.model, CTC, optim)
        half_result = take_step(half, objective, [_batch()], N_LABELS, optim, ALONE)
    assert half_result.loss == pytest.approx(exact_result.loss, rel=0.02)
    assert half_result.grad_norm == pytest.approx(exact_result.grad_norm, rel=0.1)  # unscaled again
    agreement = functional.cosine_similarity(
        *(torch.cat([g.flatten() for g in _gradients(s)]) for s in (exact, half)), dim=0
    )
    assert agreement > 0.99


def test_overflow_in_fp16_lowers_the_scale_and_changes_no_weight() -> None:
    optim = replace(OPTIM, autocast="fp16")
    model = _model()
    state = TrainingState.start(model, optim, Progress(), CPU)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scale = state.scaler.get_scale()
    loud = replace(_batch(), views=(_batch().views[0] * 1e6,))
    assert take_step(state, Objective(model, CTC, optim), [loud], N_LABELS, optim, ALONE).skipped
    assert state.scaler.get_scale() < scale
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_running_average_follows_the_weights_and_the_last_epochs_mean_is_exact() -> None:
    model = torch.nn.Linear(1, 1)
    average = AveragedWeights(model, OptimConfig(ema=0.9, average_epochs=2))
    ends = []
    for epoch in range(4):
        for step in range(3):
            torch.nn.init.constant_(model.weight, 10.0 * epoch + step)
            average.after_step(model, epoch * 3 + step)
        if epoch < 2:
            assert average.weights is average.ema
        average.after_epoch(model, epochs_left=3 - epoch)
        ends.append(float(model.weight.detach()))
    assert float(average.weights["weight"]) == pytest.approx(sum(ends[2:]) / 2)
    expected, weights = 0.0, [10.0 * e + s for e in range(4) for s in range(3)]
    for step, weight in enumerate(weights):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = weight if step == 0 and decay == 0 else expected * decay + weight * (1 - decay)
    assert float(average.ema["weight"]) == pytest.approx(expected, abs=0.2)  # the initial weight's share
