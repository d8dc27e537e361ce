"""What the libraries below keep in memory, bounded for a service that runs for months.

oneDNN, and PyTorch around it, keep compiled kernels for every shape of tensor that they have seen, up to 1024
of each kind. Recordings are as long as they are, so every one brings new shapes: with the default bundle that
grew to 400 MiB and more, and looked like a leak. Making the kernels again takes no time that could be
measured (`python -m bench.soak`).
"""

from collections.abc import MutableMapping

# Read by the libraries when they are loaded or first used: an operator's own values stand.
LIMITS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0", "LRU_CACHE_CAPACITY": "1"}


def bound_caches(environment: MutableMapping[str, str]) -> None:
    """Set the limits in `os.environ`; before torch is imported, or they have no effect."""
    for name, value in LIMITS.items():
        environment.setdefault(name, value)
