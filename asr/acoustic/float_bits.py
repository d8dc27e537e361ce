"""A number's bits as a whole number, and back, inside kernels.

Numbers of at least 0 are in the order of their bits, and LLVM makes vector code of a search for the largest
whole number, which it does not of one for the largest float.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _taken_as(before: Any, after: Any, kind: Any) -> Callable[..., Any]:
    def typed(_: Any, x: Any) -> Any:
        return after(before), written

    def written(_: Any, build: Any, signature: Any, arguments: Any) -> Any:
        return build.bitcast(arguments[0], kind)

    found: Callable[..., Any] = intrinsic(typed)
    return found


bits: Callable[[np.float32], np.int32] = _taken_as(types.float32, types.int32, ir.IntType(32))
number: Callable[[np.int32], np.float32] = _taken_as(types.int32, types.float32, ir.FloatType())
