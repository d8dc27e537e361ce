"""Beam search behind one face, and which engine does it."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from asr.decoding.array_ngram import WordNgram
from asr.decoding.native_beam import NativeBeamDecoder
from asr.decoding.ngram import NgramLM
from asr.decoding.options import DecodingSettings
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
        limit: int | None = None,
    ) -> list[Hypothesis]:
        """Hypotheses of natural-log posteriors (T, V), best first, never empty: the engines say more.

        Where the settings divide by the labels' prior, `acoustic` is of the quotient.
        """
        ...


def make_beam_decoder(
    tokenizer: Tokenizer, lm: WordNgram | None, settings: DecodingSettings, engine: str | None = None
) -> BeamDecoder:
    """engine: `native` or `pyctcdecode`; None: the settings', and where they name none, the one that the
    n-gram allows: native unless it is a KenLM file.

    Raises MismatchError when tokenizer, n-gram or the settings' label prior do not suit.
    """
    n_outputs = len(settings.label_prior or ())
    if n_outputs and n_outputs != tokenizer.vocab_size:
        raise MismatchError(f"decoding.label_prior is of {n_outputs} outputs, not {tokenizer.vocab_size}")
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
