"""Back-off n-gram models as sorted arrays: read from ARPA, asked about millions of n-grams at once, written.

An n-gram's key is (place of its first n-1 words among the n-grams one shorter) x vocabulary + last word, so
that looking up any number of n-grams is one binary search a level, and each costs 16 bytes.

Shapes: N n-grams of a level, M n-grams asked about, n words of one.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]  # (M, n) word numbers
BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
NEVER = -99.0  # log10 of what cannot happen: `<s>` after a word
_WRITTEN_AT_ONCE = 200_000


@dataclass(frozen=True)
class Level:
    """All n-grams of one length, keys ascending."""

    keys: NDArray[np.int64]
    logp: NDArray[np.float32]  # log10 P(last word | the words before)
    backoff: NDArray[np.float32]  # log10; of the n-gram as a context

    def find(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places of keys, -1 for those that are not there."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, places, -1)


@dataclass(frozen=True)
class NgramTable:
    """A model over a numbered vocabulary, which several models may share."""

    words: Sequence[str]
    levels: Sequence[Level]  # single words first

    @property
    def order(self) -> int:
        return len(self.levels)

    def places(self, ids_Mn: Ids) -> NDArray[np.int64]:
        """Where n-grams stand in their level, -1 for those the model does not hold."""
        places = np.zeros(len(ids_Mn), dtype=np.int64)
        for level, ids_M in zip(self.levels, ids_Mn.T, strict=False):
            places = np.where(places < 0, -1, level.find(places * len(self.words) + ids_M))
        return places

    def logp(self, ids_Mn: Ids) -> NDArray[np.float64]:
        """log10 P(last word | the others), backing off as the ARPA format says; -inf for a word not held."""
        ids_Mn = ids_Mn[:, -self.order :]
        n = ids_Mn.shape[1]
        if n == 1:
            places = self.places(ids_Mn)
            return np.where(places < 0, -np.inf, self.levels[0].logp[places].astype(np.float64))
        contexts = self.places(ids_Mn[:, :-1])
        keys = contexts * len(self.words) + ids_Mn[:, -1]
        places = np.where(contexts < 0, -1, self.levels[n - 1].find(keys))
        held = places >= 0
        logp_M = np.empty(len(places))
        logp_M[held] = self.levels[n - 1].logp[places[held]]
        absent = np.flatnonzero(~held)
        if len(absent):
            known = contexts[absent] >= 0
            backoff = np.zeros(len(absent))
            backoff[known] = self.levels[n - 2].backoff[contexts[absent][known]]
            logp_M[absent] = backoff + self.logp(ids_Mn[absent, 1:])
        return logp_M

    def ngrams(self, n: int) -> Ids:
        """All n-grams of one length, (N, n), in the order of their level."""
        prefixes, last = np.divmod(self.levels[n - 1].keys, len(self.words))
        own = last[:, None].astype(np.int32)
        return own if n == 1 else np.concatenate([self.ngrams(n - 1)[prefixes], own], axis=1)


def read_table(arpa: Path, words: Sequence[str], numbers: Mapping[str, int]) -> NgramTable:
    """An ARPA file's model over a vocabulary that holds its words (`numbers`: the place of each word).

    Raises ValueError naming the file when it is no ARPA file, is cut off, holds a word outside the
    vocabulary, or an n-gram without the one that it continues.
    """
    levels: list[Level] = []
    try:
        with arpa.open(encoding="utf-8") as file:
            counts = _counts(file)
            for n, count in enumerate(counts, 1):
                rows = _section(file, n, count, numbers)
                levels.append(_level(NgramTable(words, levels), *rows))
    except (KeyError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"{arpa} cannot be read as ARPA over this vocabulary: {error!r}") from error
    except ValueError as error:
        raise ValueError(f"{arpa}: {error}") from error
    return NgramTable(words, levels)


def read_model(arpa: Path) -> NgramTable:
    """An ARPA file's model over its own words, sorted.

    Raises ValueError as `read_table` does, and when `<s>`, `</s>` or `<unk>` is missing.
    """
    words = read_words(arpa)
    if missing := sorted({BEGIN, END, UNKNOWN} - set(words)):
        raise ValueError(f"{arpa} holds no {', no '.join(missing)}")
    return read_table(arpa, words, {word: i for i, word in enumerate(words)})


def read_words(arpa: Path) -> list[str]:
    """The words of an ARPA file's 1-grams, marks included, sorted. Raises ValueError when there are none."""
    words: set[str] = set()
    with arpa.open(encoding="utf-8") as file:
        inside = False
        for line in file:
            if line.startswith("\\"):
                if inside:
                    break
                inside = line.strip() == "\\1-grams:"
            elif inside and len(columns := line.split()) >= 2:
                words.add(columns[1])
    if not words:
        raise ValueError(f"{arpa} is not an ARPA file")
    return sorted(words)


def write_table(table: NgramTable, path: Path) -> None:
    """As an ARPA file, which KenLM's tools read."""
    with path.open("w", encoding="utf-8") as file:
        file.write("\\data\\\n")
        file.writelines(f"ngram {n}={len(level.keys)}\n" for n, level in enumerate(table.levels, 1))
        for n, level in enumerate(table.levels, 1):
            file.write(f"\n\\{n}-grams:\n")
            ids_Nn = table.ngrams(n)
            for start in range(0, len(ids_Nn), _WRITTEN_AT_ONCE):
                part = slice(start, start + _WRITTEN_AT_ONCE)
                file.writelines(_lines(table, ids_Nn[part], level, part, last=n == table.order))
        file.write("\n\\end\\\n")


def _lines(table: NgramTable, ids_Mn: Ids, level: Level, part: slice, last: bool) -> Iterator[str]:
    logp, backoff = level.logp[part].tolist(), level.backoff[part].tolist()
    for ids, p, b in zip(ids_Mn.tolist(), logp, backoff, strict=True):
        text = " ".join([table.words[i] for i in ids])
        yield f"{p:.6g}\t{text}\n" if last else f"{p:.6g}\t{text}\t{b:.6g}\n"


def _counts(file: TextIO) -> list[int]:
    """How many n-grams of each length are announced; stops after the last such line."""
    counts: list[int] = []
    for line in file:
        if line.startswith("ngram "):
            counts.append(int(line.partition("=")[2]))
        elif counts:
            break
    if not counts:
        raise ValueError("it announces no n-grams")
    return counts


def _section(
    file: TextIO, n: int, count: int, numbers: Mapping[str, int]
) -> tuple[Ids, NDArray[np.float32], NDArray[np.float32]]:
    """Word numbers, log10 probabilities and backoffs of one section's lines."""
    heading = next((line.strip() for line in file if line.strip()), "")
    if heading != f"\\{n}-grams:":
        raise ValueError(f"expected \\{n}-grams:, found {heading[:40]!r}")
    ids, logp, backoff = array("i"), array("f"), array("f")
    for _ in range(count):
        columns = file.readline().split()
        logp.append(float(columns[0]))
        ids.extend([numbers[word] for word in columns[1 : n + 1]])
        backoff.append(float(columns[n + 1]) if len(columns) > n + 1 else 0.0)
    arrays: list[Any] = [np.array(values) for values in (ids, logp, backoff)]
    return arrays[0].reshape(-1, n), arrays[1], arrays[2]


def _level(
    shorter: NgramTable, ids_Nn: Ids, logp: NDArray[np.float32], backoff: NDArray[np.float32]
) -> Level:
    """The n-grams sorted by key. Raises ValueError when one continues an n-gram that is not there."""
    n_words = len(shorter.words)
    prefixes = shorter.places(ids_Nn[:, :-1]) if ids_Nn.shape[1] > 1 else np.zeros(len(ids_Nn), np.int64)
    if (prefixes < 0).any():
        text = " ".join(shorter.words[i] for i in ids_Nn[int((prefixes < 0).argmax())])
        raise ValueError(f"{text!r} continues an n-gram that is not there")
    keys = prefixes * n_words + ids_Nn[:, -1]
    order = np.argsort(keys, kind="stable")
    if (np.diff(keys[order]) == 0).any():
        raise ValueError(f"a {ids_Nn.shape[1]}-gram is there twice")
    return Level(keys[order], logp[order], backoff[order])
