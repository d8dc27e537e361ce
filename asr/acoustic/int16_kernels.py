"""The steps of `asr.acoustic.int16_gru`, compiled, without the GIL. Each works on one recording, or on frames
of several, one row at a time: nothing that a row becomes depends on which others are there.

Shapes: T frames, F bands, M = T * F places of a recording, C channels, N frames of all recordings, D values
of a frame, P columns (padded to whole panels), R rows of any kind, H hidden units, S recordings.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.acoustic.dot_tile import PANEL, ROWS, dot_tile
from asr.acoustic.float_bits import bits, number
from asr.decoding.jit import inner_kernel, kernel, reordering_kernel

Floats = NDArray[np.float32]
Int16s = NDArray[np.int16]
Sums = NDArray[np.int32]
Places = NDArray[np.int64]

LARGEST = 8191  # a quantised value; weights are scaled so that their sums stay in 32 bits
BLOCK = 192  # values of a row that are multiplied before the next row's: their weights stay in the L1 cache
_LARGEST = np.float32(LARGEST)
_STEP = np.float32(1 / LARGEST)  # of hidden states, which lie in -1..1
_ROUNDING = np.float32(1.5 * 2**23)  # added and taken away again, it rounds to a whole number
_EPSILON = np.float32(1e-5)  # of torch's LayerNorm
_TINY = np.float32(1e-20)
_ZERO, _HALF, _ONE, _ROOT_HALF = (np.float32(c) for c in (0.0, 0.5, 1.0, 0.5**0.5))

# Ratios of polynomials in x^2, fitted for the least absolute error: 1.5e-6 (tanh) and 7e-6 (erf), far below
# a step of 1 / LARGEST.
_TANH_END, _ERF_END = np.float32(7.5), np.float32(3.6)
_T0, _T1, _T2, _T3 = (np.float32(c) for c in (0.99999292, 0.12235897, 0.0022187249, 3.6629972e-06))
_U1, _U2, _U3 = (np.float32(c) for c in (0.45566892, 0.020797893, 0.00013610471))
_E0, _E1, _E2, _E3 = (np.float32(c) for c in (1.1283361, 0.16097907, 0.042277484, 0.00068853365))
_G1, _G2, _G3 = (np.float32(c) for c in (0.47578345, 0.096369019, 0.0088107695))

_tile = dot_tile(ROWS)
_tile_4, _tile_3, _tile_2, _tile_1 = (dot_tile(rows) for rows in (4, 3, 2, 1))


class Matrix(NamedTuple):
    """Weights (K, P) as panels of int16, and what makes their sums numbers again."""

    panels: Int16s  # (P / PANEL, K / 2, PANEL, 2), flat
    scales: Floats  # (P,): a sum times this, times the row's scale, is the product
    bias: Floats  # (P,)


@inner_kernel
def tanh(x: np.float32) -> np.float32:
    x = min(max(x, -_TANH_END), _TANH_END)
    y = x * x
    return x * (_T0 + y * (_T1 + y * (_T2 + y * _T3))) / (_ONE + y * (_U1 + y * (_U2 + y * _U3)))


@inner_kernel
def gelu(x: np.float32) -> np.float32:
    u = min(max(x * _ROOT_HALF, -_ERF_END), _ERF_END)
    y = u * u
    erf = u * (_E0 + y * (_E1 + y * (_E2 + y * _E3))) / (_ONE + y * (_G1 + y * (_G2 + y * _G3)))
    return _HALF * x * (_ONE + erf)


@inner_kernel
def rounded(x: np.float32) -> np.int16:
    return np.int16((x + _ROUNDING) - _ROUNDING)


@inner_kernel
def multiply(
    x: Int16s,
    x_at: int,
    x_stride: int,
    n_rows: int,
    matrix: Matrix,
    w_at: int,
    n_pairs: int,
    out_RP: Sums,
    first: int,
) -> None:
    """Add the products of `n_rows` rows with the panel at `w_at` to out's columns from `first` on."""
    stride = out_RP.shape[1]
    row = 0
    while row + ROWS <= n_rows:
        at = first + row * stride
        _tile(x, x_at + row * x_stride, x_stride, matrix.panels, w_at, n_pairs, out_RP, at, stride)
        row += ROWS
    # What is left goes together, too: row by row, the weights would be read again for each.
    x_at, at = x_at + row * x_stride, first + row * stride
    if n_rows - row == 4:
        _tile_4(x, x_at, x_stride, matrix.panels, w_at, n_pairs, out_RP, at, stride)
    elif n_rows - row == 3:
        _tile_3(x, x_at, x_stride, matrix.panels, w_at, n_pairs, out_RP, at, stride)
    elif n_rows - row == 2:
        _tile_2(x, x_at, x_stride, matrix.panels, w_at, n_pairs, out_RP, at, stride)
    elif n_rows - row == 1:
        _tile_1(x, x_at, x_stride, matrix.panels, w_at, n_pairs, out_RP, at, stride)


@inner_kernel
def product(x_RD: Int16s, n_rows: int, matrix: Matrix, out_RP: Sums) -> None:
    """out = x times the matrix, as sums, for the first rows."""
    n_values, n_columns = x_RD.shape[1], out_RP.shape[1]
    for row in range(n_rows):
        for column in range(n_columns):
            out_RP[row, column] = 0
    for first in range(0, n_columns, PANEL):
        for begin in range(0, n_values, BLOCK):
            n_pairs, w_at = min(BLOCK, n_values - begin) // 2, first * n_values + begin * PANEL
            multiply(x_RD, begin, n_values, n_rows, matrix, w_at, n_pairs, out_RP, first)


@reordering_kernel
def largest(x_MC: Floats, begin: int, end: int, mean: np.float32) -> np.float32:
    """The largest distance from `mean` in some rows, at least a tiny one."""
    found = bits(_TINY)
    for m in range(begin, end):
        for c in range(x_MC.shape[1]):
            distance = bits(abs(x_MC[m, c] - mean))
            found = distance if distance > found else found  # max() of two whole numbers is a longer one
    return number(found)


@reordering_kernel
def total(x_MC: Floats, m: int) -> np.float32:
    found = np.float32(0.0)
    for c in range(x_MC.shape[1]):
        found += x_MC[m, c]
    return found


@reordering_kernel
def total_of_squares(x_MC: Floats, m: int, mean: np.float32) -> np.float32:
    found = np.float32(0.0)
    for c in range(x_MC.shape[1]):
        found += (x_MC[m, c] - mean) * (x_MC[m, c] - mean)
    return found


@inner_kernel
def moments(x_MC: Floats, m: int) -> tuple[np.float32, np.float32]:
    """Mean, and one over the standard deviation, of a row."""
    n_values = np.float32(x_MC.shape[1])
    mean = total(x_MC, m) / n_values
    return mean, _ONE / np.sqrt(total_of_squares(x_MC, m, mean) / n_values + _EPSILON)


@kernel
def quantise_padded(x_TD: Floats, out_TFC: Int16s) -> float:
    """The recording's values as int16, with zeros around them.

    x: of each frame all bands' channels, D = F * C. out: (T + 2, F + 2, C), zeros; where C is odd, it has a
    channel more. Returns the scale: a value is its integer times this.
    """
    n_frames, n_bands = x_TD.shape[0], out_TFC.shape[1] - 2
    n_channels = x_TD.shape[1] // n_bands
    top = largest(x_TD, 0, n_frames, _ZERO)
    factor = _LARGEST / top
    for t in range(n_frames):
        if n_channels == 1:  # a loop of one turn is a slow one
            for f in range(n_bands):
                out_TFC[t + 1, f + 1, 0] = rounded(x_TD[t, f] * factor)
        else:
            for f in range(n_bands):
                for c in range(n_channels):
                    out_TFC[t + 1, f + 1, c] = rounded(x_TD[t, f * n_channels + c] * factor)
    return float(top / _LARGEST)


@kernel
def convolve(
    x_TFC: Int16s,
    scale: float,
    strides: tuple[int, int],
    matrix: Matrix,
    activate: bool,
    sums_FP: Sums,
    out_MC: Floats,
) -> None:
    """A 3 x 3 convolution of `quantise_padded`'s output: out = gelu(it), or out += it.

    strides: of frames and bands.

    matrix: its K are three segments, one for each frame, of three bands' channels. sums: of one frame.
    """
    stride_T, stride_F = strides
    n_bands, n_channels = x_TFC.shape[1:]
    n_bands_out, n_columns = sums_FP.shape
    n_pairs = 3 * n_channels // 2
    factor = np.float32(scale)
    for t in range(out_MC.shape[0] // n_bands_out):
        for f in range(n_bands_out):
            for c in range(n_columns):
                sums_FP[f, c] = 0
        for first in range(0, n_columns, PANEL):
            for segment in range(3):
                x_at = (t * stride_T + segment) * n_bands * n_channels
                w_at = (3 * first + segment * PANEL) * 2 * n_pairs
                multiply(
                    x_TFC, x_at, stride_F * n_channels, n_bands_out, matrix, w_at, n_pairs, sums_FP, first
                )
        for f in range(n_bands_out):
            m = t * n_bands_out + f
            if activate:
                for c in range(out_MC.shape[1]):
                    out_MC[m, c] = gelu(sums_FP[f, c] * (matrix.scales[c] * factor) + matrix.bias[c])
            else:
                for c in range(out_MC.shape[1]):
                    out_MC[m, c] += sums_FP[f, c] * (matrix.scales[c] * factor) + matrix.bias[c]


@kernel
def norm_gelu(x_MC: Floats, weight_C: Floats, bias_C: Floats, out_MC: Floats) -> None:
    """gelu of the layer norm over channels."""
    for m in range(x_MC.shape[0]):
        mean, factor = moments(x_MC, m)
        for c in range(x_MC.shape[1]):
            out_MC[m, c] = gelu((x_MC[m, c] - mean) * factor * weight_C[c] + bias_C[c])


@inner_kernel
def quantise_frames(x_TD: Floats, out_TD: Int16s) -> np.float32:
    """The recording's rows as int16 with one scale, which is returned, between two rows of zeros."""
    n_frames, n_values = x_TD.shape
    top = largest(x_TD, 0, n_frames, _ZERO)
    factor = _LARGEST / top
    for d in range(n_values):
        out_TD[0, d] = out_TD[n_frames + 1, d] = 0
    for t in range(n_frames):
        for d in range(n_values):
            out_TD[t + 1, d] = rounded(x_TD[t, d] * factor)
    return top / _LARGEST


@inner_kernel
def three_frames(x_TD: Int16s, matrix: Matrix, sums_TP: Sums) -> None:
    """Sums of a convolution over time of `quantise_frames`' output. matrix: (3 D, P), earliest first."""
    n_frames, n_values = len(x_TD) - 2, x_TD.shape[1]
    for t in range(n_frames):
        for column in range(sums_TP.shape[1]):
            sums_TP[t, column] = 0
    for first in range(0, sums_TP.shape[1], PANEL):
        w_at, n_pairs = 3 * first * n_values, 3 * n_values // 2
        multiply(x_TD, 0, n_values, n_frames, matrix, w_at, n_pairs, sums_TP, first)


class TimeLayer(NamedTuple):
    """A `PhoneTower`'s block. D: width, R: bottleneck."""

    norm_weight: Floats  # (D,)
    norm_bias: Floats  # (D,)
    narrow: Matrix  # (3 D, R)
    widen: Matrix  # (3 R, D)


class TimeWork(NamedTuple):
    """Room to compute a `TimeLayer` in, for T frames of one recording."""

    normed_TD: Floats
    quantised_TD: Int16s  # T + 2
    narrow_TP: Sums
    inner_TR: Floats
    inner_quantised_TR: Int16s  # T + 2
    widen_TP: Sums


@kernel
def time_block(x_TD: Floats, layer: TimeLayer, work: TimeWork) -> None:
    """x += conv(gelu(conv(norm(x)))), over three frames each, zeros outside the recording."""
    for t in range(x_TD.shape[0]):
        mean, factor = moments(x_TD, t)
        for d in range(x_TD.shape[1]):
            normed = (x_TD[t, d] - mean) * factor
            work.normed_TD[t, d] = normed * layer.norm_weight[d] + layer.norm_bias[d]
    scale = quantise_frames(work.normed_TD, work.quantised_TD)
    three_frames(work.quantised_TD, layer.narrow, work.narrow_TP)
    for t in range(x_TD.shape[0]):
        for r in range(work.inner_TR.shape[1]):
            value = work.narrow_TP[t, r] * (layer.narrow.scales[r] * scale) + layer.narrow.bias[r]
            work.inner_TR[t, r] = gelu(value)
    scale = quantise_frames(work.inner_TR, work.inner_quantised_TR)
    three_frames(work.inner_quantised_TR, layer.widen, work.widen_TP)
    for t in range(x_TD.shape[0]):
        for d in range(x_TD.shape[1]):
            x_TD[t, d] += work.widen_TP[t, d] * (layer.widen.scales[d] * scale) + layer.widen.bias[d]


@inner_kernel
def quantise_rows(x_ND: Floats, norm: bool, out_ND: Int16s, scales_N: Floats) -> None:
    """Rows, or their layer norms without weights, each by its own scale."""
    for n in range(x_ND.shape[0]):
        mean, factor = _ZERO, _ONE
        if norm:
            mean, factor = moments(x_ND, n)
        top = largest(x_ND, n, n + 1, mean)
        scales_N[n] = top * factor / _LARGEST
        factor = _LARGEST / top
        for d in range(x_ND.shape[1]):
            out_ND[n, d] = rounded((x_ND[n, d] - mean) * factor)


@kernel
def project(
    x_ND: Floats,
    norm: bool,
    matrix: Matrix,
    quantised_ND: Int16s,
    scales_N: Floats,
    sums_NP: Sums,
    out_ND: Floats,
) -> None:
    """out = rows, or their layer norms without weights, times the matrix."""
    quantise_rows(x_ND, norm, quantised_ND, scales_N)
    product(quantised_ND, x_ND.shape[0], matrix, sums_NP)
    for n in range(x_ND.shape[0]):
        for d in range(out_ND.shape[1]):
            out_ND[n, d] = sums_NP[n, d] * (matrix.scales[d] * scales_N[n]) + matrix.bias[d]


class Gru(NamedTuple):
    """A block's matrices. Gates are in torch's order: reset, update, new."""

    inputs: Matrix  # (D, 6 H), forward, then backward; bias of both sides, where they can be added
    ahead: Matrix  # (H, 3 H); bias of the new gate
    back: Matrix
    output: Matrix  # (2 H, D)


class Work(NamedTuple):
    """Room to compute in, for N frames of S recordings."""

    normed_ND: Int16s
    scales_N: Floats
    inputs_NP: Sums  # P: of 6 H
    hidden_NH: Int16s  # (N, 2 H)
    output_NP: Sums  # P: of D
    state_SH: Floats
    quantised_SH: Int16s
    sums_SP: Sums  # P: of 3 H
    gates: Floats  # (2 H,)
    inner_H: NDArray[np.float64]  # of the new gate, after the reset


@kernel
def gru_block(x_ND: Floats, begins_S: Places, lengths_S: Places, gru: Gru, work: Work) -> None:
    """x += projection of a bidirectional GRU over norm(x), for recordings in order of falling length."""
    quantise_rows(x_ND, True, work.normed_ND, work.scales_N)
    product(work.normed_ND, x_ND.shape[0], gru.inputs, work.inputs_NP)
    recur(begins_S, lengths_S, False, gru.inputs, gru.ahead, work)
    recur(begins_S, lengths_S, True, gru.inputs, gru.back, work)
    product(work.hidden_NH, x_ND.shape[0], gru.output, work.output_NP)
    for n in range(x_ND.shape[0]):
        for d in range(x_ND.shape[1]):
            x_ND[n, d] += work.output_NP[n, d] * (gru.output.scales[d] * _STEP) + gru.output.bias[d]


@inner_kernel
def recur(
    begins_S: Places, lengths_S: Places, backwards: bool, inputs: Matrix, hidden: Matrix, work: Work
) -> None:
    """One direction: all recordings that are long enough take a step together."""
    n_hidden = work.state_SH.shape[1]
    for s in range(len(lengths_S)):
        for h in range(n_hidden):
            work.state_SH[s, h] = _ZERO
            work.quantised_SH[s, h] = 0
    active = len(lengths_S)
    for t in range(lengths_S[0]):
        while lengths_S[active - 1] <= t:
            active -= 1
        product(work.quantised_SH, active, hidden, work.sums_SP)
        for s in range(active):
            n = begins_S[s] + (lengths_S[s] - 1 - t if backwards else t)
            step(n, s, n_hidden if backwards else 0, inputs, hidden, work)


@inner_kernel
def step(n: int, s: int, place: int, inputs: Matrix, hidden: Matrix, work: Work) -> None:
    """From the sums of both sides to the next state, which is written down in frame `n` from `place` on.

    LLVM makes vector code of loops whose indices begin at 0, over few arrays: hence the slices and the loops.
    """
    scale, n_hidden = work.scales_N[n], work.state_SH.shape[1]
    begin, new, end = 3 * place, 3 * place + 2 * n_hidden, 3 * (place + n_hidden)
    outer, scales, bias = work.inputs_NP[n, begin:new], inputs.scales[begin:new], inputs.bias[begin:new]
    sums, factors, gates = work.sums_SP[s], hidden.scales, work.gates
    for h in range(2 * n_hidden):
        both = outer[h] * (scales[h] * scale) + bias[h] + sums[h] * (factors[h] * _STEP)
        gates[h] = _HALF + _HALF * tanh(_HALF * both)
    sums, factors, bias = sums[2 * n_hidden :], factors[2 * n_hidden :], hidden.bias[2 * n_hidden :]
    for h in range(n_hidden):
        work.inner_H[h] = gates[h] * (sums[h] * (factors[h] * _STEP) + bias[h])
    outer, scales, bias = work.inputs_NP[n, new:end], inputs.scales[new:end], inputs.bias[new:end]
    state, update = work.state_SH[s], gates[n_hidden:]
    for h in range(n_hidden):
        value = tanh(outer[h] * (scales[h] * scale) + bias[h] + work.inner_H[h])
        state[h] = value + update[h] * (state[h] - value)
    quantised, written = work.quantised_SH[s], work.hidden_NH[n, place:]
    for h in range(n_hidden):
        quantised[h] = rounded(state[h] * _LARGEST)
    for h in range(n_hidden):
        written[h] = quantised[h]
