"""The inner loop of all integer matrix products: a few rows times a panel of columns, in registers.

LLVM's own loops do not keep a tile of sums in registers, so its instructions are written out here, for any
machine: a multiplication of 16-bit pairs added up in 32 bits is one instruction where there is AVX-512 VNNI,
two with AVX2. Integer sums do not depend on their order: a row's result is the same bits in every batch.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

ROWS = 5  # of the larger tile: with four vectors of sums each they leave registers for the operands
LANES = 16  # sums in a vector
VECTORS = 4
PANEL = LANES * VECTORS  # columns of a tile

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_SUMS = ir.VectorType(_I32, LANES)
_PAIRS = ir.VectorType(_I16, 2 * LANES)
_PRODUCTS = ir.VectorType(_I32, 2 * LANES)


def dot_tile(rows: int) -> Callable[..., None]:
    """A function for kernels, `tile(x, x_at, x_stride, w, w_at, n_pairs, out, out_at, out_stride)`:

    out[r, c] += sum over k of x[r, k] * w[k, c] for `rows` rows, `PANEL` columns and 2 * `n_pairs` (at least
    1) values of k. x: int16 array, its rows `x_stride` apart from `x_at` on. w: int16 array, from `w_at` on
    (n_pairs, PANEL, 2). out: int32 array, its rows `out_stride` apart.
    """

    def typed(
        _: Any,
        x: Any,
        x_at: Any,
        x_stride: Any,
        w: Any,
        w_at: Any,
        n_pairs: Any,
        out: Any,
        at: Any,
        stride: Any,
    ) -> Any:
        size = types.int64
        return types.void(x, size, size, w, size, size, out, size, size), written

    def written(context: Any, build: Any, signature: Any, arguments: Any) -> Any:
        x, x_at, x_stride, w, w_at, n_pairs, out, out_at, out_stride = arguments
        places = {0: x, 3: w, 6: out}
        x, w, out = (
            context.make_array(signature.args[n])(context, build, array).data for n, array in places.items()
        )
        x_rows, out_rows = _rows(build, x, x_at, x_stride, rows), _rows(build, out, out_at, out_stride, rows)
        w = build.gep(w, [w_at])
        before = [_load(build, at, v * LANES, _SUMS) for at in out_rows for v in range(VECTORS)]
        entry, loop, end = build.block, build.append_basic_block("pairs"), build.append_basic_block("summed")
        build.branch(loop)
        build.position_at_end(loop)
        k = build.phi(_I64)
        sums = [build.phi(_SUMS) for _ in before]
        panel = build.gep(w, [_times(build, k, 2 * PANEL)])
        columns = [_load(build, panel, v * 2 * LANES, _PAIRS) for v in range(VECTORS)]
        after = []
        for row, at in enumerate(x_rows):
            pair = _load(build, build.gep(at, [_times(build, k, 2)]), 0, _I32)
            everywhere = _repeated(build, pair)
            for v, column in enumerate(columns):
                after.append(build.add(sums[row * VECTORS + v], _pair_sums(build, everywhere, column)))
        next_k = build.add(k, ir.Constant(_I64, 1))
        build.cbranch(build.icmp_signed("<", next_k, n_pairs), loop, end)
        k.add_incoming(ir.Constant(_I64, 0), entry)
        k.add_incoming(next_k, loop)
        for phi, first, later in zip(sums, before, after, strict=True):
            phi.add_incoming(first, entry)
            phi.add_incoming(later, loop)
        build.position_at_end(end)
        for number, total in enumerate(after):
            row, v = divmod(number, VECTORS)
            build.store(total, _pointer(build, out_rows[row], v * LANES, _SUMS), align=4)
        return context.get_dummy_value()

    tile: Callable[..., None] = intrinsic(typed)
    return tile


def _rows(build: Any, array: Any, at: Any, stride: Any, count: int) -> list[Any]:
    return [build.gep(array, [build.add(at, _times(build, stride, row))]) for row in range(count)]


def _times(build: Any, value: Any, factor: int) -> Any:
    return build.mul(value, ir.Constant(_I64, factor))


def _pointer(build: Any, array: Any, offset: int, kind: Any) -> Any:
    return build.bitcast(build.gep(array, [ir.Constant(_I64, offset)]), kind.as_pointer())


def _load(build: Any, array: Any, offset: int, kind: Any) -> Any:
    return build.load(_pointer(build, array, offset, kind), align=2)


def _repeated(build: Any, pair: Any) -> Any:
    """Two 16-bit values, given as one of 32, in every lane."""
    nothing = ir.Constant(_SUMS, ir.Undefined)
    first = build.insert_element(nothing, pair, ir.Constant(_I32, 0))
    return build.bitcast(build.shuffle_vector(first, nothing, _places([0] * LANES)), _PAIRS)


def _pair_sums(build: Any, a: Any, b: Any) -> Any:
    """Per lane, the sum of its two products: the form that LLVM knows as one instruction."""
    products = build.mul(build.sext(a, _PRODUCTS), build.sext(b, _PRODUCTS))
    nothing = ir.Constant(_PRODUCTS, ir.Undefined)
    even = build.shuffle_vector(products, nothing, _places(list(range(0, 2 * LANES, 2))))
    odd = build.shuffle_vector(products, nothing, _places(list(range(1, 2 * LANES, 2))))
    return build.add(even, odd)


def _places(numbers: list[int]) -> Any:
    return ir.Constant(ir.VectorType(_I32, len(numbers)), [ir.Constant(_I32, n) for n in numbers])
