"""Beam search behind one face, and which engine does it."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from asr.decoding.array_ngram import WordNgram
from asr.decoding.native_beam import NativeBeamDecoder
from asr.decoding.ngram import NgramLM
from asr.decoding.options import DecodingSettings
from asr.decoding.posteriors import checked_log_probs, divided_by_prior
from asr.decoding.result import Hypothesis
from asr.errors import MismatchError
from asr.tokenizer import Tokenizer


class BeamDecoder(Protocol):
    """A prefix beam search over one tokenizer and one n-gram."""

    def decode(
        self,
        log_probs_TV: NDArray[np.floating[Any]],
        *,
        hotwords: Sequence[str] = (),
        hotword_weight: float | None = None,
        deadline_s: float | None = None,
    ) -> list[Hypothesis]:
        """Hypotheses of natural-log posteriors (T, V), best first, never empty: the engines say more."""
        ...


class PriorDividedDecoder:
    """A beam search that gets posteriors divided by a power of the labels' prior."""

    def __init__(self, decoder: BeamDecoder, prior: Sequence[float], weight: float) -> None:
        self._decoder = decoder
        self._prior_V = np.array(prior)
        self._weight = weight

    def decode(
        self,
        log_probs_TV: NDArray[np.floating[Any]],
        *,
        hotwords: Sequence[str] = (),
        hotword_weight: float | None = None,
        deadline_s: float | None = None,
    ) -> list[Hypothesis]:
        """As the engine; `acoustic` is of the divided posteriors. Raises as it, too."""
        return self._decoder.decode(
            divided_by_prior(
                checked_log_probs(log_probs_TV, len(self._prior_V)), self._prior_V, self._weight
            ),
            hotwords=hotwords,
            hotword_weight=hotword_weight,
            deadline_s=deadline_s,
        )


def make_beam_decoder(
    tokenizer: Tokenizer, lm: WordNgram | None, settings: DecodingSettings, engine: str | None = None
) -> BeamDecoder:
    """The engine's search, over posteriors divided by the labels' prior where the settings say so.

    engine: see `_engine`. Raises MismatchError when tokenizer, n-gram or prior do not suit.
    """
    decoder = _engine(tokenizer, lm, settings, engine)
    if not settings.prior_weight or not settings.label_prior:
        return decoder
    n_outputs = len(settings.label_prior)
    if n_outputs != tokenizer.vocab_size:
        raise MismatchError(f"decoding.label_prior is of {n_outputs} outputs, not {tokenizer.vocab_size}")
    return PriorDividedDecoder(decoder, settings.label_prior, settings.prior_weight)


def _engine(
    tokenizer: Tokenizer, lm: WordNgram | None, settings: DecodingSettings, engine: str | None
) -> BeamDecoder:
    """engine: `native` or `pyctcdecode`; None: the settings', and where they name none, the one that the
    n-gram allows: native unless it is a KenLM file.

    Raises MismatchError when the tokenizer or the n-gram does not suit the engine.
    """
    chosen = engine or settings.engine or ("pyctcdecode" if isinstance(lm, NgramLM) else "native")
    if chosen == "pyctcdecode":
        # pyctcdecode takes part of a second to import, and few need it.
        from asr.decoding.pyctcdecode_beam import PyctcdecodeDecoder

        return PyctcdecodeDecoder(tokenizer, lm, settings)
    if isinstance(lm, NgramLM):
        raise MismatchError(
            "engine native needs the n-gram in arrays (ngram.arrays), this one is KenLM's ngram.bin: take "
            "engine pyctcdecode, or make the n-gram again with `asr-train ngram`"
        )
    return NativeBeamDecoder(tokenizer, lm, settings)
