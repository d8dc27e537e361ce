"""Batches made ahead by worker processes, in order: the same batches whatever the number of workers.

torch's DataLoader starts and feeds the workers, hands tensors over in shared memory, pins them for a GPU and
notices dead workers. A worker holds settings only (training/examples.py); what to make comes with requests.
"""

import multiprocessing
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from asr.errors import AsrError
from training.examples import Batch, BatchMaker, Example

Request = Sequence[Example]


class Loader:
    """Turns requests into batches on a device.

    workers: processes; 0 makes each batch when it is asked for. prefetch: batches that each worker is ahead.
    """

    def __init__(
        self, maker: BatchMaker, device: torch.device, *, workers: int = 0, prefetch: int = 4
    ) -> None:
        self._maker, self._device = maker, device
        self._requests = _Requests()
        self._loader: DataLoader[Any] | None = None
        if not workers:
            return
        context = multiprocessing.get_context("forkserver")  # a fork would share torch's threads and CUDA
        context.set_forkserver_preload(["training.loader"])
        with warnings.catch_warnings():
            # More processes than cores is the caller's choice.
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            self._loader = DataLoader(
                _Maker(maker),
                batch_size=None,
                sampler=self._requests,
                num_workers=workers,
                prefetch_factor=prefetch,
                persistent_workers=True,
                multiprocessing_context=context,
                pin_memory=device.type == "cuda",
                collate_fn=_unchanged,
                generator=torch.Generator(),  # its seed for workers must not come from the run's random state
            )

    def stream(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """The batches of the requests, in their order.

        One stream at a time: another one ends it. Raises ValueError naming a recording that cannot be read,
        RuntimeError when a worker died.
        """
        if self._loader is None:
            return (self._on_device(made) for made in map(_Maker(self._maker).__getitem__, requests))
        self._requests.now = requests
        return (self._on_device(made) for made in iter(self._loader))

    def close(self) -> None:
        """End the workers; they end with the process too."""
        self._loader = None

    def _on_device(self, made: Batch | Exception) -> Batch:
        if isinstance(made, Exception):
            raise made
        return tuple(tensor.to(self._device, non_blocking=True) for tensor in made)


class _Requests(Sampler[Request]):
    """What the next stream asks for."""

    now: Iterable[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.now)


class _Maker(Dataset[Any]):
    """Makes one batch, on one thread, so that rounding does not depend on who makes it.

    What a caller should see comes back as a value: DataLoader would wrap it in a worker's traceback.
    """

    def __init__(self, maker: BatchMaker) -> None:
        self._maker = maker

    def __getitem__(self, request: Request) -> Batch | Exception:
        threads = torch.get_num_threads()
        if threads != 1:
            torch.set_num_threads(1)
        try:
            return self._maker.batch(request)
        except (AsrError, OSError, ValueError) as error:
            return error
        finally:
            if threads != 1:
                torch.set_num_threads(threads)


def _unchanged(batch: Any) -> Any:
    return batch
