"""The GPU stages' own calls, from arrays in memory: embed, separation, oom.

They run with the project before and after the samples went to the card: where a call changed, both ways are tried.
"""

from __future__ import annotations

import importlib.util
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from inputs import (
    RATE,
    architectures,
    random_checkpoint,
    random_htdemucs,
    random_umx,
    random_unets,
    stretches,
)
from kit import Kit

CLAP_RATE = 48000
THREADS, TRACKS_EACH = 8, 3


def embed(kit: Kit) -> None:
    """`ClapEmbedder.embed_tracks`: windows of 10 s every 5 s."""
    count, seconds = (6, 2.0) if kit.small else (48, 60.0)
    tracks = stretches(count, seconds, CLAP_RATE, kit.music, stereo=False)
    for place, architecture in enumerate(architectures(kit.small)):
        for batch_s in (20,) if kit.small else (160, 640, 1280) if place == 0 else (640,):
            kit.attempt(
                "embed_tracks", lambda a=architecture, b=batch_s: _embed(kit, a, tracks, b), needs_s=2
            )


def _embedder(kit: Kit, architecture: str, batch_s: float) -> Any:
    from pipeline.models.clap.embed import ClapEmbedder

    checkpoint = random_checkpoint(kit.scratch, architecture)
    return ClapEmbedder(
        checkpoint, kit.device, "auto", max_batch_audio_seconds=batch_s, window_seconds=10.0, hop_seconds=5.0
    )


def _embed(kit: Kit, architecture: str, tracks: Sequence[np.ndarray], batch_s: float) -> None:
    embedder = _embedder(kit, architecture, batch_s)
    warm_s, _ = kit.once(embedder.warm_up)
    embedder.embed_tracks(tracks[:2])
    audio = sum(map(len, tracks)) / CLAP_RATE
    about = {"network": architecture, "backend": embedder.backend, "batch_s": batch_s}
    kit.reset_peak()
    found = []

    def one_thread() -> None:
        found[:] = embedder.embed_tracks(tracks)[0]

    wall = min(kit.once(one_thread)[0] for _ in range(1 if kit.small else 3))
    windows = _windows(found)
    kit.emit(
        "embed_tracks", **about, threads=1, windows=windows, wall_s=round(wall, 4), warm_up_s=round(warm_s, 2),
        window_audio_s_per_s=round(10 * windows / wall), track_audio_s_per_s=round(audio / wall),
        ms_per_window=round(1e3 * wall / windows, 3), peak_bytes=kit.peak_bytes(),
        least_cosine=_cosine_to_float32(kit, embedder, tracks[0], found[0]), **_spent(embedder),
    )  # fmt: skip
    if not hasattr(embedder, "pool"):
        about["one_call_at_a_time"] = True
    rounds = 1 if kit.small else 4
    wall, found = kit.once(lambda: _from_threads(embedder, list(tracks) * rounds))
    windows = _windows(found)
    kit.emit(
        "embed_tracks", **about, threads=THREADS, tracks_each=TRACKS_EACH, windows=windows, wall_s=round(wall, 4),
        window_audio_s_per_s=round(10 * windows / wall), track_audio_s_per_s=round(rounds * audio / wall),
        ms_per_window=round(1e3 * wall / windows, 3), peak_bytes=kit.peak_bytes(), **_spent(embedder),
    )  # fmt: skip


def _windows(results: Sequence[Any]) -> int:
    for result in results:
        if result.error is not None:
            raise result.error
    return sum(window.embedding is not None for result in results for window in result.windows)


def _spent(embedder: Any) -> dict[str, float]:
    """What the embedder says of its seconds so far, where it does."""
    pool = getattr(embedder, "pool", None)
    return {k: round(v, 3) for k, v in pool.spent().items()} if hasattr(pool, "spent") else {}


def _from_threads(embedder: Any, tracks: Sequence[np.ndarray]) -> list[Any]:
    """The results of `THREADS` threads that each embed a few tracks at a time, as blocks come to a Ray actor."""
    calls: queue.SimpleQueue[Sequence[np.ndarray]] = queue.SimpleQueue()
    for start in range(0, len(tracks), TRACKS_EACH):
        calls.put(tracks[start : start + TRACKS_EACH])
    guard = nullcontext() if hasattr(embedder, "pool") else threading.Lock()
    results: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                some = calls.get_nowait()
                with guard:
                    found = embedder.embed_tracks(some)[0]
                results.extend(found)
        except queue.Empty:
            return
        except BaseException as error:  # noqa: BLE001  raised again in the main thread
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def _cosine_to_float32(kit: Kit, embedder: Any, track: np.ndarray, found: Any) -> float:
    """Least cosine to windows that are cut here, one by one, and embedded in float32."""
    from pipeline.models.clap.checkpoint import read_checkpoint
    from pipeline.models.clap.tower import AudioTower

    tower = AudioTower(read_checkpoint(embedder.info.path)).to(kit.device)
    least = 1.0
    for window in found.windows:
        if window.embedding is None:
            continue
        part = track[round(window.start_s * CLAP_RATE) : round(window.end_s * CLAP_RATE)]
        steps = np.trunc(np.clip(part, -1, 1) * np.float32(32767)) / np.float32(32767)
        clip = np.tile(steps, 480000 // len(steps))
        clip = np.pad(clip, (0, 480000 - len(clip))).astype(np.float32)
        exact = tower(torch.from_numpy(clip)[None].to(kit.device))[0].cpu().numpy()
        least = min(least, float(exact @ window.embedding))
    return round(least, 6)


def separation(kit: Kit) -> None:
    """htdemucs, Spleeter, Open-Unmix: the network, the stage's stream, and demucs's own function."""
    count, seconds = (1, 3.0) if kit.small else (8, 60.0)
    tracks = stretches(count, seconds, RATE, kit.music)
    kit.attempt("htdemucs", lambda: _htdemucs(kit, tracks))
    kit.attempt("spleeter", lambda: _spleeter(kit, tracks), needs_s=5)
    kit.attempt("openunmix", lambda: _openunmix(kit, tracks), needs_s=5)


def _htdemucs(kit: Kit, tracks: Sequence[np.ndarray]) -> None:
    from pipeline.models.separation.demucs import Demucs

    # Two with the same weights: ours may give the network's modules other forwards.
    model, theirs = random_htdemucs(kit.small), random_htdemucs(kit.small)
    few = tracks[:1] if kit.small else tracks[:2]
    exact: list[np.ndarray] = []

    def peer(autocast: bool) -> None:
        run = lambda: [_apply_model(theirs, track, kit.device, autocast) for track in few]  # noqa: E731
        _apply_model(theirs, few[0][:, : 8 * RATE], kit.device, autocast)
        wall, found = kit.once(run)
        if not exact:
            exact.extend(found)
        name = "bf16" if autocast else "fp32"
        kit.emit(
            "htdemucs by apply_model", dtype=name, wall_s=round(wall, 2), times_real_time=_rate(few, wall)
        )

    for autocast in (False,) if kit.small else (False, True):
        kit.attempt("htdemucs by apply_model", lambda a=autocast: peer(a))
    size = int(model.samplerate * model.segment)
    plain = ((False, (2,)),)
    for amp, batches in plain if kit.small else ((False, (16,)), (True, (4, 8, 16, 32))):
        for batch in batches:
            backend = Demucs(model, kit.device, amp=amp)
            backend.batch_items = batch
            kit.attempt("htdemucs network", lambda b=backend: _network(kit, "htdemucs", b, size))
    for amp, batches in plain if kit.small else ((False, (16,)), (True, (16, 32))):
        for batch in batches:
            backend = Demucs(model, kit.device, amp=amp)
            backend.batch_items = batch
            work = lambda b=backend: _streams(kit, "htdemucs", b, tracks, exact)  # noqa: E731
            kit.attempt("htdemucs stream", work, needs_s=4)


def _apply_model(model: Any, track: np.ndarray, device: str, autocast: bool) -> np.ndarray:
    """What `demucs.api.Separator` does: the track at mean 0 and deviation 1 through `apply_model`, and back."""
    from demucs.apply import apply_model

    mix = torch.from_numpy(track)
    mono = mix.mean(0)
    mean, scale = mono.mean(), mono.std() + 1e-8
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=autocast):
        stems = apply_model(model, ((mix - mean) / scale)[None], shifts=0, overlap=0.25, device=device)
    return (stems.float().cpu() * scale + mean)[0].numpy()


def _network(kit: Kit, name: str, backend: Any, size: int) -> None:
    batch, seconds = backend.batch_items, size / backend.sample_rate
    x = 0.1 * torch.randn(batch, 2, size, device=kit.device)
    kit.reset_peak()
    with torch.inference_mode():
        taken = kit.seconds(lambda: backend.separate(x), 5, 2)
    kit.emit(
        f"{name} network", dtype=_dtype(backend), batch=batch, ms_per_batch=round(1e3 * taken, 2),
        window_s_per_s=round(seconds * batch / taken, 1),
        times_real_time=round(_new_audio(backend, size) * batch / taken, 1),
        peak_bytes=kit.peak_bytes(), **({"plain_because": backend.plain} if getattr(backend, "plain", "") else {}),
    )  # fmt: skip


def _new_audio(backend: Any, size: int) -> float:
    """Seconds by which one full window gets on in a long track."""
    first, second = (w.offset for _, w in zip(range(2), backend.windows(20 * size), strict=False))
    return (second - first) / backend.sample_rate


def _dtype(backend: Any) -> str:
    return "bf16" if backend.amp else "fp32"


def _rate(tracks: Sequence[np.ndarray], wall: float) -> float:
    return round(sum(t.shape[1] for t in tracks) / RATE / wall, 1)


def _streams(
    kit: Kit, name: str, backend: Any, tracks: Sequence[np.ndarray], exact: Sequence[np.ndarray]
) -> None:
    """`SeparationStream` with statistics only, and with all stems to the host."""
    batch = backend.batch_items
    pool = _pool(backend)
    for to_host in (False, True):
        host = _Host() if to_host else None
        run = lambda h=host: _stream(backend, pool, tracks, h)  # noqa: E731
        if not kit.small:
            run()
        kit.reset_peak()
        wall = min(kit.once(run)[0] for _ in range(1 if kit.small else 2))
        more = {}
        if host is not None and exact:
            from pipeline.audio.metrics import si_sdr

            pairs = zip(host.stems(len(exact)), exact, strict=True)
            more["si_sdr_to_apply_model_db"] = round(
                float(min(si_sdr(f, g) for ours, theirs in pairs for f, g in zip(ours, theirs, strict=True))),
                1,
            )
        kit.emit(
            f"{name} stream", dtype=_dtype(backend), batch=batch, stems_to_host=to_host, wall_s=round(wall, 3),
            times_real_time=_rate(tracks, wall), peak_bytes=kit.peak_bytes(), **more,
        )  # fmt: skip


class _Host:
    """Blocks of stems on their way to the host, through pinned memory where there is a card."""

    def __init__(self) -> None:
        self.blocks: dict[int, list[Callable[[], np.ndarray]]] = {}

    def clear(self) -> None:
        self.blocks.clear()

    def take(self, track: int, block: Any) -> None:
        if not isinstance(block, np.ndarray):
            try:
                from pipeline.models.transfer import Download
            except ImportError:
                block = block.cpu().numpy()
            else:
                self.blocks.setdefault(track, []).append(Download(block).result)
                return
        self.blocks.setdefault(track, []).append(lambda: block)

    def wait(self) -> None:
        for parts in self.blocks.values():
            for part in parts:
                part()

    def stems(self, count: int) -> list[np.ndarray]:
        return [np.concatenate([part() for part in self.blocks[n]], axis=-1) for n in range(count)]


def _pool(backend: Any) -> Any:
    """What the stage keeps between its tables: cuDNN plans anew for every thread that launches."""
    try:
        from pipeline.models.separation import SeparationPool
    except ImportError:
        return backend
    return SeparationPool(backend)


def _stream(backend: Any, pool: Any, tracks: Sequence[np.ndarray], host: _Host | None) -> None:
    """The stage's loop: pieces of each track into its sums, and on to the host where wanted."""
    from pipeline.audio.reader import ArrayReader
    from pipeline.models.separation import SeparationStream, StemFold

    folds: dict[int, Any] = {}
    if host is not None:
        host.clear()
    for piece in SeparationStream(pool, [ArrayReader(track) for track in tracks]):
        if piece.error is not None:
            raise piece.error
        fold = folds.setdefault(piece.track, StemFold(backend.sources))
        if piece.block is not None:
            fold.add(piece.block)
            if host is not None:
                host.take(piece.track, piece.block)
        if piece.done:
            fold.statistics()
    if host is not None:
        host.wait()


def _spleeter(kit: Kit, tracks: Sequence[np.ndarray]) -> None:
    from pipeline.models.separation.spleeter import Spleeter

    for amp, batches in ((False, (1,)),) if kit.small else ((False, (8, 16, 32)), (True, (16,))):
        for batch in batches:
            backend = Spleeter(random_unets(kit.small), kit.device, "random", amp)
            backend.batch_items = batch
            size = next(iter(backend.windows(10**7))).size
            kit.attempt("spleeter network", lambda b=backend, s=size: _network(kit, "spleeter", b, s))
            if batch == 16 or kit.small:
                kit.attempt("spleeter stream", lambda b=backend: _streams(kit, "spleeter", b, tracks, ()))


def _openunmix(kit: Kit, tracks: Sequence[np.ndarray]) -> None:
    from pipeline.models.separation.openunmix import OpenUnmix

    if kit.small or importlib.util.find_spec("openunmix") is None:
        kit.emit("openunmix", skipped="no network so small" if kit.small else "not installed")
        return
    backend = OpenUnmix(random_umx(), kit.device, "random")
    size = int(backend.segment * backend.sample_rate)
    kit.attempt("openunmix network", lambda: _network(kit, "openunmix", backend, size))
    kit.attempt("openunmix stream", lambda: _streams(kit, "openunmix", backend, tracks, ()))


def oom(kit: Kit) -> None:
    """A batch of 10,000 clips where 3 GiB are allowed: the same embeddings, in batches that fit, and on record."""
    from pipeline.models.batching import FITS

    tracks = stretches(16, 60.0, CLAP_RATE, kit.music, stereo=False)
    architecture = architectures(kit.small)[0]
    wanted = [
        result.aggregate("mean") for result in _embedder(kit, architecture, 160).embed_tracks(tracks)[0]
    ]
    FITS.clear()
    kit.free()
    limit = 3 * 2**30 / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(limit)
    started = time.perf_counter()
    embedder = _embedder(kit, architecture, 1e5)
    embedder.warm_up()
    results, report = embedder.embed_tracks(tracks)
    steps = {str(step) for result in results for step in getattr(result, "fallbacks", ())}
    if hasattr(embedder, "take_fallbacks"):
        steps |= {str(step) for step in embedder.take_fallbacks()}
    cosines = [
        float(r.aggregate("mean") @ w) for r, w in zip(results, wanted, strict=True) if r.error is None
    ]
    kit.emit(
        "absurd batch", limit_bytes=3 * 2**30, failed=sum(r.error is not None for r in results),
        least_cosine=round(min(cosines, default=0.0), 6), batches=[b.items for b in report.batches][:8],
        fallbacks=sorted(steps)[:4], wall_s=round(time.perf_counter() - started, 1),
    )  # fmt: skip
