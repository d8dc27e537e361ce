"""What is kept in memory, bounded for a service that runs for months, and what need not be looked through.

oneDNN, and PyTorch around it, keep compiled kernels for every shape of tensor that they have seen, up to 1024
of each kind. Recordings are as long as they are, so every one brings new shapes: with the default bundle that
grew to 400 MiB and more, and looked like a leak. Making the kernels again takes no time that could be
measured (`python -m bench.soak`).
"""

import gc
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

# Read by the libraries when they are loaded or first used: an operator's own values stand.
LIMITS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0", "LRU_CACHE_CAPACITY": "1"}


def bound_caches(environment: MutableMapping[str, str]) -> None:
    """Set the limits in `os.environ`; before torch is imported, or they have no effect."""
    for name, value in LIMITS.items():
        environment.setdefault(name, value)


@contextmanager
def made_for_good() -> Iterator[None]:
    """Inside, the collector rests; what is there at the end it never looks through again.

    Models and modules are a third of a million objects: a full collection took 0.2 s, and no thread works
    meanwhile.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
