"""Re-ordering an n-best list with a GPT-2 language model.

Shapes: B rows, L tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoTokenizer, GPT2LMHeadModel
from transformers.utils import logging as transformers_logging

from asr.decoding.result import Hypothesis
from asr.errors import MismatchError, MissingFileError

_MAX_BATCH_TOKENS = 1024  # padded; bounds the logits: 206 MB of float32 with GPT-2's 50257 words


class TextScorer(Protocol):
    """What `rescore` needs of a language model."""

    def score(self, texts: Sequence[str]) -> list[float]:
        """Natural-log probability of each text."""
        ...


@dataclass(frozen=True)
class _Window:
    """Consecutive tokens of one text, short enough for the model."""

    text: int  # index of the text it belongs to
    inputs: tuple[int, ...]
    targets: tuple[int, ...]  # inputs moved on by one
    first: int  # targets before this one were scored by the previous window


class Gpt2Scorer:
    """Log-probabilities of whole texts under a GPT-2 model, on one device, without dropout."""

    def __init__(self, model: Any, tokenizer: Any, device: str | torch.device) -> None:
        """`model`: GPT2LMHeadModel; `tokenizer`: its tokenizer.

        Raises MismatchError when they do not belong together.
        """
        self._end_id = tokenizer.eos_token_id
        if self._end_id is None:
            raise MismatchError("the GPT-2 tokenizer has no end-of-text token")
        self._begin_id: int = self._end_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if len(tokenizer) > model.config.vocab_size:
            raise MismatchError(f"GPT-2 has {model.config.vocab_size} tokens, its tokenizer {len(tokenizer)}")
        self._device = torch.device(device)
        self._model = model.to(self._device).eval()
        self._tokenizer = tokenizer
        self._n_positions: int = model.config.n_positions

    @classmethod
    def load(cls, folder_or_hub_name: str | Path, device: str | torch.device = "cpu") -> "Gpt2Scorer":
        """From a folder in Hugging Face layout, without the network, or from a hub name, which may download.

        Weights are read from safetensors only. Raises MissingFileError when files are absent or the name is
        unknown, MismatchError when they cannot be read.
        """
        name = str(folder_or_hub_name)
        local = Path(name).is_dir()
        if local:
            _check_files(Path(name))
        try:
            with _no_progress_bar():
                tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local)
                model = GPT2LMHeadModel.from_pretrained(
                    name, local_files_only=local, use_safetensors=True, dtype=torch.float32
                )
        except OSError as error:
            raise MissingFileError(f"no GPT-2 model and tokenizer in {name}: {error}") from error
        except (ValueError, RuntimeError, SafetensorError) as error:
            raise MismatchError(f"GPT-2 in {name} cannot be read: {error}") from error
        return cls(model, tokenizer, device)

    def score(self, texts: Sequence[str]) -> list[float]:
        """Natural-log P(text, end) given a begin token, per text; an empty text is scored on its end alone.

        A text longer than the model's positions is scored in windows that overlap by half: every token is
        scored once, with at least half the positions before it as context. Results do not depend on what else
        is in the batch beyond float32 rounding (1e-4).
        """
        windows = [w for i, text in enumerate(texts) for w in self._windows(i, self._encode(text))]
        totals = [0.0] * len(texts)
        for batch in _batches(windows):
            for window, logp in zip(batch, self._score_batch(batch), strict=True):
                totals[window.text] += logp
        return totals

    def _encode(self, text: str) -> list[int]:
        encoded = self._tokenizer(text, add_special_tokens=False, verbose=False)
        ids: list[int] = encoded["input_ids"]
        return ids

    def _windows(self, text: int, ids: Sequence[int]) -> Iterator[_Window]:
        inputs, targets = (self._begin_id, *ids), (*ids, self._end_id)
        size, stride = self._n_positions, max(self._n_positions // 2, 1)
        scored = 0
        start = 0
        while scored < len(targets):
            stop = min(start + size, len(targets))
            yield _Window(text, inputs[start:stop], targets[start:stop], scored - start)
            scored = stop
            start += stride

    @torch.inference_mode()
    def _score_batch(self, batch: Sequence[_Window]) -> list[float]:
        """Padded on the right, where the causal mask keeps padding out of sight; sums in float64."""
        longest = max(len(w.inputs) for w in batch)
        inputs_BL = torch.full((len(batch), longest), self._end_id, dtype=torch.long)
        targets_BL = inputs_BL.clone()
        counts_BL = torch.zeros((len(batch), longest), dtype=torch.bool)
        for row, window in enumerate(batch):
            n = len(window.inputs)
            inputs_BL[row, :n] = torch.tensor(window.inputs)
            targets_BL[row, :n] = torch.tensor(window.targets)
            counts_BL[row, window.first : n] = True
        logits_BLV: Tensor = self._model(input_ids=inputs_BL.to(self._device), use_cache=False).logits
        chosen_BL = logits_BLV.gather(2, targets_BL.to(self._device).unsqueeze(2)).squeeze(2)
        logp_BL = (chosen_BL - logits_BLV.logsumexp(dim=2)).double().cpu()
        totals: list[float] = logp_BL.masked_fill(~counts_BL, 0.0).sum(dim=1).tolist()
        return totals


def rescore(
    hypotheses: Sequence[Hypothesis], scorer: TextScorer, gamma: float, limit: int
) -> list[Hypothesis]:
    """The first `limit` hypotheses with gamma x the scorer's log-probability as `gpt2`, best total first.

    Those beyond the limit are left out: without a GPT-2 part their totals could not be compared. Equal totals
    are in alphabetical order.
    """
    chosen = hypotheses[:limit]
    logps = scorer.score([h.text for h in chosen])
    rescored = [
        replace(h, scores=replace(h.scores, gpt2=gamma * logp)) for h, logp in zip(chosen, logps, strict=True)
    ]
    return sorted(rescored, key=lambda h: (-h.scores.total, h.text))


def _check_files(folder: Path) -> None:
    """Names what is absent: transformers' own messages advise to log in to its hub."""
    for names in (
        ("config.json",),
        ("tokenizer.json", "vocab.json"),
        ("model.safetensors", "model.safetensors.index.json"),
    ):
        if not any((folder / name).is_file() for name in names):
            raise MissingFileError(f"{names[0]} is missing from {folder}")


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """No bar over the weights in a service's log. transformers' setting is global, so it is put back."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _batches(windows: Sequence[_Window]) -> Iterator[list[_Window]]:
    """Windows of like length together, at least one a batch, at most `_MAX_BATCH_TOKENS` after padding."""
    batch: list[_Window] = []
    for window in sorted(windows, key=lambda w: len(w.inputs)):
        if batch and (len(batch) + 1) * len(window.inputs) > _MAX_BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch
