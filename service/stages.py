"""The steps of a recording as the workshop's stages, in order: read, hear, search, rescore, finish, join."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from asr.decoding.options import DecodingOptions
from asr.decoding.result import NBest, Transcript
from asr.long_audio import Decoded, continued
from asr.recording import Posteriors, Prepared
from asr.windows import Stretch
from service.settings import Settings
from service.speech import Speech, uses_cuda
from service.workshop import Stage

FEATURES_PER_S = 100  # what the acoustic model's batches are counted in
MAX_BATCH = 64  # stretches heard at once on a GPU
MAX_BATCH_CPU = 2  # company saves little there, and all wait for the last
MAX_LISTS = 8  # n-best lists rescored at once

Read = tuple[Stretch, Prepared] | None


@dataclass(frozen=True)
class Hearing:
    """A stretch for the acoustic model."""

    speech: Speech
    prepared: Prepared


@dataclass(frozen=True)
class Search:
    """A passage to be decoded until `deadline`, on time.monotonic's clock."""

    speech: Speech
    posteriors: Posteriors
    options: DecodingOptions
    deadline: float


@dataclass(frozen=True)
class Rescoring:
    """A list that GPT-2 is to order."""

    speech: Speech
    found: NBest
    budget_s: float | None  # of this list's own: one that has it comes alone
    deadline: float


@dataclass(frozen=True)
class Finishing:
    """A passage whose words are to be placed."""

    speech: Speech
    posteriors: Posteriors
    found: NBest
    options: DecodingOptions


@dataclass(frozen=True)
class Joining:
    """Two passages that may be one sentence."""

    speech: Speech
    before: Decoded
    after: Decoded
    options: DecodingOptions


class Stages:
    """The six of them, sized by the settings."""

    def __init__(self, settings: Settings) -> None:
        threads = settings.threads
        # A thread that reads waits for another process; a core would wait with it.
        self.spare = int(settings.isolate_audio)
        on_device = 1 if uses_cuda(settings) else threads
        most = settings.max_batch or (MAX_BATCH if uses_cuda(settings) else MAX_BATCH_CPU)
        max_size = settings.max_batch_s * FEATURES_PER_S
        self.read: Stage[Callable[[], Read], Read] = Stage("read", _read, threads + self.spare)
        self.hear: Stage[Hearing, Posteriors] = Stage(
            "acoustic", _hear, on_device, max_items=most, max_size=max_size
        )
        self.search: Stage[Search, NBest] = Stage("search", _search, threads)
        self.rescore: Stage[Rescoring, NBest] = Stage("rescoring", _rescore, on_device, max_items=MAX_LISTS)
        self.finish: Stage[Finishing, Transcript] = Stage("finish", _finish, threads)
        self.join: Stage[Joining, Read] = Stage("join", _join, threads)

    @property
    def in_order(self) -> list[Stage[Any, Any]]:
        return [self.read, self.hear, self.search, self.rescore, self.finish, self.join]


def next_of(stretches: Iterator[tuple[Stretch, Prepared]]) -> Callable[[], Read]:
    """Work that reads the next stretch; None after the last."""
    return lambda: next(stretches, None)


def _read(items: Sequence[Callable[[], Read]]) -> list[Read]:
    return [read() for read in items]


def _hear(items: Sequence[Hearing]) -> list[Posteriors]:
    return items[0].speech.listen_batch([item.prepared for item in items])


def _search(items: Sequence[Search]) -> list[NBest]:
    return [item.speech.search(item.posteriors, item.options, deadline=item.deadline) for item in items]


def _rescore(items: Sequence[Rescoring]) -> list[NBest]:
    deadline = max(item.deadline for item in items)
    lists = [item.found for item in items]
    return items[0].speech.rescore_batch(lists, budget_s=items[0].budget_s, deadline=deadline)


def _finish(items: Sequence[Finishing]) -> list[Transcript]:
    return [item.speech.finish(item.posteriors, item.found, item.options) for item in items]


def _join(items: Sequence[Joining]) -> list[Read]:
    return [continued(item.speech, item.before, item.after, item.options) for item in items]
