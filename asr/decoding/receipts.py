"""What became of each hotword of a request: taken or not and why, how often it was written, what it added."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from asr.decoding.hotwords import MAX_LETTERS, MAX_WORDS
from asr.text import normalise, unspellable
from asr.tokenizer import WORD_MARK, Tokenizer

# Nothing is left of it in our spelling; it holds sounds that cannot be written; too many words or letters; an
# earlier term is the same; the decoder takes no hotwords, or their weight is 0.
Refusal = Literal["empty", "characters", "too_long", "duplicate", "not_used"]


@dataclass(frozen=True)
class HotwordReceipt:
    """Of one term, in the order of the request."""

    term: str  # as it was given
    phrase: str  # as it is looked for
    accepted: bool
    reason: Refusal | None = None  # None where it was accepted
    fired: int = 0  # times that the chosen text has it
    score: float = 0.0  # natural log, what it added to the chosen text's `hotwords`; they add up


class Vocabulary(Protocol):
    """What is needed of the n-gram."""

    def __contains__(self, word: object) -> bool: ...


def judged(terms: Sequence[str], tokenizer: Tokenizer) -> tuple[HotwordReceipt, ...]:
    """Which terms a beam search with a weight takes."""
    letters = set("".join(tokenizer.pieces)) - {WORD_MARK} | {" "}
    seen: set[str] = set()
    receipts = []
    for term in terms:
        phrase = normalise(term)
        reason = _refusal(term, phrase, letters, seen)
        receipts.append(HotwordReceipt(term, phrase, accepted=reason is None, reason=reason))
        seen.add(phrase)
    return tuple(receipts)


def unused(receipts: Sequence[HotwordReceipt]) -> tuple[HotwordReceipt, ...]:
    """The same where the decoder takes no hotwords."""
    return tuple(replace(r, accepted=False, reason=r.reason or "not_used") for r in receipts)


def with_effect(
    receipts: Sequence[HotwordReceipt], text: str, weight: float, lm: Vocabulary, unknown_logp: float
) -> tuple[HotwordReceipt, ...]:
    """What the accepted terms did in the chosen text.

    A word earns once, however many terms cover it: the longest term has it, then the one named first.
    """
    words = text.split()
    values = [weight - (0.0 if word in lm else unknown_logp) for word in words]
    done = list(receipts)
    by_length = sorted(range(len(done)), key=lambda i: -len(done[i].phrase.split()))
    for i in by_length:
        phrase = done[i].phrase.split()
        if not done[i].accepted or phrase[0] not in words:
            continue
        starts = [k for k in range(len(words)) if words[k : k + len(phrase)] == phrase]
        score = 0.0
        for k in {k + offset for k in starts for offset in range(len(phrase))}:
            score, values[k] = score + values[k], 0.0
        done[i] = replace(done[i], fired=len(starts), score=score)
    return tuple(done)


def added_up(parts: Sequence[Sequence[HotwordReceipt]]) -> tuple[HotwordReceipt, ...]:
    """Of a recording's parts, decoded with the same terms, as one."""
    if not parts:
        return ()
    return tuple(
        replace(same[0], fired=sum(r.fired for r in same), score=sum(r.score for r in same))
        for same in zip(*parts, strict=True)
    )


def _refusal(term: str, phrase: str, letters: set[str], seen: set[str]) -> Refusal | None:
    if unspellable(term) or not letters.issuperset(phrase):
        return "characters"
    if not phrase:
        return "empty"
    if len(phrase.split()) > MAX_WORDS or len(phrase) > MAX_LETTERS:
        return "too_long"
    return "duplicate" if phrase in seen else None
