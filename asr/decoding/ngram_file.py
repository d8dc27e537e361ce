"""An n-gram model in one file of arrays, which is mapped into memory: nothing is read before it is asked for,
and processes that serve the same bundle share it.

Layout: the magic line, the length of the index (8 bytes), the index (JSON), then sections that begin at
multiples of 64 bytes, all little-endian. An n-gram is a node of a trie over words: its place within its
level is its number, children of a node are neighbours in the next level, sorted by word. Per level are kept
the last word (of longer n-grams than one; a single word's number is its place), the code of log10 P, and
below the highest order the code of log10 backoff and where the children begin. Numbers take as few bytes as
the largest needs (1-4). Codes index tables of float32: all distinct values (exact), or 2^bits means of
equally frequent values as in KenLM. Single words, and backoffs of 0, are always exact.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding.arpa import BEGIN, END, UNKNOWN, NgramTable
from asr.errors import MismatchError

MAGIC = b"asr-sound n-gram 1\n"
MAX_ORDER = 6
_ALIGNMENT = 64


# Columns of `NgramArrays.layout`. _AT: bytes into `data`; _WIDTH: bytes of a number there; _TABLE: where the
# level's own values begin in `values`.
WORD_AT, LOGP_AT, LOGP_WIDTH, LOGP_TABLE, BACKOFF_AT, BACKOFF_WIDTH, BACKOFF_TABLE, CHILD_AT, CHILD_WIDTH = (
    range(9)
)
COLUMNS = 9


class NgramArrays(NamedTuple):
    """A model as kernels read it. Few arrays: kernels hand each other all of them at every call."""

    data: NDArray[np.uint8]  # the whole file
    order: int
    begin: int  # number of <s>
    end: int  # of </s>
    unknown: int  # of <unk>
    word_width: int  # bytes of a word's number
    layout: NDArray[np.int64]  # (order x COLUMNS,): row n is of the n-grams of n + 1 words
    values: NDArray[np.float32]  # all tables, one after the other: log10


def encoded(table: NgramTable, bits: int = 0) -> bytes:
    """The file's bytes. bits: of the codes of longer n-grams; 0 keeps every value as it is.

    Raises ValueError when a word of the vocabulary has no 1-gram, or the order is above MAX_ORDER.
    """
    n_words = len(table.words)
    if table.order > MAX_ORDER or len(table.levels[0].keys) != n_words:
        raise ValueError(f"the n-gram's order must be at most {MAX_ORDER}, and every word a 1-gram")
    sections: dict[str, bytes] = {"words": "\n".join(table.words).encode()}
    widths: dict[str, list[int]] = {"logp": [], "backoff": [], "child": []}
    tables: list[NDArray[np.float32]] = []
    table_starts: dict[str, list[int]] = {"logp": [], "backoff": []}
    for n, level in enumerate(table.levels):
        last = n + 1 == table.order
        if n:
            sections[f"word {n}"] = _packed(level.keys % n_words, _width(n_words))
        for name, column in (("logp", level.logp), ("backoff", level.backoff[: 0 if last else None])):
            codes, values = _coded(column, bits if n else 0)
            widths[name].append(_width(len(values)))
            table_starts[name].append(sum(map(len, tables)))
            tables.append(values)
            sections[f"{name} {n}"] = _packed(codes, widths[name][-1])
        firsts = np.empty(0, np.int64)
        if not last:
            longer = table.levels[n + 1].keys
            firsts = np.searchsorted(longer, np.arange(len(level.keys) + 1) * n_words)
        widths["child"].append(_width(int(firsts[-1]) + 1 if len(firsts) else 1))
        sections[f"child {n}"] = _packed(firsts, widths["child"][-1])
    sections["values"] = np.concatenate(tables).astype("<f4").tobytes()
    numbers = {word: i for i, word in enumerate(table.words) if word in (BEGIN, END, UNKNOWN)}
    index = {
        "ngrams": [len(level.keys) for level in table.levels],
        "marks": [numbers[BEGIN], numbers[END], numbers[UNKNOWN]],
        "word_width": _width(n_words),
        "widths": widths,
        "tables": table_starts,
        "quantised_bits": bits,
    }
    return _file(index, sections)


def decoded(content: NDArray[np.uint8], name: str) -> tuple[list[str], NgramArrays]:
    """The words, by number, and the model of a file's bytes. Raises MismatchError naming the file."""
    try:
        start = len(MAGIC) + 8
        if content[: len(MAGIC)].tobytes() != MAGIC:
            raise ValueError("it begins otherwise")
        length = int.from_bytes(content[len(MAGIC) : start].tobytes(), "little")
        index = json.loads(content[start : start + length].tobytes())
        at, sizes = index["at"], index["sizes"]
        if max(at[key] + sizes[key] for key in at) > len(content):
            raise ValueError("it is cut off")
        words = content[at["words"] : at["words"] + sizes["words"]].tobytes().decode().split("\n")
        order = len(index["ngrams"])

        def places(section: str) -> list[int]:
            return [at.get(f"{section} {n}", 0) for n in range(order)]

        begin, end, unknown = index["marks"]
        widths, tables = index["widths"], index["tables"]
        columns = [
            places("word"),
            *(places("logp"), widths["logp"], tables["logp"]),
            *(places("backoff"), widths["backoff"], tables["backoff"]),
            *(places("child"), widths["child"]),
        ]
        arrays = NgramArrays(
            data=content,
            order=order,
            begin=begin,
            end=end,
            unknown=unknown,
            word_width=index["word_width"],
            layout=np.array(columns, dtype=np.int64).T.ravel(),
            values=content[at["values"] : at["values"] + sizes["values"]].view("<f4"),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise MismatchError(f"{name} is no n-gram in arrays: {error}") from error
    return words, arrays


def mapped(path: Path) -> NDArray[np.uint8]:
    """A file's bytes, read-only and mapped into memory. Raises MismatchError for an empty one."""
    try:
        return np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    except ValueError as error:
        raise MismatchError(f"{path.name} is empty") from error


def in_memory(content: bytes) -> NDArray[np.uint8]:
    """Bytes as the kernels want them: read-only, like a mapped file."""
    return np.frombuffer(content, np.uint8)


def _file(index: dict[str, Any], sections: dict[str, bytes]) -> bytes:
    """Index and sections put together. The index is padded, so that its own length moves no section."""
    room = len(json.dumps(index)) + 64 * (len(sections) + 4)
    at, place = {}, _aligned(len(MAGIC) + 8 + room)
    for name, content in sections.items():
        at[name] = place
        place = _aligned(place + len(content))
    index = index | {"at": at, "sizes": {name: len(content) for name, content in sections.items()}}
    text = json.dumps(index).encode().ljust(room)
    parts = [MAGIC, len(text).to_bytes(8, "little"), text]
    written = sum(map(len, parts))
    for name, content in sections.items():
        parts += [bytes(at[name] - written), content]
        written = at[name] + len(content)
    return b"".join(parts)


def _aligned(place: int) -> int:
    return -(-place // _ALIGNMENT) * _ALIGNMENT


def _width(n_numbers: int) -> int:
    """Bytes that hold 0 ... n_numbers - 1."""
    return max(1, -(-max(n_numbers - 1, 0).bit_length() // 8))


def _packed(numbers: NDArray[Any], width: int) -> bytes:
    return numbers.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :width].tobytes()


def _coded(values_N: NDArray[np.float32], bits: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Codes (N,) and the table they index, ascending: exact where 2^bits values are enough, or bits is 0."""
    distinct, codes_N = np.unique(values_N, return_inverse=True)
    if not bits or len(distinct) <= 2**bits:
        return codes_N, distinct
    ranked = np.sort(values_N[values_N != 0.0].astype(np.float64))
    bins = np.array_split(ranked, 2**bits - 1)
    centres = np.unique([0.0, *(part.mean() for part in bins if len(part))]).astype(np.float32)
    edges = (centres[:-1].astype(np.float64) + centres[1:]) / 2
    codes_N = np.searchsorted(edges, values_N)
    codes_N[values_N == 0.0] = np.searchsorted(centres, np.float32(0.0))
    return codes_N, centres
