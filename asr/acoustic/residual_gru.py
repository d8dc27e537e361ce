"""The ancestor's model made sound: 2-D residual convolutions, a projection, residual bidirectional GRUs.

After ASR_sound, itself after Deep Speech 2 (arXiv 1512.02595). Padding never changes a result: frames past an
utterance's length are zeroed before every convolution that could see them, the backward GRU starts at the
last real frame, and the normalisations look at one frame at a time.

Shapes: B utterances, T frames, F mel bands, C channels, D model width, V outputs.
"""

from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import nn
from torch.nn import functional

from asr.acoustic.gru import bidirectional_gru
from asr.acoustic.intermediate import through_blocks, upsampled_log_probs
from asr.acoustic.masking import frame_mask, reversed_within_lengths, zero_padding
from asr.acoustic.phone_tower import ROW_FEATURES, PhoneTower
from asr.acoustic.phones import PHONE_FRAMES, mixed, phone_log_probs, with_phones


@dataclass(frozen=True)
class ResidualGruSettings:
    """Size of a `ResidualGru`; kept in the bundle."""

    vocab_size: int  # CTC outputs, blank included
    n_mels: int = 80
    subsampling: int = 8  # features per frame of the GRUs: 4 or 8
    upsampling: int = 1  # output frames per frame of the GRUs: characters at 8x need 2
    conv_channels: int = 32  # twice as many after the first stride
    conv_blocks: int = 2  # residual blocks, after the last stride: earlier ones cost four times as much each
    width: int = 384  # of the GRU blocks' input and output
    gru_hidden: int = 256  # per direction
    gru_blocks: int = 3
    dropout: float = 0.1
    self_condition_every: int = 0  # GRU blocks between self-conditionings on the posteriors; 0: none
    phones: int = 0  # outputs of a second layer, over phones, its blank included; 0: there is none
    tower_blocks: int = 0  # of a network beside this one that hears phones, too (`PhoneTower`); 0: none
    tower_channels: int = 32
    tower_width: int = 512
    tower_bottleneck: int = 192
    tower_share: float = 1.0  # of the phones' log-probabilities; the rest is the second layer's
    tower_pieces_share: float = 0.0  # of the pieces' log-probabilities; 0: the tower hears no pieces

    def __post_init__(self) -> None:
        if self.subsampling not in (4, 8):
            raise ValueError(f"subsampling must be 4 or 8, not {self.subsampling}")
        if self.n_mels % self.subsampling:
            raise ValueError(
                f"n_mels ({self.n_mels}) must be a multiple of the subsampling ({self.subsampling})"
            )
        sizes = (self.vocab_size, self.conv_channels, self.width, self.gru_hidden, self.gru_blocks)
        if min(*sizes, self.upsampling) < 1:
            raise ValueError("sizes must be at least 1")
        if self.conv_blocks < 0 or self.self_condition_every < 0:
            raise ValueError("conv_blocks and self_condition_every must be at least 0")
        if self.phones < 0 or (self.phones and (self.upsampling > 1 or self.self_condition_every)):
            raise ValueError("phones must be at least 0, and 0 with upsampling or self-conditioning")
        if not 0.0 <= self.tower_pieces_share <= 1.0 or (self.tower_pieces_share and not self.tower_blocks):
            raise ValueError(
                f"tower_pieces_share must be in 0..1, and 0 without a tower, not {self.tower_pieces_share}"
            )
        if self.tower_blocks < 0 or (self.tower_blocks and not (self.phones and self.subsampling == 8)):
            raise ValueError("tower_blocks must be 0 without phones or with a subsampling of 4")
        if not 0.0 <= self.tower_share <= 1.0:
            raise ValueError(f"tower_share must be in 0..1, not {self.tower_share}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be in 0..1, not {self.dropout}")

    @property
    def pieces_are_towers(self) -> bool:
        """Whether the tower gives the pieces alone: the GRUs are there for phones only."""
        return self.tower_pieces_share == 1.0

    @property
    def features_per_output(self) -> Fraction:
        """Features per frame of log-probabilities: times the hop, the seconds between two of them."""
        return Fraction(self.subsampling, self.upsampling)

    def output_frames(self, n_features: int) -> int:
        """Frames of log-probabilities that so many features give."""
        return -(-n_features // self.subsampling) * self.upsampling

    @property
    def n_columns(self) -> int:
        """Of a row of log-probabilities: the pieces', then each of `PHONE_FRAMES` shorter frames' phones'."""
        return self.vocab_size + PHONE_FRAMES * self.phones

    @property
    def n_blocks(self) -> int:
        """Blocks that can have an intermediate output, the last included."""
        return self.gru_blocks


class ResidualGru(nn.Module):
    """(features_BTF, lengths_B) -> (log_probs_BTV, lengths_B)."""

    def __init__(self, settings: ResidualGruSettings) -> None:
        super().__init__()
        self.settings = settings
        channels = 1
        stages: list[nn.Module] = []
        for stage in range(settings.subsampling.bit_length() - 1):
            wider = settings.conv_channels * (1 if stage == 0 else 2)
            stages.append(Stride(channels, wider))
            channels = wider
        stages.extend(ConvBlock(channels, settings.dropout) for _ in range(settings.conv_blocks))
        self.convolutions = nn.ModuleList(stages)
        self.projection = nn.Linear(channels * (settings.n_mels // settings.subsampling), settings.width)
        self.gru_blocks = nn.ModuleList(GruBlock(settings) for _ in range(settings.gru_blocks))
        self.final_norm = nn.LayerNorm(settings.width)
        n_outputs = settings.vocab_size * settings.upsampling
        self.output = nn.Linear(settings.width, n_outputs)
        if settings.phones:
            self.phone_norm = nn.LayerNorm(settings.width)
            self.phone_output = nn.Linear(settings.width, PHONE_FRAMES * settings.phones)
        if settings.tower_blocks:
            self.tower = PhoneTower(
                settings.n_mels,
                settings.tower_channels,
                settings.tower_width,
                settings.tower_bottleneck,
                settings.tower_blocks,
                settings.dropout,
                settings.phones,
                settings.vocab_size if settings.tower_pieces_share else 0,
            )
        self.condition = nn.Linear(n_outputs, settings.width) if settings.self_condition_every else None

    def forward(
        self, features_BTF: torch.Tensor, lengths_B: torch.Tensor, *, phones: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """features_BTF: float32, anything past `lengths_B`. lengths_B: int64, at least 1.

        Returns log-probabilities (B, ceil(T / subsampling) * upsampling, V), normalised over V, and their
        lengths. Rows past an utterance's length are to be ignored. With `phones` a row goes on with theirs
        (`n_columns`, `phone_log_probs`); without `phones` they are unfinished or absent, which is quicker.
        """
        settings = self.settings
        of_tower = None
        if settings.tower_blocks and (phones or settings.tower_pieces_share):
            of_tower = self.tower(features_BTF, lengths_B)
        if of_tower and settings.pieces_are_towers and not phones:
            return of_tower[1], (lengths_B + ROW_FEATURES - 1) // ROW_FEATURES
        outputs, lengths_B = self.at_blocks(features_BTF, lengths_B)
        return self._with_tower(outputs[-1], *of_tower) if of_tower else outputs[-1], lengths_B

    def at_blocks(
        self, features_BTF: torch.Tensor, lengths_B: torch.Tensor, wanted: Collection[int] = ()
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """As `forward`, with the log-probabilities after the blocks `wanted` (from 1) before the last's."""
        if features_BTF.is_cuda or torch.is_grad_enabled() or len(features_BTF) == 1:
            x_BTD, lengths_B = self._convolved(features_BTF, lengths_B)
        else:
            x_BTD, lengths_B = self._convolved_one_by_one(features_BTF, lengths_B)
        outputs = through_blocks(
            self.gru_blocks,
            x_BTD,
            lengths_B,
            self._log_probs,
            wanted=wanted,
            condition=self.condition,
            condition_every=self.settings.self_condition_every,
        )
        return outputs, lengths_B * self.settings.upsampling

    def _convolved(
        self, features_BTF: torch.Tensor, lengths_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The GRUs' input (B, ceil(T / subsampling), D) and its lengths."""
        x_BCTF = features_BTF[..., None].permute(0, 3, 1, 2)  # channels last
        for layer in self.convolutions:
            if isinstance(layer, Stride):
                x_BCTF = layer(zero_padding(x_BCTF, lengths_B))
                lengths_B = (lengths_B + 1) // 2
            else:
                x_BCTF = layer(x_BCTF, lengths_B)
        return self.projection(x_BCTF.transpose(1, 2).flatten(2)), lengths_B

    def _convolved_one_by_one(
        self, features_BTF: torch.Tensor, lengths_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, zero past the lengths: on CPU, where a batch's channels fall out of the caches between
        two layers, convolutions take two thirds of the time this way."""
        n_frames = -(-features_BTF.shape[1] // self.settings.subsampling)
        x_BTD = features_BTF.new_zeros(len(features_BTF), n_frames, self.settings.width)
        new_lengths_B = torch.empty_like(lengths_B)
        for place, length in enumerate(lengths_B.tolist()):
            one = slice(place, place + 1)
            found_1TD, new_lengths_B[one] = self._convolved(features_BTF[one, :length], lengths_B[one])
            x_BTD[place, : found_1TD.shape[1]] = found_1TD[0]
        return x_BTD, new_lengths_B

    def _log_probs(self, x_BTD: torch.Tensor) -> torch.Tensor:
        pieces_BTV = upsampled_log_probs(self.output(self.final_norm(x_BTD)), self.settings.upsampling)
        if not self.settings.phones:
            return pieces_BTV
        logits_BTP = self.phone_output(self.phone_norm(x_BTD))
        return with_phones(pieces_BTV, upsampled_log_probs(logits_BTP, PHONE_FRAMES))

    def _with_tower(
        self, rows_BTC: torch.Tensor, of_tower_BTP: torch.Tensor, of_tower_BTV: torch.Tensor | None
    ) -> torch.Tensor:
        settings = self.settings
        pieces_BTV = rows_BTC[..., : settings.vocab_size]
        if of_tower_BTV is not None:
            pieces_BTV = mixed(pieces_BTV, of_tower_BTV, settings.tower_pieces_share)
        phones_BTP = phone_log_probs(rows_BTC, settings.vocab_size)
        return with_phones(pieces_BTV, mixed(phones_BTP, of_tower_BTP, settings.tower_share))


class Stride(nn.Sequential):
    """Halves time and frequency; channels last in memory."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=2, padding=1))

    @property
    def convolution(self) -> nn.Conv2d:
        layer = self[0]
        assert isinstance(layer, nn.Conv2d)
        return layer

    def forward(self, x_BCTF: torch.Tensor) -> torch.Tensor:
        y_BCTF: torch.Tensor = super().forward(x_BCTF)  # type: ignore[no-untyped-call]
        return _gelu(_channels_last(y_BCTF))


def _channels_last(x_BCTF: torch.Tensor) -> torch.Tensor:
    return x_BCTF.contiguous(memory_format=torch.channels_last)


def _gelu(x_BCTF: torch.Tensor) -> torch.Tensor:
    """GELU whose gradient comes channels last too: another layout than the input's is five times dearer."""
    y_BCTF = functional.gelu(x_BCTF)
    if y_BCTF.requires_grad:
        y_BCTF.register_hook(_channels_last)  # type: ignore[no-untyped-call]
    return y_BCTF


class ConvBlock(nn.Module):
    """x + conv(gelu(conv(gelu(norm(x))))), the norm over channels at each time and frequency."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv_1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.conv_2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BCTF: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        y_BCTF: torch.Tensor = self.norm(x_BCTF.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y_BCTF = self.conv_1(zero_padding(_gelu(y_BCTF), lengths_B))
        y_BCTF = self.conv_2(zero_padding(self.dropout(_gelu(y_BCTF)), lengths_B))
        return x_BCTF + y_BCTF


class GruBlock(nn.Module):
    """x + projection of a bidirectional GRU over norm(x)."""

    def __init__(self, settings: ResidualGruSettings) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(settings.width)
        self.forward_gru = nn.GRU(settings.width, settings.gru_hidden, batch_first=True)
        self.backward_gru = nn.GRU(settings.width, settings.gru_hidden, batch_first=True)
        self.projection = nn.Linear(2 * settings.gru_hidden, settings.width)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x_BTD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        normed_BTD = self.norm(x_BTD)
        if torch.is_grad_enabled() and not x_BTD.is_cuda:
            mask_BT = frame_mask(lengths_B, x_BTD.shape[1])
            both_BTD = bidirectional_gru(normed_BTD, mask_BT, self.forward_gru, self.backward_gru)
        else:
            ahead_BTD, _ = self.forward_gru(normed_BTD)
            back_BTD, _ = self.backward_gru(reversed_within_lengths(normed_BTD, lengths_B))
            both_BTD = torch.cat([ahead_BTD, reversed_within_lengths(back_BTD, lengths_B)], dim=-1)
        projected: torch.Tensor = self.dropout(self.projection(both_BTD))
        return x_BTD + projected
