"""Conformer-CTC: convolution and self-attention over log-mels (arXiv 2005.08100), in plain PyTorch.

Positions are rotary (arXiv 2104.09864), which ASR finds as good as relative ones and cheaper (arXiv
2501.06051). The front end is a strided convolution followed by depthwise-separable ones (Fast Conformer,
arXiv 2305.05084). LayerNorm stands where the paper has BatchNorm: every normalisation looks at one frame,
attention and convolutions never see padding, so a batch gives what each utterance alone gives.

Shapes: B utterances, T frames, F mel bands, C channels, D model width, H heads, K features a head, V outputs.
"""

from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import nn
from torch.nn import functional

from asr.acoustic.intermediate import through_blocks, upsampled_log_probs
from asr.acoustic.masking import frame_mask, zero_padding

ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class ConformerSettings:
    """Size of a `Conformer`; kept in the bundle."""

    vocab_size: int  # CTC outputs, blank included
    n_mels: int = 80
    subsampling: int = 4  # features per frame of the blocks: 4 or 8
    upsampling: int = 1  # output frames per frame of the blocks
    conv_channels: int = 64  # of the strided convolutions
    width: int = 144
    heads: int = 4
    blocks: int = 16
    expansion: int = 4  # of the feed-forward layers' width
    kernel: int = 31  # frames that a block's convolution sees; odd
    dropout: float = 0.1
    self_condition_every: int = 0  # blocks between self-conditionings on the posteriors; 0: none

    def __post_init__(self) -> None:
        if self.subsampling not in (4, 8):
            raise ValueError(f"subsampling must be 4 or 8, not {self.subsampling}")
        if self.n_mels % self.subsampling:
            raise ValueError(
                f"n_mels ({self.n_mels}) must be a multiple of the subsampling ({self.subsampling})"
            )
        sizes = (self.vocab_size, self.conv_channels, self.width, self.heads, self.blocks, self.expansion)
        if min(*sizes, self.upsampling) < 1:
            raise ValueError("sizes must be at least 1")
        if self.width % (2 * self.heads):
            raise ValueError(f"width ({self.width}) must be a multiple of twice the heads ({self.heads})")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, not {self.kernel}")
        if self.self_condition_every < 0:
            raise ValueError("self_condition_every must be at least 0")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be in 0..1, not {self.dropout}")

    @property
    def features_per_output(self) -> Fraction:
        """Features per frame of log-probabilities: times the hop, the seconds between two of them."""
        return Fraction(self.subsampling, self.upsampling)

    def output_frames(self, n_features: int) -> int:
        """Frames of log-probabilities that so many features give."""
        return -(-n_features // self.subsampling) * self.upsampling

    @property
    def n_blocks(self) -> int:
        """Blocks that can have an intermediate output, the last included."""
        return self.blocks


class Conformer(nn.Module):
    """(features_BTF, lengths_B) -> (log_probs_BTV, lengths_B)."""

    def __init__(self, settings: ConformerSettings) -> None:
        super().__init__()
        self.settings = settings
        channels = settings.conv_channels
        n_strides = settings.subsampling.bit_length() - 1
        self.strides = nn.ModuleList([_Stride(1, channels)])
        self.strides.extend(_SeparableStride(channels) for _ in range(n_strides - 1))
        n_bands = settings.n_mels // settings.subsampling
        self.projection = nn.Linear(channels * n_bands, settings.width)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(_Block(settings) for _ in range(settings.blocks))
        self.final_norm = nn.LayerNorm(settings.width)
        n_outputs = settings.vocab_size * settings.upsampling
        self.output = nn.Linear(settings.width, n_outputs)
        self.condition = nn.Linear(n_outputs, settings.width) if settings.self_condition_every else None

    def forward(
        self, features_BTF: torch.Tensor, lengths_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """features_BTF: float32, anything past `lengths_B`. lengths_B: int64, at least 1.

        Returns log-probabilities (B, ceil(T / subsampling) * upsampling, V), normalised over V, and their
        lengths. Rows past an utterance's length are to be ignored.
        """
        outputs, lengths_B = self.at_blocks(features_BTF, lengths_B)
        return outputs[-1], lengths_B

    def at_blocks(
        self, features_BTF: torch.Tensor, lengths_B: torch.Tensor, wanted: Collection[int] = ()
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """As `forward`, with the log-probabilities after the blocks `wanted` (from 1) before the last's."""
        x_BCTF = features_BTF[:, None]
        for stride in self.strides:
            x_BCTF = stride(zero_padding(x_BCTF, lengths_B)).contiguous(memory_format=torch.channels_last)
            lengths_B = (lengths_B + 1) // 2
        x_BTD = self.dropout(self.projection(x_BCTF.transpose(1, 2).flatten(2)))
        outputs = through_blocks(
            self.blocks,
            x_BTD,
            lengths_B,
            self._log_probs,
            wanted=wanted,
            condition=self.condition,
            condition_every=self.settings.self_condition_every,
        )
        return outputs, lengths_B * self.settings.upsampling

    def _log_probs(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return upsampled_log_probs(self.output(self.final_norm(x_BTD)), self.settings.upsampling)


class _Stride(nn.Sequential):
    """Halves time and frequency."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=2, padding=1), nn.SiLU())


class _SeparableStride(nn.Sequential):
    """Halves time and frequency, each channel by itself, then mixes the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1, groups=channels),
            nn.Conv2d(channels, channels, kernel_size=1),
            nn.SiLU(),
        )


class _Block(nn.Module):
    """Half a feed-forward step, attention, convolution, the other half, a norm."""

    def __init__(self, settings: ConformerSettings) -> None:
        super().__init__()
        self.feed_forward_1 = _FeedForward(settings)
        self.attention = _Attention(settings)
        self.convolution = _Convolution(settings)
        self.feed_forward_2 = _FeedForward(settings)
        self.norm = nn.LayerNorm(settings.width)

    def forward(self, x_BTD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        x_BTD = x_BTD + 0.5 * self.feed_forward_1(x_BTD)
        x_BTD = x_BTD + self.attention(x_BTD, lengths_B)
        x_BTD = x_BTD + self.convolution(x_BTD, lengths_B)
        x_BTD = x_BTD + 0.5 * self.feed_forward_2(x_BTD)
        normed_BTD: torch.Tensor = self.norm(x_BTD)
        return normed_BTD


class _FeedForward(nn.Sequential):
    def __init__(self, settings: ConformerSettings) -> None:
        inner = settings.width * settings.expansion
        super().__init__(
            nn.LayerNorm(settings.width),
            nn.Linear(settings.width, inner),
            nn.SiLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(inner, settings.width),
            nn.Dropout(settings.dropout),
        )


class _Attention(nn.Module):
    """Every frame looks at every real frame of its utterance."""

    def __init__(self, settings: ConformerSettings) -> None:
        super().__init__()
        self.heads = settings.heads
        self.norm = nn.LayerNorm(settings.width)
        self.query_key_value = nn.Linear(settings.width, 3 * settings.width)
        self.projection = nn.Linear(settings.width, settings.width)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x_BTD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        n_frames = x_BTD.shape[1]
        all_BT3HK = self.query_key_value(self.norm(x_BTD)).unflatten(2, (3, self.heads, -1))
        q_BTHK, k_BTHK, v_BTHK = all_BT3HK.unbind(2)
        q_BTHK, k_BTHK = _rotated(q_BTHK), _rotated(k_BTHK)
        mask_B11T = frame_mask(lengths_B, n_frames)[:, None, None, :]
        heard_BHTK = functional.scaled_dot_product_attention(
            q_BTHK.transpose(1, 2), k_BTHK.transpose(1, 2), v_BTHK.transpose(1, 2), attn_mask=mask_B11T
        )
        mixed: torch.Tensor = self.dropout(self.projection(heard_BHTK.transpose(1, 2).flatten(2)))
        return mixed


class _Convolution(nn.Module):
    """Gate, one convolution over time for each channel, a norm, and a mixing of the channels."""

    def __init__(self, settings: ConformerSettings) -> None:
        super().__init__()
        width = settings.width
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 2 * width)
        # two-dimensional and channels last: a quarter of nn.Conv1d's time on a CPU (docs/decisions.md)
        self.depthwise = nn.Conv2d(
            width, width, kernel_size=(settings.kernel, 1), padding=(settings.kernel // 2, 0), groups=width
        )
        self.inner_norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, width)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x_BTD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        gated_BTD = functional.glu(self.gate(self.norm(x_BTD)))
        seen_BDT1 = self.depthwise(zero_padding(gated_BTD.transpose(1, 2)[..., None], lengths_B))
        y_BTD = functional.silu(self.inner_norm(seen_BDT1.squeeze(3).transpose(1, 2)))
        mixed: torch.Tensor = self.dropout(self.projection(y_BTD))
        return mixed


def _rotated(x_BTHK: torch.Tensor) -> torch.Tensor:
    """Each pair of features (i, i + K/2) turned by frame x frequency i: products depend on distance alone."""
    n_frames, half = x_BTHK.shape[1], x_BTHK.shape[3] // 2
    frames_T = torch.arange(n_frames, device=x_BTHK.device, dtype=torch.float32)
    exponents_K = torch.arange(half, device=x_BTHK.device, dtype=torch.float32) / half
    angles_T1K = (frames_T[:, None] * ROTARY_BASE**-exponents_K)[:, None, :]
    cos_T1K, sin_T1K = angles_T1K.cos().to(x_BTHK.dtype), angles_T1K.sin().to(x_BTHK.dtype)
    left, right = x_BTHK[..., :half], x_BTHK[..., half:]
    return torch.cat([left * cos_T1K - right * sin_T1K, right * cos_T1K + left * sin_T1K], dim=-1)
