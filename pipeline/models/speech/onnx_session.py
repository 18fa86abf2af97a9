"""Sessions of onnxruntime, which is an optional package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.models.speech.base import BackendUnavailable
from pipeline.optional import extra


def onnx_session(path: Path, threads: int = 1) -> Any:
    """A session on the CPU.

    Args:
        path: of the network.
        threads: inside an operator; between operators there is one.

    Raises:
        BackendUnavailable: onnxruntime is missing, or the file is no network of its.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable(f"onnxruntime is missing: {extra('speech')}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class that it exports
        raise BackendUnavailable(f"{path} cannot be read ({type(error).__name__}): fetch it again") from error
