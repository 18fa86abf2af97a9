"""The card, and the networks with nothing around them: probe, clap, memory."""

from __future__ import annotations

import importlib.util
import os
import platform
import time
from typing import Any

import torch
from inputs import architectures, random_checkpoint, random_htdemucs, random_umx, random_unets
from kit import Kit

RATE, CLIP = 48000, 480000
COMPILED_BATCH = 64
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


def short(dtype: torch.dtype) -> str:
    """Its name."""
    return {BF16: "bf16", F16: "fp16", F32: "fp32"}[dtype]


def machine(kit: Kit) -> None:
    """The card, the cores, and versions."""
    import numpy
    import pyarrow

    facts: dict[str, Any] = {"card": "none"}
    if kit.cuda:
        properties = torch.cuda.get_device_properties(0)
        facts = {"card": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
    kit.emit(
        "machine", **facts, cpus=os.cpu_count(), python=platform.python_version(), torch=torch.__version__,
        numpy=numpy.__version__, pyarrow=pyarrow.__version__,
    )  # fmt: skip


def probe(kit: Kit) -> None:
    """What the card can do at most."""
    for name, dtype, tf32 in (
        ("bf16", BF16, False),
        ("fp16", F16, False),
        ("tf32", F32, True),
        ("fp32", F32, False),
    ):
        kit.emit("matrix product", dtype=name, tflops=round(kit.matmul_flops(dtype, tf32) / 1e12, 2))
    size = 2**20 if kit.small else 2**28
    x = torch.empty(size, device=kit.device)
    y = torch.empty_like(x)
    kit.emit("copy on the device", gb_per_s=round(2 * x.nbytes / kit.seconds(lambda: y.copy_(x)) / 1e9, 1))
    if not kit.cuda:
        return
    host, part = torch.empty(2**26), x[: 2**26]
    pinned = torch.empty(2**26, pin_memory=True)
    rate = lambda work: round(host.nbytes / kit.seconds(work) / 1e9, 1)  # noqa: E731
    kit.emit("host to card", memory="pageable", gb_per_s=rate(lambda: part.copy_(host)))
    kit.emit("host to card", memory="pinned", gb_per_s=rate(lambda: part.copy_(pinned, non_blocking=True)))
    kit.emit("card to host", memory="pageable", gb_per_s=rate(lambda: part.cpu()))
    kit.emit("card to host", memory="pinned", gb_per_s=rate(lambda: pinned.copy_(part, non_blocking=True)))


def clips(count: int, device: str) -> torch.Tensor:
    """Notes that die away over noise, each at another pitch: float32 ``[count, 480000]``."""
    generator = torch.Generator().manual_seed(1)
    t = torch.arange(CLIP) / RATE
    pitch = 110 * 2 ** (4 * torch.rand(count, 1, generator=generator))
    noise = 0.05 * torch.randn(count, CLIP, generator=generator)
    return (noise + 0.3 * torch.sin(2 * torch.pi * pitch * t) * torch.exp(-4 * (t % 0.5))).to(device)


def clap(kit: Kit) -> None:
    """The audio tower alone."""
    for place, architecture in enumerate(architectures(kit.small)):
        main = place == 0
        ClapTower(kit, architecture, main).measure()


class ClapTower:
    """One architecture's tower in several formats and ways.

    Args:
        thorough: whether all batch sizes, formats, ways and peers are measured, or only the usual one.
    """

    def __init__(self, kit: Kit, architecture: str, thorough: bool) -> None:
        from clap import flop_per_clip

        self.kit, self.architecture, self.thorough = kit, architecture, thorough
        self.checkpoint = random_checkpoint(kit.scratch, architecture)
        self.flop, self.peak = flop_per_clip(architecture), kit.matmul_flops()
        self.batches = ((2,) if kit.small else (16, 64, 128, 256)) if thorough else (64,)
        self.x = clips(max(self.batches), kit.device)
        self.exact: torch.Tensor | None = None

    def measure(self) -> None:
        """Every row."""
        usual = self.batches[:1] if self.kit.small else (64,)
        formats = (
            (F32, usual),
            (BF16, self.batches),
            *(((F16, usual),) if self.thorough and self.kit.cuda else ()),
        )
        for dtype, batches in formats:
            self.kit.attempt(f"tower {short(dtype)}", lambda d=dtype, b=batches: self.eager(d, b))
        if self.kit.cuda:
            self.kit.attempt("tower with fused kernels", self.fused)
            for batch in self.batches:
                self.kit.attempt("tower as a CUDA graph", lambda b=batch: self.graph(b))
        if self.thorough:
            for autocast in (False,) if self.kit.small else (False, True):
                self.kit.attempt("laion_clap's tower", lambda a=autocast: self.laion(a))
                self.kit.attempt("transformers' tower", lambda a=autocast: self.transformers(a))
            if self.kit.cuda:
                self.kit.attempt("tower compiled", self.compiled, needs_s=45)

    def row(self, what: str, seconds: float, batch: int, **more: Any) -> None:
        share = round(self.flop * batch / seconds / self.peak, 3)
        rate = round(10 * batch / seconds)
        self.kit.emit(
            what, network=self.architecture, batch=batch, audio_s_per_s=rate, share_of_matmul=share, **more
        )

    def tower(self, dtype: torch.dtype):
        return _clap_tower(self.checkpoint, dtype, self.kit.device)

    def cosine(self, found: torch.Tensor) -> float:
        """Least cosine to the float32 tower's embeddings."""
        return round(float((found.float().cpu() * self.exact[: len(found)]).sum(-1).min()), 6)

    def eager(self, dtype: torch.dtype, batches: tuple[int, ...]) -> None:
        tower = self.tower(dtype)
        if self.exact is None:
            self.exact = tower(self.x[:16]).float().cpu()
        cosine = self.cosine(tower(self.x[:16]))
        for batch in batches:
            x = self.x[:batch]
            self.kit.reset_peak()
            seconds = self.kit.seconds(lambda x=x: tower(x), 7, 2)
            self.row(
                "tower", seconds, batch, dtype=short(dtype), way="eager", least_cosine=cosine,
                peak_bytes=self.kit.peak_bytes(),
            )  # fmt: skip

    def fused(self) -> None:
        """With the project's own kernels, where the tower has them."""
        tower = self.tower(BF16)
        if not hasattr(tower, "prepare"):
            self.kit.emit("tower with fused kernels", skipped="this revision has none")
            return
        problems = tower.prepare(max(self.batches), capture=False)
        cosine = self.cosine(tower(self.x[:16]))
        for batch in self.batches:
            x = self.x[:batch]
            self.kit.reset_peak()
            seconds = self.kit.seconds(lambda x=x: tower(x), 7, 2)
            self.row(
                "tower", seconds, batch, dtype="bf16", way="fused", least_cosine=cosine,
                peak_bytes=self.kit.peak_bytes(), **_said(problems),
            )  # fmt: skip

    def graph(self, batch: int) -> None:
        """As one launch: the tower's own way, or captured here where it has none."""
        tower, x = self.tower(BF16), self.x[:batch]
        self.kit.reset_peak()
        if hasattr(tower, "prepare"):
            problems = tower.prepare(batch)
            seconds, found = self.kit.seconds(lambda: tower(x)), tower(x)
            self.row(
                "tower", seconds, batch, dtype="bf16", way="fused, graph", least_cosine=self.cosine(found[:16]),
                peak_bytes=self.kit.peak_bytes(), **_said(problems),
            )  # fmt: skip
            return
        static = x.clone()
        with torch.inference_mode():
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    tower(static)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                out = tower(static)
            seconds = self.kit.seconds(graph.replay)
        self.row("tower", seconds, batch, dtype="bf16", way="graph", least_cosine=self.cosine(out[:16]))

    def compiled(self) -> None:
        """By torch.compile, for one size of batch."""
        tower, x = self.tower(BF16), self.x[:COMPILED_BATCH]
        started = time.perf_counter()
        problems: list[str] = []
        if hasattr(tower, "prepare"):
            problems = tower.prepare(COMPILED_BATCH, compile=True, capture=True)
            run, way = (lambda: tower(x)), "compiled, graph"
        else:
            branch = torch.compile(tower.audio_branch._latent, dynamic=False)
            run = lambda: torch.nn.functional.normalize(  # noqa: E731
                tower.audio_projection(branch(tower.log_mel(x))), dim=-1
            )
            way = "compiled"
        with torch.inference_mode():
            found = run()
            self.kit.sync()
            compile_s = round(time.perf_counter() - started, 1)
            seconds = self.kit.seconds(run)
        self.row(
            "tower", seconds, COMPILED_BATCH, dtype="bf16", way=way, least_cosine=self.cosine(found[:16]),
            compile_s=compile_s, **_said(problems),
        )  # fmt: skip

    def laion(self, autocast: bool) -> None:
        """The network of the laion_clap package with its spectrogram, without the projection."""
        try:
            from helpers.clap_reference import laion_audio_config, laion_htsat
        except ImportError:  # a revision of before
            from clap_reference import laion_audio_config, laion_htsat

        if self.kit.small:
            self.kit.emit("laion_clap's tower", skipped="it knows no network of the rehearsal's size")
            return
        branch = laion_htsat().create_htsat_model(laion_audio_config(self.architecture))
        branch, x = branch.eval().to(self.kit.device), self.x[:64]
        with torch.inference_mode(), torch.autocast(self.kit.device, BF16, enabled=autocast):
            seconds = self.kit.seconds(lambda: branch({"waveform": x}, device=self.kit.device), 5, 2)
        self.row("laion_clap's tower", seconds, 64, dtype="bf16" if autocast else "fp32", way="eager")

    def transformers(self, autocast: bool) -> None:
        """The network of transformers from finished spectrograms."""
        from transformers import ClapAudioModelWithProjection

        from pipeline.models.clap.checkpoint import ARCHITECTURES

        if self.kit.small:
            self.kit.emit("transformers' tower", skipped="it would take a rehearsal's whole time")
            return
        shape = ARCHITECTURES[self.architecture]
        config = ClapAudioModelWithProjection.config_class(
            patch_embeds_hidden_size=shape.width,
            depths=list(shape.depths),
            hidden_size=shape.features,
            projection_dim=512,
        )
        model = ClapAudioModelWithProjection(config).eval().to(self.kit.device)
        features = torch.randn(64, 1, 1001, 64, device=self.kit.device)
        with torch.inference_mode(), torch.autocast(self.kit.device, BF16, enabled=autocast):
            seconds = self.kit.seconds(lambda: model(input_features=features), 5, 2)
        dtype = "bf16" if autocast else "fp32"
        self.row("transformers' tower", seconds, 64, dtype=dtype, way="eager", front_end=False)


def _said(problems: list[str]) -> dict[str, Any]:
    return {"problems": problems} if problems else {}


def memory(kit: Kit) -> None:
    """Bytes of weights, and of one more item in a batch, from the peaks of two batch sizes."""
    if kit.cuda:
        free, total = torch.cuda.mem_get_info()
        kit.emit("context", bytes=total - free - torch.cuda.memory_reserved(), with_others=True)
    for architecture in architectures(kit.small):
        checkpoint = random_checkpoint(kit.scratch, architecture)
        for dtype in (F32,) if kit.small else (BF16, F32):
            kit.attempt("memory", lambda c=checkpoint, d=dtype, a=architecture: _clap_memory(kit, a, c, d))
    networks = {"htdemucs": _htdemucs, "spleeter": _spleeter, "openunmix": _openunmix}
    for name, build in networks.items():
        if name == "openunmix" and (kit.small or importlib.util.find_spec("openunmix") is None):
            kit.emit("memory", network=name, skipped="no network so small" if kit.small else "not installed")
            continue
        for amp in (True, False) if name == "htdemucs" and not kit.small else (False,):
            kit.attempt("memory", lambda n=name, b=build, a=amp: _separator_memory(kit, n, b, a))


def _clap_tower(checkpoint: Any, dtype: torch.dtype, device: str) -> Any:
    from pipeline.models.clap.checkpoint import read_checkpoint
    from pipeline.models.clap.tower import AudioTower

    return AudioTower(read_checkpoint(checkpoint), dtype).to(device)


def _clap_memory(kit: Kit, architecture: str, checkpoint: Any, dtype: torch.dtype) -> None:
    tower = _clap_tower(checkpoint, dtype, kit.device)
    if hasattr(tower, "prepare"):
        tower.prepare(64, capture=False)
    x = clips(2 if kit.small else 64, kit.device)
    sizes = (1, 2) if kit.small else (16, 64)
    _emit_memory(kit, architecture, short(dtype), sizes, lambda n: tower(x[:n]), x.nbytes)


def _separator_memory(kit: Kit, name: str, build: Any, amp: bool) -> None:
    backend, size = build(kit, amp)
    sizes = (1, 2) if kit.small else (2, 8) if name == "openunmix" else (4, 16)
    x = 0.1 * torch.randn(max(sizes), 2, size, device=kit.device)
    with torch.inference_mode():
        _emit_memory(kit, name, "bf16" if amp else "fp32", sizes, lambda n: backend.separate(x[:n]), x.nbytes)


def _emit_memory(kit: Kit, network: str, dtype: str, sizes: tuple[int, int], run: Any, inputs: int) -> None:
    peaks = []
    resident = torch.cuda.memory_allocated() - inputs if kit.cuda else None
    for size in sizes:
        run(size)
        kit.sync()
        kit.reset_peak()
        run(size)
        kit.sync()
        peaks.append(kit.peak_bytes())
    per_item = None
    if kit.cuda:
        per_item = (peaks[1] - peaks[0]) // (sizes[1] - sizes[0])
    kit.emit(
        "memory", network=network, dtype=dtype, resident_bytes=resident, bytes_per_item=per_item,
        batches=list(sizes), peak_bytes=peaks,
    )  # fmt: skip


def _htdemucs(kit: Kit, amp: bool) -> tuple[Any, int]:
    from pipeline.models.separation.demucs import Demucs

    model = random_htdemucs(kit.small)
    return Demucs(model, kit.device, amp=amp), int(model.samplerate * model.segment)


def _spleeter(kit: Kit, amp: bool) -> tuple[Any, int]:
    from pipeline.models.separation.spleeter import Spleeter

    backend = Spleeter(random_unets(kit.small), kit.device, "random", amp)
    return backend, next(iter(backend.windows(10**7))).size


def _openunmix(kit: Kit, amp: bool) -> tuple[Any, int]:
    from pipeline.models.separation.openunmix import OpenUnmix

    backend = OpenUnmix(random_umx(), kit.device, "random")
    seconds = 2.0 if kit.small else backend.segment
    return backend, int(seconds * backend.sample_rate)
