"""How a word is spoken, guessed from its letters: an n-gram over pairs of letters and phones ("graphones").

A word and its phones are cut together into graphones: one letter and no, one or two phones, or two letters
and one phone (Bisani and Ney, "Joint-sequence models for grapheme-to-phoneme conversion", 2008). The model
gives P(graphone | those before it), interpolated over orders as Witten and Bell do, and the likeliest
graphones that spell a word give its phones. `asr-train lexicon` counts (training/graphones.py).

On disk: one JSON file. A graphone is one character, and so a context is a string of as many characters as
it has graphones, oldest first. What followed it is a string too: character and count, a count of 1 not
written. BOUNDARY begins every word in contexts and ends it among what follows.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from asr.errors import MismatchError

FORMAT = 1
BOUNDARY = ":"
FIRST_SYMBOL = ord(BOUNDARY) + 1  # of the first graphone: behind the digits of the counts
MAX_LETTERS = 2  # of a graphone
LONGEST = 45  # letters of a word: pneumonoultramicroscopicsilicovolcanoconiosis
BEAM = 8  # contexts kept at each letter
BEHIND = 8.0  # nats behind the best of them that one may be
CACHED = 8192  # distributions kept
UNSEEN = 0.01  # count of what never was seen, without a context

_FOLLOWER = re.compile(r"(\D)(\d*)")


class Graphone(NamedTuple):  # a tuple: millions of them are looked up in aligning
    letters: str  # one or two
    phones: tuple[str, ...]  # none, one or two


class _Following(NamedTuple):
    """Of the graphones with the same letters, after a context."""

    probabilities: tuple[float, ...]
    log_probs: tuple[float, ...]

    @classmethod
    def of(cls, probabilities: Sequence[float]) -> "_Following":
        return cls(tuple(probabilities), tuple(map(math.log, probabilities)))


class _Path(NamedTuple):
    """Best way to spell some first letters that ends in a context."""

    log_prob: float
    graphone: Graphone | None
    before: "_Path | None"

    def phones(self) -> tuple[str, ...]:
        found: list[tuple[str, ...]] = []
        path: _Path | None = self
        while path is not None and path.graphone is not None:
            found.append(path.graphone.phones)
            path = path.before
        return tuple(phone for phones in reversed(found) for phone in phones)


class GraphoneModel:
    """Phones of any word. Thread-safe; the same word always gives the same phones.

    graphones: the commonest first, at least one of them with phones. contexts: as on disk.
    """

    def __init__(self, graphones: Sequence[Graphone], contexts: Mapping[str, str]) -> None:
        """Raises MismatchError when the graphones or contexts cannot be a model."""
        written = set(map(type, contexts.values())) == {str} and contexts.get("")
        if not written or not any(graphone.phones for graphone in graphones):
            raise MismatchError("the graphones have no phones or no counts")
        self.graphones = tuple(graphones)
        self.contexts = contexts
        self.phones: tuple[str, ...] = tuple(sorted({p for g in graphones for p in g.phones}))
        self.order = 1 + max(map(len, contexts))
        self._by_letters: dict[str, list[tuple[str, Graphone]]] = {}
        for number, graphone in enumerate(graphones):
            place = self._by_letters.setdefault(graphone.letters, [])
            place.append((chr(FIRST_SYMBOL + number), graphone))
        self._alone = {  # a letter's phones where they are for itself
            letters: next((graphone.phones for _, graphone in choices if graphone.phones), ())
            for letters, choices in self._by_letters.items()
        }
        self._fallback = next(g.phones for g in graphones if g.phones)
        self._counts = _counts(contexts[""])  # without a context
        self._followers = lru_cache(maxsize=CACHED)(_counts)
        self._following = lru_cache(maxsize=CACHED)(self._computed)

    @classmethod
    def load(cls, path: Path) -> "GraphoneModel":
        """Raises MismatchError for a file that is no such model, OSError when it cannot be read."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise MismatchError(f"{path.name}: format {content['format']}, expected {FORMAT}")
            graphones = [Graphone(letters, tuple(phones.split())) for letters, phones in content["graphones"]]
            return cls(graphones, content["contexts"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MismatchError(f"{path.name}: not a model of graphones ({error!r})") from error

    def to_json(self) -> str:
        """What `load` reads."""
        graphones = [[graphone.letters, " ".join(graphone.phones)] for graphone in self.graphones]
        content = {"format": FORMAT, "graphones": graphones, "contexts": self.contexts}
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"

    def spoken(self, word: str) -> tuple[str, ...]:
        """The likeliest phones, at least one.

        Letters that no graphone has are passed over. Where the likeliest phones are none, and in what is
        longer than any word (a search over noise writes such things, and a guess takes a millisecond a
        letter), each letter is taken for itself; what even so has no phone ("'", digits, another script)
        gets the commonest ones.
        """
        letters = "".join(letter for letter in word if letter in self._by_letters)
        if len(letters) <= LONGEST and (phones := self._best(letters)):
            return phones
        return tuple(phone for letter in letters for phone in self._alone[letter]) or self._fallback

    def _best(self, letters: str) -> tuple[str, ...]:
        """Viterbi search over contexts, `BEAM` of them at each letter; empty for no letters."""
        places: list[dict[str, _Path]] = [{} for _ in range(len(letters) + 1)]
        places[0][BOUNDARY] = _Path(0.0, None, None)
        for start in range(len(letters)):
            kept = sorted(places[start].items(), key=lambda item: (-item[1].log_prob, item[0]))[:BEAM]
            for history, path in kept:
                if path.log_prob < kept[0][1].log_prob - BEHIND:
                    break
                for size in range(1, min(MAX_LETTERS, len(letters) - start) + 1):
                    chunk = letters[start : start + size]
                    choices = self._by_letters.get(chunk, ())
                    following = places[start + size]
                    log_probs = self._following(history, chunk).log_probs
                    for (symbol, graphone), log_prob in zip(choices, log_probs, strict=True):
                        context = self._context(history + symbol)
                        total = path.log_prob + log_prob
                        known = following.get(context)
                        if known is None or known.log_prob < total:
                            following[context] = _Path(total, graphone, path)
        ends = [
            (path.log_prob + self._following(history, "").log_probs[0], history, path)
            for history, path in places[-1].items()
        ]
        _, _, best = max(ends, key=lambda end: (end[0], end[1]))
        return best.phones()

    def _context(self, history: str) -> str:
        """The longest end of a history that the model has seen something follow."""
        history = history[-(self.order - 1) :] if self.order > 1 else ""
        while history and history not in self.contexts:
            history = history[1:]
        return history

    def _computed(self, history: str, letters: str) -> "_Following":
        """What follows a history: of the graphones with these letters; of the word's end for none."""
        choices = self._by_letters.get(letters, ()) if letters else ((BOUNDARY, None),)
        if not history:
            counts, n_symbols = self._counts, len(self.graphones) + 1
            total = sum(counts.values()) + UNSEEN * n_symbols
            return _Following.of([(counts.get(symbol, 0) + UNSEEN) / total for symbol, _ in choices])
        lower = self._following(history[1:], letters)
        counts = self._followers(self.contexts.get(history, ""))
        if not counts:
            return lower
        kinds, total = len(counts), sum(counts.values()) + len(counts)
        return _Following.of(
            [
                (counts.get(symbol, 0) + kinds * probability) / total
                for (symbol, _), probability in zip(choices, lower.probabilities, strict=True)
            ]
        )


def _counts(followers: str) -> dict[str, int]:
    return {symbol: int(count or 1) for symbol, count in _FOLLOWER.findall(followers)}
