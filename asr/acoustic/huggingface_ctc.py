"""Published CTC models of transformers, served as they are: wav2vec 2.0, HuBERT, WavLM.

`asr-train import-hf` makes bundles of them. They read samples, not log-mels, so that "features" are the
samples themselves, F = 1, normalised as the checkpoint's feature extractor did. The output layer was cut to
the labels that may be written, the blank first, at the import; what remains gives transformers' own logits.

Attention is quadratic in time, and nobody trained these models on ten minutes at once: longer recordings are
heard in overlapping windows whose edges are thrown away, and decoded as one.

Shapes: B utterances, N samples, T output frames, V outputs.
"""

import json
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import nn

from asr.audio import SAMPLE_RATE

ARCHITECTURES = ("Wav2Vec2ForCTC", "HubertForCTC", "WavLMForCTC")
WINDOW_S = 30  # longest piece heard at once
EDGE_S = 5  # of a window, thrown away where another window heard it better
_HOP = SAMPLE_RATE // 100  # samples of the 10 ms that `features_per_output` counts in
_QUIET = 1e-7  # added to the variance, as transformers' feature extractor does


@dataclass(frozen=True)
class HuggingFaceCtcSettings:
    """What a checkpoint is; kept in the bundle."""

    vocab_size: int  # CTC outputs, blank included
    architecture: str  # one of ARCHITECTURES
    normalise: bool  # samples to zero mean and unit variance, whole recording
    config: str  # the checkpoint's config.json, as text: transformers builds the network from it

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}")
        if int(self._config["vocab_size"]) != self.vocab_size:
            raise ValueError(
                f"config has a vocab_size of {self._config['vocab_size']}, the settings {self.vocab_size}"
            )

    @property
    def samples_per_output(self) -> int:
        """Samples between two output frames."""
        return prod(int(stride) for stride in self._config["conv_stride"])

    @property
    def fewest_samples(self) -> int:
        """That give one output frame."""
        fewest = 1
        for kernel, stride in self._layers[::-1]:
            fewest = (fewest - 1) * stride + kernel
        return fewest

    @property
    def features_per_output(self) -> Fraction:
        """Output frames' distance in steps of 10 ms, the hop of every bundle's feature settings."""
        return Fraction(self.samples_per_output, _HOP)

    def output_frames(self, n_samples: int) -> int:
        """Frames that the network gives for so many samples."""
        for kernel, stride in self._layers:
            n_samples = max(0, (n_samples - kernel) // stride + 1)
        return n_samples

    @property
    def _layers(self) -> list[tuple[int, int]]:
        return list(zip(self._config["conv_kernel"], self._config["conv_stride"], strict=True))

    @property
    def _config(self) -> dict[str, Any]:
        try:
            config = json.loads(self.config)
            _ = config["vocab_size"], config["conv_stride"], config["conv_kernel"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"config is no configuration of {self.architecture}: {error!r}") from error
        values: dict[str, Any] = config
        return values


class HuggingFaceCtc(nn.Module):
    """(samples_BNF, lengths_B) -> (log_probs_BTV, lengths_B), F = 1."""

    def __init__(self, settings: HuggingFaceCtcSettings) -> None:
        super().__init__()
        import transformers  # takes seconds, and only these bundles need its speech models

        self.settings = settings
        architecture = getattr(transformers, settings.architecture)
        config = architecture.config_class.from_dict(json.loads(settings.config))
        self.network = architecture(config)

    def forward(
        self, samples_BNF: torch.Tensor, lengths_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """samples_BNF: float32, normalised, anything past `lengths_B`, which are at least `fewest_samples`.

        Utterances are heard one by one, so that padding changes nothing. Rows past an utterance's length
        are to be ignored.
        """
        heard = [
            self.logits(samples_NF[: int(length), 0])
            for samples_NF, length in zip(samples_BNF, lengths_B, strict=True)
        ]
        lengths = torch.tensor([len(logits_TV) for logits_TV in heard], device=lengths_B.device)
        logits_BTV = nn.utils.rnn.pad_sequence(heard, batch_first=True)
        return logits_BTV.float().log_softmax(dim=-1), lengths

    def logits(self, samples_N: torch.Tensor) -> torch.Tensor:
        """Of one utterance, (T, V): transformers' own, in windows where it is longer than WINDOW_S."""
        hop = self.settings.samples_per_output
        pieces = []
        for start, stop, first, last in windows(len(samples_N), hop):
            logits_TV = self.network(samples_N[None, start:stop]).logits[0]
            pieces.append(logits_TV[first:last])
        return torch.cat(pieces)


def normalised_samples(samples_N: torch.Tensor, settings: HuggingFaceCtcSettings) -> torch.Tensor:
    """A recording's samples as the network reads them, (N, 1)."""
    if settings.normalise:
        variance = samples_N.var(unbiased=False)
        samples_N = (samples_N - samples_N.mean()) / torch.sqrt(variance + _QUIET)
    return samples_N[:, None]


def windows(n_samples: int, hop: int) -> list[tuple[int, int, int, int | None]]:
    """(first sample, end sample, first frame kept, end frame kept) of the windows of a recording.

    The frames kept join to those of the whole. A recording of at most WINDOW_S is one window.
    """
    size = WINDOW_S * SAMPLE_RATE // hop * hop
    edge = EDGE_S * SAMPLE_RATE // hop * hop
    starts = [0]
    while starts[-1] + size < n_samples:
        starts.append(starts[-1] + size - 2 * edge)
    found: list[tuple[int, int, int, int | None]] = []
    for start, following in pairwise([*starts, -1]):
        first = edge // hop if start else 0
        last = (following + edge - start) // hop if following >= 0 else None
        found.append((start, min(start + size, n_samples), first, last))
    return found
