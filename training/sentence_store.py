"""Encoded sentences on disk, and the batches a language model is trained on.

A store is two files: `tokens.bin` (all sentences one after the other, uint16, or uint32 for a vocabulary that
needs it) and `ends.bin` (int64, where each one ends). Both are memory-mapped: the corpus may be larger than
memory. An epoch's order costs 8 bytes a sentence.

Shape letters: B rows, T tokens of the longest row.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

IGNORED = -100  # a target that the loss leaves out: padding
_ENCODED_AT_ONCE = 50_000  # characters; bounds the memory, however long the lines are


@dataclass(frozen=True)
class BatchSettings:
    """How sentences become rows and rows become batches."""

    tokens: int = 4096  # per batch, padding included
    context: int = 256  # longest row; the rest of a longer sentence is left out
    joined_share: float = (
        0.05  # of the sentences run on into one row without an end between, as long utterances do
    )
    bucket: int = 8192  # sentences sorted by length together: less padding, batches still mixed
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bucket < 1:
            raise ValueError("bucket must be at least 1")
        if not 2 <= self.context <= self.tokens:
            raise ValueError("context must be at least 2, and a batch must hold one row of it")
        if not 0.0 <= self.joined_share <= 1.0:
            raise ValueError("joined_share is between 0 and 1")


@dataclass(frozen=True)
class Position:
    """Where training stands in the data: the next batch to take."""

    epoch: int = 0
    bucket: int = 0  # of the epoch
    batch: int = 0  # of the bucket


class SentenceStore:
    """Sentences as token ids, read from disk as needed."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError when the files are absent, ValueError when they hold no sentence."""
        self._ends = np.memmap(folder / "ends.bin", dtype=np.int64, mode="r")
        n_tokens, n_bytes = int(self._ends[-1]), (folder / "tokens.bin").stat().st_size
        if n_bytes not in (2 * n_tokens, 4 * n_tokens):
            raise ValueError(f"{folder}: tokens.bin and ends.bin do not belong together")
        dtype: type[np.uint16] | type[np.uint32] = np.uint16 if n_bytes == 2 * n_tokens else np.uint32
        self._tokens = np.memmap(folder / "tokens.bin", dtype=dtype, mode="r")

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def n_tokens(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> np.ndarray:
        """The ids of one sentence, unsigned, without an end token."""
        start = int(self._ends[index - 1]) if index else 0
        return np.asarray(self._tokens[start : int(self._ends[index])])

    @staticmethod
    def write(folder: Path, sentences: Iterable[str], tokenizer: Tokenizer) -> "SentenceStore":
        """Encode sentences into a store, a part at a time. Raises ValueError when there are none."""
        dtype = np.uint16 if tokenizer.get_vocab_size() <= np.iinfo(np.uint16).max else np.uint32
        folder.mkdir(parents=True, exist_ok=True)
        end = 0
        # `ends.bin` takes its name last: a store that was cut off in writing does not look like one.
        with (folder / "tokens.bin").open("wb") as tokens, (folder / "ends.tmp").open("wb") as ends:
            for part in _parts(sentences):
                for encoding in tokenizer.encode_batch_fast(part, add_special_tokens=False):
                    ids = np.array(encoding.ids, dtype=dtype)
                    end += len(ids)
                    tokens.write(ids.tobytes())
                    ends.write(np.int64(end).tobytes())
        if end == 0:
            raise ValueError("the corpus holds no sentence")
        (folder / "ends.tmp").replace(folder / "ends.bin")
        return SentenceStore(folder)


def _parts(sentences: Iterable[str]) -> Iterator[list[str]]:
    """The sentences in lists of about `_ENCODED_AT_ONCE` characters."""
    part: list[str] = []
    size = 0
    for sentence in sentences:
        part.append(sentence)
        size += len(sentence)
        if size >= _ENCODED_AT_ONCE:
            yield part
            part, size = [], 0
    if part:
        yield part


def batches(
    store: SentenceStore, settings: BatchSettings, start: Position, end_id: int
) -> Iterator[tuple[Position, Tensor, Tensor]]:
    """Endless training batches: (position after it, ids_BT int64, targets_BT int64), from `start` on.

    Each row is `end_id`, a sentence, and `end_id` as the last target, just as a hypothesis is scored. The
    order depends on the settings and the position only: a resumed run sees what an unbroken one would.
    """
    epoch, bucket, batch = start.epoch, start.bucket, start.batch
    n_buckets = -(-len(store) // settings.bucket)
    while True:
        order = np.random.default_rng((settings.seed, epoch)).permutation(len(store))
        while bucket < n_buckets:
            chosen = order[bucket * settings.bucket : (bucket + 1) * settings.bucket]
            rng = np.random.default_rng((settings.seed, epoch, bucket))
            rows = _join([store[int(i)] for i in chosen], settings, rng)
            groups = _group(rows, settings)
            for index, group in enumerate(rng.permutation(len(groups))):
                if index < batch:
                    continue
                ids_BT, targets_BT = to_tensors(groups[group], end_id)
                is_last = index + 1 == len(groups)
                yield Position(epoch, bucket + is_last, 0 if is_last else index + 1), ids_BT, targets_BT
            bucket, batch = bucket + 1, 0
        epoch, bucket = epoch + 1, 0


def to_tensors(rows: list[np.ndarray], end_id: int) -> tuple[Tensor, Tensor]:
    """Rows of ids -> (ids_BT, targets_BT) int64, padded on the right.

    ids start with the end token and targets end with it; targets of the padding are IGNORED. A causal model's
    outputs for a row do not depend on its padding, so no mask is needed.
    """
    longest = max(len(row) for row in rows) + 1
    ids_BT = torch.full((len(rows), longest), end_id, dtype=torch.int64)
    targets_BT = torch.full((len(rows), longest), IGNORED, dtype=torch.int64)
    for b, row in enumerate(rows):
        ids = torch.from_numpy(row.astype(np.int64))
        ids_BT[b, 1 : len(row) + 1] = ids
        targets_BT[b, : len(row)] = ids
        targets_BT[b, len(row)] = end_id
    return ids_BT, targets_BT


def _join(sentences: list[np.ndarray], settings: BatchSettings, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows: most sentences alone, the first `joined_share` of them run on into rows of random lengths."""
    n_joined = int(len(sentences) * settings.joined_share)
    rows = [row[: settings.context - 1] for row in sentences[n_joined:]]
    joined: list[np.ndarray] = []
    wanted = 0
    for sentence in sentences[:n_joined]:
        joined.append(sentence)
        if sum(map(len, joined)) >= wanted:
            rows.append(np.concatenate(joined)[: settings.context - 1])
            joined, wanted = [], int(rng.integers(settings.context))
    if joined:
        rows.append(np.concatenate(joined)[: settings.context - 1])
    return rows


def _group(rows: list[np.ndarray], settings: BatchSettings) -> list[list[np.ndarray]]:
    """Batches of rows of like length, none of more than `tokens` padded tokens."""
    groups: list[list[np.ndarray]] = []
    group: list[np.ndarray] = []
    for row in sorted(rows, key=len):
        if group and (len(group) + 1) * (len(row) + 1) > settings.tokens:
            groups.append(group)
            group = []
        group.append(row)
    groups.append(group)
    return groups
