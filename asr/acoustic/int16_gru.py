"""`ResidualGru` for listening on CPU, in whole numbers of 16 bits: a fifth of the time, the same texts.

Weights are rounded to 16 bits column by column, values to 14 bits: a recording's at a time before
convolutions, a frame's at a time before matrices. Their products are added up exactly, and nothing else
looks at more than one recording: what a recording gives is the same bits alone and in any batch. No padding
is computed. GRUs go through up to `ROWS` recordings in one loop, so that weights are read once for all.

Shapes: T frames, F mel bands, C channels, N frames of all recordings, D values of a frame, V outputs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from asr.acoustic import int16_kernels as kernels
from asr.acoustic.dot_tile import PANEL, ROWS
from asr.acoustic.int16_kernels import LARGEST, Floats, Gru, Int16s, Matrix, Sums, TimeLayer, TimeWork, Work
from asr.acoustic.intermediate import upsampled_log_probs
from asr.acoustic.phone_tower import ROW_FEATURES, STRIDES, PhoneTower, TimeBlock
from asr.acoustic.phones import PHONE_FRAMES, mixed, with_phones
from asr.acoustic.residual_gru import ConvBlock, GruBlock, ResidualGru, ResidualGruSettings, Stride

_LARGEST_SUM = 2**31 - 1
_TINY = 1e-20


def fits(settings: ResidualGruSettings) -> bool:
    """Whether a model of these settings can be computed so: pairs of values, no self-conditioning."""
    sizes = [settings.conv_channels, settings.width, settings.gru_hidden]
    if settings.tower_blocks:
        sizes += [settings.tower_channels, settings.tower_width, settings.tower_bottleneck]
    return not settings.self_condition_every and all(size % 2 == 0 for size in sizes)


class Int16Gru:
    """A `ResidualGru` that hears several recordings. Nothing in it changes: threads may share it."""

    def __init__(self, model: ResidualGru) -> None:
        settings = self._settings = model.settings
        self._strides = [
            _convolution(layer.convolution) for layer in model.convolutions if isinstance(layer, Stride)
        ]
        self._blocks = [_conv_block(layer) for layer in model.convolutions if isinstance(layer, ConvBlock)]
        n_bands = settings.n_mels // settings.subsampling
        by_channel = _numbers(model.projection.weight).reshape(settings.width, -1, n_bands)
        by_band = by_channel.swapaxes(1, 2).reshape(settings.width, 1, -1)
        self._projection = _packed(by_band, _numbers(model.projection.bias))
        self._grus = [_gru(block) for block in model.gru_blocks if isinstance(block, GruBlock)]
        # Both output layers read the same normalised values: one matrix.
        outputs = [_after(model.final_norm, model.output.weight, model.output.bias)]
        self._tower = Int16Tower(model.tower) if settings.tower_blocks else None
        if settings.phones:
            layer = model.phone_output
            outputs.append(_after(model.phone_norm, layer.weight, layer.bias))
        self._output = _packed(*(np.concatenate(parts) for parts in zip(*outputs, strict=True)))

    def __call__(self, features: Sequence[Floats], phones: Sequence[bool] | None = None) -> list[Floats]:
        """What `ResidualGru` gives for each (T, F), T at least 1.

        phones: of each, whether its phones are wanted; None for all.
        """
        wanted = [True] * len(features) if phones is None else phones
        found: dict[int, Floats] = {}
        by_grus = []
        for place, features_TF in enumerate(features):
            if self._tower is not None and self._settings.pieces_are_towers and not wanted[place]:
                found[place] = self._tower.pieces(features_TF)
            else:
                by_grus.append(place)
        order = sorted(by_grus, key=lambda place: -len(features[place]))
        for first in range(0, len(order), ROWS):
            group = order[first : first + ROWS]
            rows = self._heard([features[place] for place in group], [wanted[place] for place in group])
            found |= zip(group, rows, strict=True)
        return [found[place] for place in range(len(features))]

    def _heard(self, features: Sequence[Floats], phones: Sequence[bool]) -> list[Floats]:
        """Of at most `ROWS` recordings, the longest first."""
        settings = self._settings
        convolved = [self._convolved(features_TF) for features_TF in features]
        lengths = np.array([len(x_TD) for x_TD in convolved])
        ends = np.cumsum(lengths)
        x_ND = np.concatenate(convolved)
        work = _work(len(x_ND), len(lengths), settings, self._grus[0])
        for gru in self._grus:
            kernels.gru_block(x_ND, ends - lengths, lengths, gru, work)
        n_columns = settings.vocab_size * settings.upsampling + PHONE_FRAMES * settings.phones
        logits_NC = _projected(x_ND, True, self._output, n_columns)
        return [
            self._log_probs(torch.from_numpy(logits_TC)[None], features_TF, wanted=wanted)
            for logits_TC, features_TF, wanted in zip(
                np.split(logits_NC, ends[:-1]), features, phones, strict=True
            )
        ]

    def _log_probs(self, logits_1TC: torch.Tensor, features_TF: Floats, *, wanted: bool) -> Floats:
        """wanted: whether phones are."""
        settings = self._settings
        n_pieces = settings.vocab_size * settings.upsampling
        pieces_1TV = upsampled_log_probs(logits_1TC[..., :n_pieces], settings.upsampling)
        wanted = wanted and settings.phones > 0
        of_tower: Heard | None = None
        if self._tower is not None and (wanted or settings.tower_pieces_share):
            of_tower = self._tower(features_TF)
        if of_tower and of_tower.pieces_TV is not None:
            of_tower_1TV = torch.from_numpy(of_tower.pieces_TV)[None]
            pieces_1TV = mixed(pieces_1TV, of_tower_1TV, settings.tower_pieces_share)
        if wanted:
            phones_1TP = upsampled_log_probs(logits_1TC[..., n_pieces:], PHONE_FRAMES)
            if of_tower:
                of_tower_1TP = torch.from_numpy(of_tower.phones_TP)[None]
                phones_1TP = mixed(phones_1TP, of_tower_1TP, settings.tower_share)
            pieces_1TV = with_phones(pieces_1TV, phones_1TP)
        return pieces_1TV[0].numpy()

    def _convolved(self, features_TF: Floats) -> Floats:
        """The GRUs' input, (T, D)."""
        n_frames, n_bands = features_TF.shape
        x_MC = np.ascontiguousarray(features_TF).reshape(-1, 1)
        for matrix, n_channels in self._strides:
            padded_TFC, scale = _padded(x_MC, n_bands)
            n_frames, n_bands = (n_frames + 1) // 2, n_bands // 2
            x_MC = np.empty((n_frames * n_bands, n_channels), dtype=np.float32)
            kernels.convolve(padded_TFC, scale, (2, 2), matrix, True, _sums(n_bands, matrix), x_MC)
        y_MC = np.empty_like(x_MC)
        for weight_C, bias_C, matrix_1, matrix_2 in self._blocks:
            sums_FP = _sums(n_bands, matrix_1)
            kernels.norm_gelu(x_MC, weight_C, bias_C, y_MC)
            kernels.convolve(*_padded(y_MC, n_bands), (1, 1), matrix_1, True, sums_FP, y_MC)
            kernels.convolve(*_padded(y_MC, n_bands), (1, 1), matrix_2, False, sums_FP, x_MC)
        return _projected(x_MC.reshape(n_frames, -1), False, self._projection, self._settings.width)


class Heard(NamedTuple):
    """What a tower gives for one recording: log-probabilities."""

    phones_TP: Floats
    pieces_TV: Floats | None


class Int16Tower:
    """A `PhoneTower` that hears one recording."""

    def __init__(self, model: PhoneTower) -> None:
        self._strides = [_convolution(layer) for layer in model.strides if isinstance(layer, nn.Conv2d)]
        self._width, n_flat = model.projection.weight.shape
        n_channels = self._strides[-1][1]
        by_channel = _numbers(model.projection.weight).reshape(self._width, n_channels, -1)
        by_band = by_channel.swapaxes(1, 2).reshape(self._width, 1, n_flat)
        self._projection = _packed(by_band, _numbers(model.projection.bias))
        self._layers = [_time_layer(block) for block in model.blocks if isinstance(block, TimeBlock)]
        self._bottleneck = model.bottleneck
        self._output = _packed(*_after(model.norm, model.output.weight, model.output.bias))
        self._n_phones, self._pieces_output = len(model.output.bias), None
        if model.pieces_output is not None:
            layer = model.pieces_output
            self._pieces_output = _packed(*_after(model.norm, layer.weight, layer.bias)), len(layer.bias)

    def __call__(self, features_TF: Floats) -> Heard:
        """What the tower gives for (T, F), T at least 1."""
        x_TD = self._inner(features_TF)
        logits_TP = _projected(x_TD, True, self._output, self._n_phones)
        phones_TP = torch.from_numpy(logits_TP).log_softmax(dim=-1).numpy()
        return Heard(phones_TP, self._pieces(x_TD) if self._pieces_output else None)

    def pieces(self, features_TF: Floats) -> Floats:
        """Without the phones. (T, V)"""
        return self._pieces(self._inner(features_TF))

    def _pieces(self, x_TD: Floats) -> Floats:
        assert self._pieces_output is not None
        matrix, n_pieces = self._pieces_output
        normed_TD = functional.layer_norm(torch.from_numpy(x_TD), x_TD.shape[1:]).numpy()
        pairs_TE = normed_TD.reshape(-1, PHONE_FRAMES * x_TD.shape[1])
        logits_TV = _projected(pairs_TE, False, matrix, n_pieces)
        return torch.from_numpy(logits_TV).log_softmax(dim=-1).numpy()

    def _inner(self, features_TF: Floats) -> Floats:
        """What the output layers read before it is normalised, (2T, D)."""
        n_bands = features_TF.shape[1]
        n_frames = ROW_FEATURES * -(-len(features_TF) // ROW_FEATURES)
        x_MC = np.zeros((n_frames * n_bands, 1), dtype=np.float32)
        x_MC[: features_TF.size, 0] = np.ravel(features_TF)
        for (matrix, n_channels), strides in zip(self._strides, STRIDES, strict=True):
            padded_TFC, scale = _padded(x_MC, n_bands)
            n_frames, n_bands = n_frames // strides[0], n_bands // strides[1]
            x_MC = np.empty((n_frames * n_bands, n_channels), dtype=np.float32)
            kernels.convolve(padded_TFC, scale, strides, matrix, True, _sums(n_bands, matrix), x_MC)
        x_TD = _projected(x_MC.reshape(n_frames, -1), False, self._projection, self._width)
        first = self._layers[0]
        work = TimeWork(
            normed_TD=np.empty_like(x_TD),
            quantised_TD=np.empty((n_frames + 2, self._width), dtype=np.int16),
            narrow_TP=_sums(n_frames, first.narrow),
            inner_TR=np.empty((n_frames, self._bottleneck), dtype=np.float32),
            inner_quantised_TR=np.empty((n_frames + 2, self._bottleneck), dtype=np.int16),
            widen_TP=_sums(n_frames, first.widen),
        )
        for layer in self._layers:
            kernels.time_block(x_TD, layer, work)
        return x_TD


def _time_layer(block: TimeBlock) -> TimeLayer:
    narrow, widen = (
        _packed(_numbers(layer.weight)[:, None], _numbers(layer.bias))
        for layer in (block.narrow, block.widen)
    )
    weight, bias = (_numbers(part).astype(np.float32) for part in (block.norm.weight, block.norm.bias))
    return TimeLayer(weight, bias, narrow, widen)


def _convolution(layer: nn.Conv2d) -> tuple[Matrix, int]:
    """Its matrix, and its channels."""
    weight_OCTF = _numbers(layer.weight)
    n_out, n_in = weight_OCTF.shape[:2]
    weight_OTFC = np.zeros((n_out, 3, 3, n_in + n_in % 2))
    weight_OTFC[..., :n_in] = weight_OCTF.transpose(0, 2, 3, 1)
    return _packed(weight_OTFC.reshape(n_out, 3, -1), _numbers(layer.bias)), n_out


def _conv_block(block: ConvBlock) -> tuple[Floats, Floats, Matrix, Matrix]:
    """The norm's weight and bias, and both matrices."""
    norm, matrices = block.norm, (_convolution(block.conv_1)[0], _convolution(block.conv_2)[0])
    return _numbers(norm.weight).astype(np.float32), _numbers(norm.bias).astype(np.float32), *matrices


def _gru(block: GruBlock) -> Gru:
    sides = block.forward_gru, block.backward_gru
    n_summed = 2 * block.forward_gru.hidden_size  # of reset and update, whose two biases are added up
    inputs, hidden = [], []
    for side in sides:
        weight, bias = _after(
            block.norm, *(side.get_parameter(f"{name}_ih_l0") for name in ("weight", "bias"))
        )
        bias_hidden = _numbers(side.get_parameter("bias_hh_l0"))
        bias[:n_summed] += bias_hidden[:n_summed]
        bias_hidden[:n_summed] = 0.0
        inputs.append((weight, bias))
        hidden.append(_packed(_numbers(side.get_parameter("weight_hh_l0"))[:, None], bias_hidden))
    both = (np.concatenate([side[part] for side in inputs]) for part in range(2))
    ahead, back = hidden
    output = _packed(_numbers(block.projection.weight)[:, None], _numbers(block.projection.bias))
    return Gru(_packed(*both), ahead, back, output)


def _after(
    norm: nn.LayerNorm, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A matrix, with one segment, and bias that take in the norm's weights, of a frame or of several."""
    matrix = _numbers(weight)
    n_frames = matrix.shape[1] // len(norm.weight)
    of_norm, bias_of_norm = (np.tile(_numbers(part), n_frames) for part in (norm.weight, norm.bias))
    return (matrix * of_norm)[:, None], _numbers(bias) + matrix @ bias_of_norm


def _packed(weight_PSK: NDArray[np.float64], bias_P: NDArray[np.float64]) -> Matrix:
    """Rounded, each column by a scale with which no sum leaves 32 bits. S: segments of K values."""
    n_columns, n_segments, n_values = weight_PSK.shape
    sizes_PX = np.abs(weight_PSK).reshape(n_columns, -1)
    most = _LARGEST_SUM / LARGEST - sizes_PX.shape[1] / 2  # of the rounded magnitudes' sum
    factors_P = np.minimum(
        32767 / np.maximum(sizes_PX.max(axis=1), _TINY), most / np.maximum(sizes_PX.sum(axis=1), _TINY)
    )
    n_panels = -(-n_columns // PANEL)
    rounded = np.zeros((n_panels * PANEL, n_segments, n_values), dtype=np.int16)
    rounded[:n_columns] = np.rint(weight_PSK * factors_P[:, None, None])
    panels = rounded.reshape(n_panels, PANEL, n_segments, n_values // 2, 2).transpose(0, 2, 3, 1, 4)
    scales, bias = np.zeros((2, n_panels * PANEL), dtype=np.float32)
    scales[:n_columns], bias[:n_columns] = 1 / factors_P, bias_P
    return Matrix(np.ascontiguousarray(panels).reshape(-1), scales, bias)


def _padded(x_MC: Floats, n_bands: int) -> tuple[Int16s, float]:
    n_frames, n_channels = len(x_MC) // n_bands, x_MC.shape[1]
    padded_TFC = np.zeros((n_frames + 2, n_bands + 2, n_channels + n_channels % 2), dtype=np.int16)
    return padded_TFC, kernels.quantise_padded(x_MC.reshape(n_frames, -1), padded_TFC)


def _projected(x_ND: Floats, norm: bool, matrix: Matrix, n_columns: int) -> Floats:
    out_ND = np.empty((len(x_ND), n_columns), dtype=np.float32)
    quantised_ND, scales_N = np.empty(x_ND.shape, dtype=np.int16), np.empty(len(x_ND), dtype=np.float32)
    kernels.project(x_ND, norm, matrix, quantised_ND, scales_N, _sums(len(x_ND), matrix), out_ND)
    return out_ND


def _sums(n_rows: int, matrix: Matrix) -> Sums:
    return np.empty((n_rows, len(matrix.bias)), dtype=np.int32)


def _work(n_frames: int, n_recordings: int, settings: ResidualGruSettings, gru: Gru) -> Work:
    n_hidden = settings.gru_hidden
    return Work(
        normed_ND=np.empty((n_frames, settings.width), dtype=np.int16),
        scales_N=np.empty(n_frames, dtype=np.float32),
        inputs_NP=_sums(n_frames, gru.inputs),
        hidden_NH=np.empty((n_frames, 2 * n_hidden), dtype=np.int16),
        output_NP=_sums(n_frames, gru.output),
        state_SH=np.empty((n_recordings, n_hidden), dtype=np.float32),
        quantised_SH=np.empty((n_recordings, n_hidden), dtype=np.int16),
        sums_SP=_sums(n_recordings, gru.ahead),
        gates=np.empty(2 * n_hidden, dtype=np.float32),
        inner_H=np.empty(n_hidden),
    )


def _numbers(tensor: torch.Tensor | None) -> NDArray[np.float64]:
    assert tensor is not None
    return tensor.detach().double().cpu().numpy()
