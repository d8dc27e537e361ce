"""A bidirectional GRU to learn with on CPU: both directions in one loop, weights' gradients in one product.

torch.nn.GRU on CPU differentiates every step by itself; this is the same function (docs.pytorch.org, nn.GRU)
with its backward pass written out, for half of the time.

Shapes: T frames, B utterances, H hidden units, 2 directions.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable


def bidirectional_gru(
    x_BTD: torch.Tensor, mask_BT: torch.Tensor, forward_gru: nn.GRU, backward_gru: nn.GRU
) -> torch.Tensor:
    """Both directions' states (B, T, 2H), the backward one beginning at each utterance's last real frame.

    mask_BT: bool, true at real frames. States past an utterance's length are to be ignored. Computed in the
    type that autocast names, states and gates in float32.
    """
    x_TBD, hidden = x_BTD.transpose(0, 1), forward_gru.hidden_size
    inputs, weights, biases = [], [], []
    for gru, values_TBD in ((forward_gru, x_TBD), (backward_gru, x_TBD.flip(0))):
        ih_weight, hh_weight, ih_bias, hh_bias = gru.all_weights[0]
        unreset = nn.functional.pad(hh_bias[: 2 * hidden], (0, hidden))  # the rest is reset first
        inputs.append(nn.functional.linear(values_TBD, ih_weight, ih_bias + unreset))
        weights.append(hh_weight)
        biases.append(hh_bias[2 * hidden :])
    weight, bias = torch.stack(tuple(weights)).to(inputs[0].dtype), torch.stack(biases)
    ahead_TBH, back_TBH = _Recurrence.apply(*inputs, weight, bias, mask_BT.t().flip(0))  # type: ignore[no-untyped-call]
    return torch.cat([ahead_TBH, back_TBH.flip(0)], dim=-1).transpose(0, 1)


class _Recurrence(torch.autograd.Function):
    """(inputs (T, B, 3H) of each direction, weight (2, 3H, H), candidates' bias (2, H), mask (T, B) of the
    second direction) -> states (T, B, H) of each direction.

    Gates are in torch's order: reset, update, candidate. States and gates are float32, products the weight's
    type.
    """

    @staticmethod
    def forward(
        ctx: Any,
        ahead: torch.Tensor,
        back: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        mask_TB: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        n_frames, n_utterances, _ = ahead.shape
        hidden = weight.shape[2]
        gates = torch.stack([ahead, back]).float()
        inner = gates.new_empty(2, n_frames, n_utterances, hidden)  # W_hn h + b_hn
        states = gates.new_zeros(2, n_frames + 1, n_utterances, hidden)
        low = states.to(weight.dtype)  # the states as the products see them
        keep_TB1 = mask_TB.float()[..., None]
        bias_21H = bias.float()[:, None]
        product = low.new_empty(2, n_utterances, 3 * hidden)
        step = gates.new_empty(2, n_utterances, 3 * hidden)
        ahead_T, back_T = weight[0].t(), weight[1].t()
        for frame in range(n_frames):
            torch.mm(low[0, frame], ahead_T, out=product[0])
            torch.mm(low[1, frame], back_T, out=product[1])
            step.copy_(product)
            gate, new, state = gates[:, frame], inner[:, frame], states[:, frame + 1]
            gate[..., : 2 * hidden].add_(step[..., : 2 * hidden]).sigmoid_()
            torch.add(step[..., 2 * hidden :], bias_21H, out=new)
            candidate = gate[..., 2 * hidden :]
            candidate.addcmul_(gate[..., :hidden], new).tanh_()
            torch.lerp(candidate, states[:, frame], gate[..., hidden : 2 * hidden], out=state)
            state[1].mul_(keep_TB1[frame])
            low[:, frame + 1].copy_(state)
        ctx.save_for_backward(gates, inner, states, low, weight, keep_TB1)
        return low[0, 1:].clone(), low[1, 1:].clone()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_ahead: torch.Tensor, grad_back: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, None]:
        gates, inner, states, low_states, weight, keep_TB1 = ctx.saved_tensors
        _, n_frames, n_utterances, hidden = inner.shape
        grad_states = torch.stack([grad_ahead, grad_back]).float()
        products = low_states.new_empty(2, n_frames, n_utterances, 3 * hidden)  # gradients of W_h h + b_h
        inputs = torch.empty_like(products)
        product = low_states.new_empty(2, n_utterances, hidden)
        step = gates.new_empty(2, n_utterances, 3 * hidden)
        carried, passed, new, work = (gates.new_zeros(2, n_utterances, hidden) for _ in range(4))
        sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
        tanh_backward = torch.ops.aten.tanh_backward.grad_input
        for frame in range(n_frames - 1, -1, -1):
            reset, update, candidate = gates[:, frame].chunk(3, dim=-1)
            carried.add_(grad_states[:, frame])
            carried[1].mul_(keep_TB1[frame])
            torch.mul(carried, update, out=passed)
            torch.sub(states[:, frame], candidate, out=work).mul_(carried)
            sigmoid_backward(work, update, grad_input=step[..., hidden : 2 * hidden])
            torch.sub(carried, passed, out=work)
            tanh_backward(work, candidate, grad_input=new)
            torch.mul(new, inner[:, frame], out=work)
            sigmoid_backward(work, reset, grad_input=step[..., :hidden])
            torch.mul(new, reset, out=step[..., 2 * hidden :])
            products[:, frame].copy_(step)
            step[..., 2 * hidden :].copy_(new)
            inputs[:, frame].copy_(step)
            torch.mm(products[0, frame], weight[0], out=product[0])
            torch.mm(products[1, frame], weight[1], out=product[1])
            torch.add(passed, product, out=carried)
        grad_weight = torch.stack(
            [products[i].flatten(0, 1).t() @ low_states[i, :-1].flatten(0, 1) for i in (0, 1)]
        )
        grad_bias = products[..., 2 * hidden :].sum(dim=(1, 2), dtype=torch.float32)
        return inputs[0], inputs[1], grad_weight, grad_bias, None
