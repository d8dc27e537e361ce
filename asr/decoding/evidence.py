"""What speaks for each word of a chosen text, as numbers: the acoustics, the rival hypotheses, the n-gram.

`asr.decoding.calibration` maps them to a probability of being right. Only the posteriors, the n-best list and
the n-gram are used, so every decoder has them.

Shapes: T frames, V CTC outputs, W words, N tokens of a word, F features (`FEATURES`).
"""

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from asr.decoding.alignment import PlacedWord
from asr.decoding.confidence import frame_confidence, token_peaks
from asr.decoding.options import MAX_NBEST
from asr.decoding.posteriors import checked_log_probs
from asr.decoding.result import Hypothesis
from asr.tokenizer import WORD_MARK, Tokenizer

FEATURES = (
    "sure_least",  # entropy confidence of the word's least sure token, as log odds
    "sure_mean",  # mean over its tokens, as log odds
    "share_least",  # lowest log p(token) - log p(best label) at a token's peak
    "share_mean",
    "gap",  # log(1 + acoustic gap), see `acoustic_gaps`
    "greedy_agrees",  # 1 where greedy decoding writes the same word there
    "rivals_agree",  # share of the n-best list's mass that has the word beside a neighbour, as log odds
    "letters",  # log of their number
    "tokens",  # log of their number
    "frames_per_letter",  # log
    "recording_sure",  # entropy confidence, mean over the recording's frames that are not blank, as log odds
    "recording_gap",  # mean over all frames of log p(best label) - log p(label of the aligned path)
    "words_per_frame",  # of the whole text
    "known",  # 1 for words of the n-gram's vocabulary and of the caller's hotwords
    "ngram",  # log P(word | the words before it)
)
LM_ONLY_GAP = 3.0  # nats per token: e^3 = 20 times less probable than what the acoustic model prefers
_RIVAL_SCALE = 0.3  # of totals before the softmax over the list: unscaled, the first text has nearly all
_ODDS_FLOOR = 1e-4  # probabilities are kept this far from 0 and 1
_RIVAL_FLOOR = 1e-2
_SHARE_FLOOR = -12.0
_NGRAM_FLOOR = -15.0
_GAP_CEILING = 50.0  # nats a frame: an impossible label has an infinite one


class WordLogps(Protocol):
    """What is needed of a word n-gram."""

    def __contains__(self, word: object) -> bool: ...
    def start_state(self) -> Any: ...
    def advance(self, state: Any, word: str) -> tuple[float, Any]: ...


def acoustic_gaps(
    log_probs_TV: NDArray[np.floating[Any]], words: Sequence[PlacedWord], blank_id: int
) -> list[float]:
    """How far the acoustic evidence of each word lies below the greedy path's over the word's frames.

    Sum over the frames from the word's first token to its last of log p(best label) - log p(label of the
    aligned path), blanks between its tokens included, divided by its tokens: nats, 0 where both agree. 0 too
    for words whose tokens could not be aligned.
    """
    sums = np.concatenate([[0.0], np.cumsum(_below_best(np.asarray(log_probs_TV), words, blank_id))])
    return [float(sums[int(w.end)] - sums[int(w.start)]) / len(w.ids) if w.ids else 0.0 for w in words]


def lm_only(gap: float, greedy_agrees: bool) -> bool:
    """Whether only the language model supports a word: the acoustic model clearly hears something else.

    Its acoustic gap is at least `LM_ONLY_GAP` nats per token, and greedy decoding does not write it there (it
    may have spelled it with other tokens than the aligned ones).
    """
    return gap >= LM_ONLY_GAP and not greedy_agrees


def greedy_agreement(
    log_probs_TV: NDArray[np.floating[Any]], words: Sequence[PlacedWord], tokenizer: Tokenizer
) -> list[bool]:
    """Whether greedy decoding writes the same word on frames that overlap each word's, or the same text."""
    heard = _greedy_words(np.asarray(log_probs_TV), tokenizer)
    if [word.word for word in words] == [text for text, *_ in heard]:
        return [True] * len(words)  # wherever the alignment puts tokens that greedy did not choose
    agrees, first = [], 0
    for word in words:
        while first < len(heard) and heard[first][2] <= word.start:
            first += 1
        until = max(word.end, word.start + 1)
        here = (text for text, start, _ in heard[first : first + len(word.word) + 1] if start < until)
        agrees.append(word.word in here)
    return agrees


def features(
    log_probs_TV: NDArray[np.floating[Any]],
    words: Sequence[PlacedWord],
    tokenizer: Tokenizer,
    *,
    hypotheses: Sequence[Hypothesis],
    lm: WordLogps,
    hotwords: Collection[str] = (),
) -> NDArray[np.float64]:
    """(W, F): the evidence for each of the placed words.

    hypotheses: the n-best list, whose first text the words are; hotwords: words and phrases that the caller
    vouched for. Raises ValueError on a wrong shape or NaN.
    """
    log_probs = checked_log_probs(log_probs_TV, tokenizer.vocab_size)
    if not words or not len(log_probs):
        return np.zeros((len(words), len(FEATURES)))
    texts = [word.word for word in words]
    gaps = acoustic_gaps(log_probs, words, tokenizer.blank_id)
    agrees = greedy_agreement(log_probs, words, tokenizer)
    rivals = rival_agreement(texts, hypotheses)
    ngram = _ngram_logps(texts, lm)
    vouched = {word for term in hotwords for word in term.split()}
    sure_T = frame_confidence(log_probs)
    spoken_T = log_probs.argmax(axis=1) != tokenizer.blank_id
    recording = (
        _odds(float(sure_T[spoken_T].mean()) if spoken_T.any() else 0.0, _ODDS_FLOOR),
        float(_below_best(log_probs, words, tokenizer.blank_id).mean()),
        len(words) / len(log_probs),
    )
    rows = []
    for k, word in enumerate(words):
        sure_N, share_N = _token_evidence(log_probs, sure_T, word)
        row = (
            _odds(float(sure_N.min()), _ODDS_FLOOR),
            _odds(float(sure_N.mean()), _ODDS_FLOOR),
            max(float(share_N.min()), _SHARE_FLOOR),
            max(float(share_N.mean()), _SHARE_FLOOR),
            np.log1p(gaps[k]),
            agrees[k],
            _odds(rivals[k], _RIVAL_FLOOR),
            np.log(len(word.word)),
            np.log(max(len(word.ids), 1)),
            np.log(max(word.end - word.start, 1.0) / len(word.word)),
            *recording,
            word.word in lm or word.word in vouched,
            max(ngram[k], _NGRAM_FLOOR),
        )
        rows.append(row)
    return np.array(rows, dtype=np.float64)


def rival_agreement(words: Sequence[str], hypotheses: Sequence[Hypothesis]) -> list[float]:
    """Share 0-1 of the list's first 50 that has each word beside the same neighbour, on either side.

    A hypothesis counts by a softmax of the scaled totals. Neighbours stand in for an alignment of every
    hypothesis with the first: the cost is that of reading the list once.
    """
    hypotheses = hypotheses[:MAX_NBEST]
    if not hypotheses:
        return [1.0] * len(words)
    totals = np.array([h.scores.total for h in hypotheses])
    mass = np.exp(_RIVAL_SCALE * (totals - totals.max()))
    mass /= mass.sum()
    ours = list(pairwise(["", *words, ""]))
    agreement = np.zeros(len(words))
    for share, hypothesis in zip(mass, hypotheses, strict=True):
        pairs = set(pairwise(["", *hypothesis.text.split(), ""]))
        found = np.array([pair in pairs for pair in ours])
        agreement += share * (found[:-1] | found[1:])
    shares: list[float] = np.minimum(agreement, 1.0).tolist()
    return shares


def _below_best(
    log_probs_TV: NDArray[np.floating[Any]], words: Sequence[PlacedWord], blank_id: int
) -> NDArray[np.float64]:
    """(T,): log p(best label) - log p(label of the aligned path), the path being blank outside tokens."""
    path_T = np.full(len(log_probs_TV), blank_id)
    for word in words:
        for i, (start, end) in zip(word.ids, word.spans, strict=True):
            path_T[start:end] = i
    log_probs = np.asarray(log_probs_TV, dtype=np.float64)
    on_path_T = log_probs[np.arange(len(path_T)), path_T]
    below_T: NDArray[np.float64] = np.minimum(log_probs.max(axis=1) - on_path_T, _GAP_CEILING)
    return below_T


def _greedy_words(
    log_probs_TV: NDArray[np.floating[Any]], tokenizer: Tokenizer
) -> list[tuple[str, int, int]]:
    """The words of greedy decoding with their frames [start, end)."""
    found: list[tuple[str, int, int]] = []
    previous = tokenizer.blank_id
    for t, label in enumerate(log_probs_TV.argmax(axis=1).tolist()):
        if label != tokenizer.blank_id:
            piece = tokenizer.pieces[label] if label != previous else ""
            if piece.startswith(WORD_MARK) or not found:
                found.append((piece.removeprefix(WORD_MARK), t, t + 1))
            else:
                text, start, _ = found[-1]
                found[-1] = (text + piece, start, t + 1)
        previous = label
    return found


def _token_evidence(
    log_probs_TV: NDArray[np.float64], sure_T: NDArray[np.float64], word: PlacedWord
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) each: entropy confidence at the tokens' peaks, log p(token) - log p(best label) there.

    One value, the mean over its frames, and 0 for a word whose tokens could not be aligned.
    """
    if not word.ids:
        first = min(int(word.start), len(sure_T) - 1)
        return sure_T[first : max(int(np.ceil(word.end)), first + 1)].mean(keepdims=True), np.zeros(1)
    peaks = token_peaks(log_probs_TV, word.ids, word.spans)
    share_N = log_probs_TV[peaks, list(word.ids)] - log_probs_TV[peaks].max(axis=1)
    return sure_T[peaks], share_N


def _ngram_logps(words: Sequence[str], lm: WordLogps) -> list[float]:
    """Natural-log probability of each word after those before it."""
    state, logps = lm.start_state(), []
    for word in words:
        logp, state = lm.advance(state, word)
        logps.append(logp)
    return logps


def _odds(probability: float, floor: float) -> float:
    """Log odds."""
    kept = min(max(probability, floor), 1.0 - floor)
    return float(np.log(kept / (1.0 - kept)))
