"""Compiling the decoder's inner loops: numba, without the GIL, remembered on disk where that can be written.

numba keeps compiled code beside the source, or under NUMBA_CACHE_DIR, or in the user's cache folder; where
none of them can be written (a container with read-only files) it refuses to define a cached function. Then
the code is compiled anew in each process: slower to start, otherwise the same.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def kernel(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`function` compiled at its first call.

    It may only call other kernels, and make no arrays: these are not counted (`_nrt`), as counting references
    to all arrays of nested tuples at every call took most of the time, and threads would share the counters.
    """
    return _compiled(function)


def inner_kernel(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """One that only kernels call: without the way in from Python, which takes longest to compile."""
    return _compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def reordering_kernel(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """An inner kernel whose sums may be taken in another order, always the same one for the same sizes."""
    return _compiled(
        function, no_cpython_wrapper=True, no_cfunc_wrapper=True, fastmath={"reassoc", "nnan", "nsz"}
    )


def step_kernel(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """An inner one that becomes part of its caller: handing on all arrays would take longer than its work."""
    return _compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)


def _compiled(
    function: Callable[Arguments, Result], **options: bool | set[str]
) -> Callable[Arguments, Result]:
    njit: Any = numba.njit  # whose types do not know the options above
    options |= {"nogil": True, "_nrt": False}
    try:
        compiled = njit(function, cache=True, error_model="numpy", **options)
    except RuntimeError:  # "no locator available": nowhere to write
        compiled = njit(function, error_model="numpy", **options)
    return cast(Callable[Arguments, Result], compiled)
