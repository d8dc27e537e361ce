"""Other n-gram and length weights for hypotheses that beam search has found."""

from collections.abc import Sequence

from asr.decoding.mixed_ngram import AnyNgram
from asr.decoding.options import DecodingSettings
from asr.decoding.result import Hypothesis


def reweight_for_gpt2(
    hypotheses: Sequence[Hypothesis], lm: AnyNgram, settings: DecodingSettings
) -> list[Hypothesis]:
    """The hypotheses, in the order given, with `rescore_alpha` and `rescore_beta` in place of alpha and beta.

    GPT-2 does part of the n-gram's work, and its log-probability favours short texts: the weights that suit
    beam search alone are not the best beside it.
    """
    alpha = settings.alpha if settings.rescore_alpha is None else settings.rescore_alpha
    beta = settings.beta if settings.rescore_beta is None else settings.rescore_beta
    if (alpha, beta) == (settings.alpha, settings.beta):
        return list(hypotheses)
    reweighted = []
    for hypothesis in hypotheses:
        parts = lm.parts(hypothesis.text)
        ngram = alpha * parts.logp + settings.unknown_word_logp * parts.n_unknown
        scores = hypothesis.scores._replace(ngram=ngram, length=beta * parts.n_words)
        reweighted.append(hypothesis._replace(scores=scores))
    return reweighted
