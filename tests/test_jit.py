"""Kernels compile with and without a place to keep them."""

from collections.abc import Callable
from typing import Any

import numba
import pytest

from asr.decoding import jit


def _twice(x: int) -> int:
    return 2 * x


def test_a_kernel_is_remembered_and_frees_the_gil() -> None:
    compiled: Any = jit.kernel(_twice)
    assert compiled(21) == 42
    assert compiled.targetoptions["nogil"]


def test_without_a_place_to_write_kernels_are_compiled_in_each_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    njit = numba.njit

    def refusing(function: Callable[..., Any], **options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function '_twice': no locator available for file")
        return njit(function, **options)

    monkeypatch.setattr(numba, "njit", refusing)
    assert jit.kernel(_twice)(4) == 8
