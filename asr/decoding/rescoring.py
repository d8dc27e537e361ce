"""Re-ordering an n-best list with a GPT-2 language model.

The texts are packed as token tries (`asr.decoding.token_trie`): hypotheses of one recording share most of
their beginnings, which the model then reads once, and several recordings' lists go through in one pass.
Scores equal those of the texts one by one within float32 rounding (`python -m bench.rescoring` prints the
largest difference that it saw).

Shapes: N nodes of a pack, M scored tokens, R rows of logits at a time, V vocabulary.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from asr.decoding import gpt2
from asr.decoding.result import Hypothesis
from asr.decoding.token_trie import Pack, Window, packed, windows_of
from asr.errors import MismatchError, MissingFileError, RescoringTimeoutError

Precision = Literal["float32", "bfloat16", "auto"]

_MAX_NODES = 512  # of a pack: attention's cost grows with the square
_LOGIT_ROWS = 128  # at a time: 26 MB of float32 with GPT-2's 50257 words
_TRIAL_NODES = 128  # of the measurement that `auto` makes
_TRIAL_GAIN = 0.8  # bfloat16 must take at most this share of float32's time


class TextScorer(Protocol):
    """What `rescore` needs of a language model."""

    def score(self, texts: Sequence[str], *, deadline: float | None = None) -> list[float]:
        """Natural-log probability of each text.

        Raises RescoringTimeoutError once `time.monotonic()` passes the deadline.
        """
        ...


class Gpt2Scorer:
    """Log-probabilities of whole texts under a GPT-2 model, on one device, without dropout.

    Several threads may score at once.
    """

    def __init__(
        self, model: Any, tokenizer: Any, device: str | torch.device, precision: Precision = "float32"
    ) -> None:
        """`model`: `Gpt2` or GPT2LMHeadModel, which this takes over; `tokenizer`: its tokenizer.

        precision: `bfloat16` may be faster where the processor has it, and is off by tenths of a nat a text;
        `auto` takes it where a measurement on this machine, now, says that it saves a fifth of the time.
        Raises MismatchError when model and tokenizer do not belong together.
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
        self._deadline = _Deadline()
        for block in model.transformer.h:
            block.register_forward_pre_hook(self._deadline.check)
        if precision == "bfloat16" or (precision == "auto" and self._bfloat16_pays()):
            self._model.to(torch.bfloat16)

    @classmethod
    def load(
        cls,
        folder_or_hub_name: str | Path,
        device: str | torch.device = "cpu",
        precision: Precision = "float32",
    ) -> "Gpt2Scorer":
        """From a folder in Hugging Face layout, without the network, or from a hub name, which may download.

        Weights are read from safetensors only. Raises MissingFileError when files are absent or the name is
        unknown, MismatchError when they cannot be read.
        """
        name = str(folder_or_hub_name)
        local = Path(name).is_dir()
        if local:
            _check_files(Path(name))
        try:
            model, tokenizer = (gpt2.load(Path(name)) if local else None) or read_by_transformers(name, local)
        except OSError as error:
            raise MissingFileError(f"no GPT-2 model and tokenizer in {name}: {error}") from error
        except (ValueError, RuntimeError, SafetensorError) as error:
            raise MismatchError(f"GPT-2 in {name} cannot be read: {error}") from error
        return cls(model, tokenizer, device, precision)

    @property
    def precision(self) -> str:
        """`float32` or `bfloat16`: what the model computes in."""
        return str(self._model.dtype).removeprefix("torch.")

    def score(self, texts: Sequence[str], *, deadline: float | None = None) -> list[float]:
        """Natural-log P(text, end) given a begin token, per text; an empty text is scored on its end alone.

        The texts may be of several recordings. One longer than the model's positions is scored in windows
        that overlap by half (`windows_of`). In float32, results do not depend on what else is scored beyond
        rounding (1e-4). deadline: on `time.monotonic`'s clock, looked at before each of the model's layers.
        Raises RescoringTimeoutError after it.
        """
        windows = [w for i, text in enumerate(texts) for w in self._windows(i, self._encode(text))]
        totals = np.zeros(len(texts))
        with self._deadline.set(deadline):
            for pack in packed(windows, _MAX_NODES):
                np.add.at(totals, pack.texts, self._score_pack(pack))
        scores: list[float] = totals.tolist()
        return scores

    def _encode(self, text: str) -> list[int]:
        encoded = self._tokenizer(text, add_special_tokens=False, verbose=False)
        ids: list[int] = encoded["input_ids"]
        return ids

    def _windows(self, text: int, ids: Sequence[int]) -> Iterator[Window]:
        return windows_of(
            text, ids, begin_id=self._begin_id, end_id=self._end_id, n_positions=self._n_positions
        )

    @torch.inference_mode()
    def _score_pack(self, pack: Pack) -> NDArray[np.float64]:
        """(M,): the log-probability of each scored token."""
        inputs_1N = torch.from_numpy(pack.inputs)[None].to(self._device)
        positions_1N = torch.from_numpy(pack.positions)[None].to(self._device)
        hidden_NW: Tensor = self._model.transformer(
            input_ids=inputs_1N,
            position_ids=positions_1N,
            attention_mask=self._mask(pack),
            use_cache=False,
        ).last_hidden_state[0]
        order_M = np.argsort(pack.nodes, kind="stable")
        nodes_M, targets_M = pack.nodes[order_M], torch.from_numpy(pack.targets[order_M])
        found_M = np.empty(len(nodes_M))
        for start in range(0, len(hidden_NW), _LOGIT_ROWS):
            self._deadline.check()
            low, high = np.searchsorted(nodes_M, (start, start + _LOGIT_ROWS))
            logits_RV: Tensor = self._model.lm_head(hidden_NW[start : start + _LOGIT_ROWS]).float()
            norm_R = logits_RV.logsumexp(dim=1)
            rows = torch.from_numpy(nodes_M[low:high] - start).to(self._device)
            chosen = logits_RV[rows, targets_M[low:high].to(self._device)]
            found_M[low:high] = (chosen - norm_R[rows]).double().cpu().numpy()
        logps_M = np.empty_like(found_M)
        logps_M[order_M] = found_M
        return logps_M

    def _mask(self, pack: Pack) -> Tensor:
        """(1, 1, N, N), added to attention's scores: 0 where a node sees another, else the lowest number."""
        dtype = self._model.dtype
        hidden_NN = torch.from_numpy(~pack.sees()).to(self._device)
        mask_NN = torch.zeros(hidden_NN.shape, dtype=dtype, device=self._device)
        return mask_NN.masked_fill_(hidden_NN, torch.finfo(dtype).min)[None, None]

    def _bfloat16_pays(self) -> bool:
        """Whether bfloat16 saves time here: scores the same seeded texts in both, in turns, and compares."""
        if self._device.type == "cuda":
            return bool(torch.cuda.is_bf16_supported())
        rng = np.random.default_rng(0)
        shape = (8, min(_TRIAL_NODES // 8, self._n_positions))
        ids = rng.integers(self._model.config.vocab_size, size=shape).tolist()
        (pack,) = packed([w for i, row in enumerate(ids) for w in self._windows(i, row[1:])], max_nodes=2**31)
        seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
        weights = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        for _ in range(3):
            for dtype, taken in seconds.items():
                self._model.to(dtype)
                self._score_pack(pack)
                started = time.thread_time()
                self._score_pack(pack)
                taken.append(time.thread_time() - started)
        self._model.to(torch.float32).load_state_dict(weights)
        return min(seconds[torch.bfloat16]) <= _TRIAL_GAIN * min(seconds[torch.float32])


class _Deadline(threading.local):
    """Until when the present thread may work; on `time.monotonic`'s clock, None for ever."""

    at: float | None = None

    @contextmanager
    def set(self, at: float | None) -> Iterator[None]:
        self.at = at
        try:
            self.check()
            yield
        finally:
            self.at = None

    def check(self, *_: Any) -> None:
        """Raises RescoringTimeoutError when the time is up. Fits as a hook of a torch module."""
        if self.at is not None and time.monotonic() >= self.at:
            raise RescoringTimeoutError("the time for rescoring is up")


def rescore(
    hypotheses: Sequence[Hypothesis],
    scorer: TextScorer,
    gamma: float,
    limit: int,
    *,
    deadline: float | None = None,
) -> list[Hypothesis]:
    """One recording's list, as `rescore_lists` does several."""
    return rescore_lists([hypotheses], scorer, gamma, limit, deadline=deadline)[0]


def rescore_lists(
    lists: Sequence[Sequence[Hypothesis]],
    scorer: TextScorer,
    gamma: float,
    limit: int,
    *,
    deadline: float | None = None,
) -> list[list[Hypothesis]]:
    """Of each list the first `limit`, with gamma x the scorer's log-probability as `gpt2`, best total first.

    All are scored in one call. Those beyond the limit are left out: without a GPT-2 part their totals could
    not be compared. Equal totals are in alphabetical order. Raises RescoringTimeoutError when the scorer
    passes the deadline: then the hypotheses as they were are the answer.
    """
    chosen = [hypotheses[:limit] for hypotheses in lists]
    logps = iter(scorer.score([h.text for hypotheses in chosen for h in hypotheses], deadline=deadline))
    rescored = (
        [h._replace(scores=h.scores._replace(gpt2=gamma * next(logps))) for h in hypotheses]
        for hypotheses in chosen
    )
    return [sorted(hypotheses, key=lambda h: (-h.scores.total, h.text)) for hypotheses in rescored]


def _check_files(folder: Path) -> None:
    """Names what is absent: transformers' own messages advise to log in to its hub."""
    for names in (
        ("config.json",),
        ("tokenizer.json", "vocab.json"),
        ("model.safetensors", "model.safetensors.index.json"),
    ):
        if not any((folder / name).is_file() for name in names):
            raise MissingFileError(f"{names[0]} is missing from {folder}")


def read_by_transformers(name: str, local: bool) -> tuple[Any, Any]:
    """Model and tokenizer. No bar over the weights in a service's log: the setting is global, so it is put
    back."""
    from transformers import AutoTokenizer, GPT2LMHeadModel  # takes seconds, and few folders need it
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local)
        model = GPT2LMHeadModel.from_pretrained(
            name, local_files_only=local, use_safetensors=True, dtype=torch.float32
        )
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    return model, tokenizer
