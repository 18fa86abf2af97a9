"""Faster ways through the audio tower on a GPU: fused kernels, a compiled network, a captured graph.

`prepare` sets them up for one tower. A batch takes the smallest captured graph that holds it, one of exactly the size
prepared for the compiled network, and others the fused kernels. Each way is tried and compared with the plain one
before it is used, and one that does not work is left out, with its reason in the log and in what `prepare` returns.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.clap.clips import CLIP_SAMPLES
from pipeline.models.clap.htsat import Htsat
from pipeline.models.device import is_out_of_memory
from pipeline.models.kernels import DEVICES, reason
from pipeline.places import expanded, may_write, soundmill_cache

log = logging.getLogger(__name__)

COMPILE_SECONDS = 17.0
"""What `compile_pays` takes compiling to cost: HTSAT-base on an H100 host of 16 cores, nothing cached."""
SECONDS_PER_CLIP = 10 / 37_400, 10 / 56_000
"""What a clip of 10 s took on that H100 at 64 clips, plain and compiled, s."""

# The least cosine between embeddings of a faster way and of the plain one.
_CLOSE = 0.9995
_WARM_UPS = 3


class Tower(Protocol):
    """What is used here of a `pipeline.models.clap.tower.AudioTower`, which says what each of it is."""

    audio_branch: Htsat
    window: Tensor
    fused: Callable[[Tensor], Tensor] | None
    compiled: tuple[int, Callable[[Tensor], Tensor]] | None
    captured: Captured | None

    def log_mel(self, waveforms: Tensor) -> Tensor: ...
    def embed(self, waveforms: Tensor) -> tuple[Tensor, Tensor]: ...


def compile_pays(audio_seconds: float, window: float, hop: float) -> bool:
    """Whether compiling the network takes less time than it then saves.

    On one H100 compiling took 17 s, and a clip, which is 10 s for the tower however short the window, took 267 µs
    before and 179 µs after: 89 µs saved, so it pays from 191,000 clips on. With windows of 10 s every 5 s those are
    266 hours of audio, with one window every 10 s 531. A smaller card is slower at both, and compiling is the host's
    work: there it pays earlier than this says.

    Args:
        audio_seconds: audio in the whole run, s.
        window: length of a window, s.
        hop: distance between the starts of two windows, s.
    """
    clips = 1 + max(0.0, audio_seconds - window) / hop
    plain, compiled = SECONDS_PER_CLIP
    return clips * (plain - compiled) > COMPILE_SECONDS


def cache_folder() -> Path | None:
    """Where compiled networks are kept between runs: ``$SOUNDMILL_COMPILE_CACHE`` or ``~/.cache/soundmill/compile``;
    None where the home is not ours to write into, and torch takes a folder of its own."""
    configured = os.environ.get("SOUNDMILL_COMPILE_CACHE")
    if configured:
        return expanded(configured)
    folder = soundmill_cache("compile")
    return folder if may_write(folder) else None


def prepare(tower: Tower, batch_items: int, compile: bool = False, capture: bool = True) -> list[str]:
    """Set up the faster ways through a tower, in place. To be called once, with nothing else running on the GPU.

    Args:
        tower: on its device; on a CPU it stays as it is.
        batch_items: clips of a full batch: the one size that is compiled, and the largest that is captured.
        compile: whether to compile the network with ``torch.compile``, see `compile_pays`.
        capture: whether to capture batches as CUDA graphs. Their buffers stay taken: as much memory as a full batch.

    Returns:
        a line for each way that does not work here.
    """
    device = tower.window.device
    if device.type not in DEVICES:
        return []
    steps: list[tuple[str, Callable[[], None]]] = [("fused kernels", lambda: _fuse(tower))]
    if compile:
        steps.append(("torch.compile", lambda: _compile(tower, batch_items)))
    if capture and device.type == "cuda":
        steps.append(("a CUDA graph", lambda: _capture(tower, batch_items)))
    tower.fused = tower.compiled = tower.captured = None
    problems = []
    for name, step in steps:
        try:
            step()
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001  no compiler, a card too old, little memory: each raises another
            problems.append(f"clap: no {name}: {reason(error)}")
            log.warning("%s", problems[-1])
    return problems


def _fuse(tower: Tower) -> None:
    # Here, as it imports Triton.
    from pipeline.models.clap.fused_htsat import fused

    tower.fused = fused(tower.audio_branch)


def _compile(tower: Tower, batch_items: int) -> None:
    folder = cache_folder()
    if folder is not None:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    compiled = torch.compile(tower.audio_branch._latent, dynamic=False)
    with torch.inference_mode():
        log_mel = tower.log_mel(_noise(tower, batch_items))
        _compare(compiled(log_mel), tower.audio_branch(log_mel))
    tower.compiled = batch_items, compiled


def _capture(tower: Tower, batch_items: int) -> None:
    with torch.inference_mode():
        captured = Captured(tower, captured_sizes(batch_items))
        noise = _noise(tower, batch_items)
        for clips in {batch_items, 1 + batch_items // 3, 1}:
            _compare(captured(noise[:clips])[0], tower.embed(noise[:clips])[0])
    tower.captured = captured


def captured_sizes(batch_items: int) -> list[int]:
    """The batches that are captured, smallest first: a full one, a half and a quarter; others are filled up."""
    return sorted({batch_items, -(-batch_items // 2), -(-batch_items // 4)})


def _noise(tower: Tower, clips: int) -> Tensor:
    """Float32 ``[clips, 480000]``, each of another loudness, on the tower's device."""
    device = tower.window.device
    # One clip and its turns: on the host so many random numbers would take seconds.
    noise = torch.randn(CLIP_SAMPLES, generator=torch.Generator().manual_seed(0)).to(device)
    loudness = torch.logspace(-3, -1, clips, device=device)
    return torch.stack([noise.roll(997 * i) for i in range(clips)]) * loudness[:, None]


def _compare(found: Tensor, expected: Tensor) -> None:
    least = float(F.cosine_similarity(found.float(), expected.float(), dim=-1).min())
    if not least >= _CLOSE:
        raise ArithmeticError(f"cosine {least:.6f} to what it should be")


class Captured:
    """Batches through a tower as one launch each, in place of some four hundred.

    What launches four hundred kernels from Python shares the interpreter with whoever prepares the next tracks, and
    the card waits for both. The graphs read and write the same memory each time, so calls take turns, on the host and
    on the card, and what they return is a copy.

    Args:
        tower: its weights are the graphs', too.
        sizes: clips that a graph is captured for, smallest first; a batch takes the first that holds it.
    """

    def __init__(self, tower: Tower, sizes: Sequence[int]) -> None:
        self.most = sizes[-1]
        self._lock = threading.Lock()
        self._input = _noise(tower, self.most)
        self._done = torch.cuda.Event()
        self._graphs: list[tuple[int, torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]] = []
        # The largest first: the others then find their memory in its pool.
        for size in reversed(sizes):
            self._capture(tower, size)
        self._graphs.reverse()

    def _capture(self, tower: Tower, size: int) -> None:
        clips = self._input[:size]
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        # Libraries take their workspaces with the first calls, which must not be captured.
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                tower.embed(clips)
        current.wait_stream(side)
        pool = self._graphs[0][1].pool() if self._graphs else None
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on with what they do.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            output = tower.embed(clips)
        self._graphs.append((size, graph, output))

    def __call__(self, waveforms: Tensor) -> tuple[Tensor, Tensor]:
        """As `pipeline.models.clap.tower.AudioTower.embed`, for up to ``most`` clips."""
        clips, stream = len(waveforms), torch.cuda.current_stream()
        graph, output = next((graph, output) for size, graph, output in self._graphs if size >= clips)
        with self._lock:
            stream.wait_event(self._done)
            # What is left of earlier batches fills it up: finite numbers, whose answers nobody reads.
            self._input[:clips].copy_(waveforms)
            graph.replay()
            unit, raw = (found[:clips].clone() for found in output)
            self._done.record(stream)
        return unit, raw


def latent(tower: Tower, log_mel: Tensor) -> Tensor:
    """Latent vectors the fastest way that there is for so many clips; one that fails is not tried again."""
    if log_mel.device.type in DEVICES:
        if tower.compiled is not None and tower.compiled[0] == len(log_mel):
            try:
                return tower.compiled[1](log_mel)
            except Exception as error:  # noqa: BLE001  whatever it is, there is another way
                _give_up(error, "torch.compile")
                tower.compiled = None
        if tower.fused is not None:
            try:
                return tower.fused(log_mel)
            except Exception as error:  # noqa: BLE001  whatever it is, there is another way
                _give_up(error, "fused kernels")
                tower.fused = None
    return tower.audio_branch(log_mel)


def _give_up(error: Exception, name: str) -> None:
    """Log why a way is given up; raise where another way would not help."""
    if isinstance(error, torch.AcceleratorError) or is_out_of_memory(error):
        raise error
    log.warning("clap: no %s from now on: %s", name, reason(error))
