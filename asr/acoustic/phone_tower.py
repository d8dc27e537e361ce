"""A network of its own that hears phones, and pieces if asked: 2-D convolutions, then some over time.

After Kaldi's factored TDNNs (Povey et al., Interspeech 2018). It looks at half a second to either side and no
further: from little speech, a network that sees whole sentences learns these by heart.

Shapes: B utterances, T frames of pieces, F mel bands, C channels, D width, R bottleneck, P phones, V pieces.
"""

import torch
from torch import nn
from torch.nn import functional

from asr.acoustic.byte_dropout import ByteDropout
from asr.acoustic.masking import frame_mask, zero_padding
from asr.acoustic.phones import PHONE_FRAMES

STRIDES = ((2, 2), (2, 2), (1, 2))  # of time and bands
ROW_FEATURES = 8  # to a frame of pieces


class PhoneTower(nn.Module):
    """(features_BTF, lengths_B) -> log-probabilities of phones (B, 2T, P), of pieces (B, T, V) or None."""

    def __init__(
        self,
        n_mels: int,
        channels: int,
        width: int,
        bottleneck: int,
        n_blocks: int,
        dropout: float,
        phones: int,
        pieces: int = 0,
    ) -> None:
        """pieces: 0 for a tower that hears phones only."""
        super().__init__()
        self.bottleneck = bottleneck
        sizes = (1, channels, 2 * channels, 2 * channels)
        self.strides = nn.ModuleList(
            nn.Conv2d(n_in, n_out, kernel_size=3, stride=stride, padding=1)
            for n_in, n_out, stride in zip(sizes, sizes[1:], STRIDES, strict=False)
        )
        self.projection = nn.Linear(2 * channels * (n_mels // 8), width)
        self.blocks = nn.ModuleList(TimeBlock(width, bottleneck, dropout) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, phones)
        self.pieces_output = nn.Linear(PHONE_FRAMES * width, pieces) if pieces else None

    def forward(
        self, features_BTF: torch.Tensor, lengths_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """features_BTF: float32, anything past `lengths_B`, int64 features, at least 1.

        Each utterance is taken to end with silence up to a whole frame of pieces. Log-probabilities past that
        are to be ignored.
        """
        n_features = features_BTF.shape[1]
        mask_BT1 = frame_mask(lengths_B, n_features)[..., None]
        x_BTF = functional.pad(features_BTF * mask_BT1, (0, 0, 0, -n_features % ROW_FEATURES))
        lengths_B = ROW_FEATURES * ((lengths_B + ROW_FEATURES - 1) // ROW_FEATURES)
        x_BCTF = x_BTF[..., None].permute(0, 3, 1, 2)  # channels last
        for layer, (stride, _) in zip(self.strides, STRIDES, strict=True):
            x_BCTF = _gelu(layer(zero_padding(x_BCTF, lengths_B)))
            lengths_B = lengths_B // stride
        x_BTD = self.projection(x_BCTF.transpose(1, 2).flatten(2))
        mask_BT1 = frame_mask(lengths_B, x_BTD.shape[1])[..., None]
        for block in self.blocks:
            x_BTD = block(x_BTD, mask_BT1)
        x_BTD = self.norm(x_BTD)
        phones_BTP = self.output(x_BTD).float().log_softmax(dim=-1)
        if self.pieces_output is None:
            return phones_BTP, None
        pairs_BTE = x_BTD.reshape(len(x_BTD), -1, PHONE_FRAMES * x_BTD.shape[-1])
        return phones_BTP, self.pieces_output(pairs_BTE).float().log_softmax(dim=-1)


class TimeBlock(nn.Module):
    """x + conv(dropout(gelu(conv(norm(x))))), both over three frames, narrow between them."""

    def __init__(self, width: int, bottleneck: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.narrow = nn.Linear(3 * width, bottleneck)
        self.widen = nn.Linear(3 * bottleneck, width)
        self.dropout = ByteDropout(dropout)

    def forward(self, x_BTD: torch.Tensor, mask_BT1: torch.Tensor) -> torch.Tensor:
        y_BTR = functional.gelu(_of_three_frames(self.norm(x_BTD) * mask_BT1, self.narrow))
        widened_BTD: torch.Tensor = self.widen(_three_frames(self.dropout(y_BTR) * mask_BT1))
        return x_BTD + widened_BTD


def _gelu(x_BCTF: torch.Tensor) -> torch.Tensor:
    """Of channels last in memory, which PyTorch's own does number by number on a CPU."""
    return functional.gelu(x_BCTF.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _of_three_frames(x_BTD: torch.Tensor, narrow: nn.Linear) -> torch.Tensor:
    """`narrow(_three_frames(x_BTD))`, (B, T, R): products are moved, which are narrower than frames."""
    weight_3RD = narrow.weight.view(narrow.out_features, 3, -1).transpose(0, 1).flatten(0, 1)
    before_BTR, here_BTR, after_BTR = functional.linear(x_BTD, weight_3RD).chunk(3, dim=-1)
    moved_BTR = functional.pad(before_BTR[:, :-1], (0, 0, 1, 0)) + functional.pad(
        after_BTR[:, 1:], (0, 0, 0, 1)
    )
    return here_BTR + moved_BTR + narrow.bias.to(here_BTR.dtype)


def _three_frames(x_BTD: torch.Tensor) -> torch.Tensor:
    """Each frame between its neighbours, zeros outside: (B, T, 3D)."""
    padded_BTD = functional.pad(x_BTD, (0, 0, 1, 1))
    return torch.cat([padded_BTD[:, :-2], x_BTD, padded_BTD[:, 2:]], dim=-1)
