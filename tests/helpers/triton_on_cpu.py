"""Triton's interpreter, with bfloat16 as a card has it: 3.6 multiplies bit patterns as integers, and cuts digits off.

Import it in a process that was started with ``TRITON_INTERPRET=1``.
"""

from __future__ import annotations

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

_create_dot = interpreter.InterpreterBuilder.create_dot
_cast_impl = interpreter.InterpreterBuilder.cast_impl


def _rounded(self, src, dst_type):
    if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.bfloat16:
        values = np.ascontiguousarray(src.data)
        bits = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
        return interpreter.TensorHandle(bits.reshape(src.data.shape), tl.bfloat16)
    return _cast_impl(self, src, dst_type)


def _create_dot_of_values(self, a, b, d, input_precision, max_num_imprecise_acc):
    def wide(x):
        return self.cast_impl(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x

    return _create_dot(self, wide(a), wide(b), d, input_precision, max_num_imprecise_acc)


interpreter.InterpreterBuilder.create_dot = _create_dot_of_values
interpreter.InterpreterBuilder.cast_impl = _rounded
