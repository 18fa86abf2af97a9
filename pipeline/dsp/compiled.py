"""Machine code for the few inner loops that no library has: made by LLVM when first asked for, in some 50 ms.

Numpy and torch walk through memory once per operation. A loop of hundreds of operations whose values never leave
the registers is several times as fast, but it needs a compiler. llvmlite is one that is there: numba brings it,
and librosa numba. Without numba itself there is nothing to import for a quarter of a second, and nothing to
cache on disk.

Kernels are written for vectors of `LANES` floats, which LLVM turns into whatever the processor has.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llvmlite import ir

LANES = 8

# The engines own the code; they live as long as the process.
_engines: list[object] = []


class Kernel:
    """A function in the making, a thin layer over ``llvmlite.ir``.

    Args:
        pointers: how many arguments are addresses; they come first.
        integers: how many are counts.

    ``arguments`` are the values of all of them, ``build`` is llvmlite's own builder.
    """

    def __init__(self, pointers: int, integers: int) -> None:
        from llvmlite import ir

        self.index = ir.IntType(64)
        self.float = ir.FloatType()
        self.vector = ir.VectorType(self.float, LANES)
        self.doubles = ir.VectorType(ir.DoubleType(), LANES)
        self._indices = ir.VectorType(ir.IntType(32), LANES)
        types = [ir.PointerType()] * pointers + [self.index] * integers
        self.module = ir.Module()
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), types), "kernel")
        self.arguments = function.args
        self.build = ir.IRBuilder(function.append_basic_block())

    def load(self, pointer: ir.Value, offset: ir.Value, type_: ir.Type | None = None) -> ir.Value:
        """What lies ``offset`` elements behind ``pointer``: a vector of `LANES` floats, or one of ``type_``."""
        type_ = type_ or self.vector
        element = getattr(type_, "element", type_)
        address = self.build.gep(pointer, [offset], source_etype=element)
        return self.build.load(address, typ=type_, align=self._alignment(element))

    def store(self, value: ir.Value, pointer: ir.Value, offset: ir.Value) -> None:
        """Write a vector ``offset`` elements behind ``pointer``."""
        element = value.type.element
        address = self.build.gep(pointer, [offset], source_etype=element)
        self.build.store(value, address, align=self._alignment(element))

    def _alignment(self, element: ir.Type) -> int:
        return 4 if element == self.float else 8

    def constant(self, value: float, type_: ir.Type | None = None) -> ir.Value:
        """A vector of the same value throughout."""
        type_ = type_ or self.vector
        return type_([type_.element(value)] * LANES)

    def broadcast(self, value: ir.Value) -> ir.Value:
        """A vector of the same double throughout."""
        undefined = self.doubles(None)
        single = self.build.insert_element(undefined, value, self._indices.element(0))
        return self.build.shuffle_vector(single, undefined, self._indices([0] * LANES))

    def absolute(self, value: ir.Value) -> ir.Value:
        """Of each lane."""
        build = self.build
        bits = build.and_(build.bitcast(value, self._indices), self._indices([0x7FFFFFFF] * LANES))
        return build.bitcast(bits, self.vector)

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """``a * b + c``, rounded once where the processor can."""
        return self.build.fadd(self.build.fmul(a, b, flags=["contract"]), c, flags=["contract"])

    def square_root(self, value: ir.Value) -> ir.Value:
        """Of each lane."""
        from llvmlite import ir

        name = f"llvm.sqrt.v{LANES}f32"
        known = self.module.globals.get(name)
        root = known or ir.Function(self.module, ir.FunctionType(self.vector, [self.vector]), name)
        return self.build.call(root, [value])

    def mantissa_and_exponent(self, value: ir.Value) -> tuple[ir.Value, ir.Value]:
        """``value`` = mantissa · 2^exponent with the mantissa in 1..2; it is positive, normal and finite."""
        build, integers = self.build, self._indices
        fraction, one, places = (integers([n] * LANES) for n in (0x7FFFFF, 0x3F800000, 23))
        bits = build.bitcast(value, integers)
        mantissa = build.bitcast(build.or_(build.and_(bits, fraction), one), self.vector)
        exponent = build.sub(build.lshr(bits, places), integers([127] * LANES))
        return mantissa, build.sitofp(exponent, self.vector)

    def extreme(self, larger: bool, a: ir.Value, b: ir.Value) -> ir.Value:
        """The larger or smaller of two vectors, lane by lane; neither holds NaN."""
        chosen = self.build.fcmp_ordered(">" if larger else "<", a, b, flags=["nnan", "nsz"])
        return self.build.select(chosen, a, b)

    def shuffle(self, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
        """A vector of the numbered lanes of ``a`` and, from `LANES` on, of ``b``."""
        return self.build.shuffle_vector(a, b, self._indices(list(lanes)))

    def transpose(self, rows: Sequence[ir.Value]) -> list[ir.Value]:
        """`LANES` vectors as the rows of a square, to its columns."""
        rows, distance = list(rows), LANES // 2
        while distance:
            # The two squares off the diagonal of each block of twice the distance change places.
            lower = [i if not i & distance else LANES + (i ^ distance) for i in range(LANES)]
            upper = [i ^ distance if not i & distance else LANES + i for i in range(LANES)]
            for i in (i for i in range(LANES) if not i & distance):
                a, b = rows[i], rows[i + distance]
                rows[i], rows[i + distance] = self.shuffle(a, b, lower), self.shuffle(a, b, upper)
            distance //= 2
        return rows

    def repeat(
        self,
        stop: ir.Value,
        step: int,
        body: Callable[..., Sequence[ir.Value] | None],
        carried: Sequence[ir.Value] = (),
    ) -> list[ir.Value]:
        """``for i in range(0, stop, step): carried = body(i, *carried)``, at least once; returns the last ones."""
        build, before = self.build, self.build.block
        block = build.append_basic_block()
        build.branch(block)
        build.position_at_end(block)
        phis = [build.phi(self.index), *(build.phi(value.type) for value in carried)]
        for phi, value in zip(phis, [self.index(0), *carried], strict=True):
            phi.add_incoming(value, before)
        results = list(body(*phis) or ())
        following = build.add(phis[0], self.index(step))
        for phi, value in zip(phis, [following, *results], strict=True):
            phi.add_incoming(value, build.block)
        behind = build.append_basic_block()
        build.cbranch(build.icmp_signed("<", following, stop), block, behind)
        build.position_at_end(behind)
        return results

    def whole_vectors(self, count: ir.Value, body: Callable[[ir.Value], None]) -> None:
        """``body`` of the first column of each vector of ``count`` columns, at least `LANES`; the last may overlap."""
        last = self.build.sub(count, self.index(LANES))

        def column(index: ir.Value) -> None:
            beyond = self.build.icmp_signed(">", index, last)
            body(self.build.select(beyond, last, index))

        self.repeat(count, LANES, column)


@functools.cache
def _target() -> object | None:
    """LLVM for this processor, or None where llvmlite is not installed."""
    try:
        from llvmlite import binding
    except ImportError:
        return None
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_default_triple()


def compiled(write: Callable[[Kernel], None], pointers: int, integers: int) -> Callable[..., None] | None:
    """The function that ``write`` writes, as machine code; None where llvmlite is not installed.

    Args:
        write: adds the body, all but the return.
        pointers: how many arguments are addresses; they come first.
        integers: how many are counts.

    The function checks nothing. It lets other threads run.
    """
    target = _target()
    if target is None:
        return None
    from llvmlite import binding

    kernel = Kernel(pointers, integers)
    write(kernel)
    kernel.build.ret_void()
    machine = target.create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3
    )
    engine = binding.create_mcjit_compiler(binding.parse_assembly(str(kernel.module)), machine)
    engine.finalize_object()
    _engines.append(engine)
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * pointers, *[ctypes.c_int64] * integers)
    return signature(engine.get_function_address("kernel"))
