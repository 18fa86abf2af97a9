"""What the steps work on: stretches of songs, or of synthetic ones, and networks with random weights.

Random weights say nothing about quality and everything about speed and arithmetic. Every file that holds them has
``random`` in its name.
"""

from __future__ import annotations

import functools
import os
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import numpy as np

RATE = 44100
SONG_SUFFIXES = (".ogg", ".flac", ".wav")
REHEARSAL = "HTSAT-rehearsal"
SOURCES = ["drums", "bass", "other", "vocals"]


@functools.lru_cache(maxsize=4)
def songs(music: Path | None, rate: int, synthetic_s: float = 40.0) -> list[np.ndarray]:
    """Stereo float32 ``[2, samples]`` at ``rate``: the files below ``music``, or three synthetic songs."""
    if music is None:
        return [_synthetic(seed, synthetic_s, rate) for seed in range(3)]
    import soundfile
    import soxr

    found = []
    for path in sorted(p for p in music.rglob("*") if p.suffix.lower() in SONG_SUFFIXES):
        samples, own = soundfile.read(path, dtype="float32", always_2d=True)
        samples = np.repeat(samples, 2, axis=1) if samples.shape[1] == 1 else samples[:, :2]
        found.append(np.ascontiguousarray((samples if own == rate else soxr.resample(samples, own, rate)).T))
    if not found:
        raise SystemExit(f"{music} holds no {', '.join(SONG_SUFFIXES)}: name another folder by --music")
    return found


def _synthetic(seed: int, seconds: float, rate: int) -> np.ndarray:
    from pipeline.audio import synth

    bpm = 96.0 + 12 * seed
    tonic, mode = (("A", "minor"), ("C", "major"), ("F#", "major"))[seed % 3]
    chords = synth.chord_progression(tonic, mode, seconds, rate, bpm=bpm, seed=seed)
    drums = synth.drum_pattern(bpm, seconds, rate, seed)
    voice = synth.voice(seconds, rate, seed=seed)
    return synth.mixture([(chords, 0.5, -0.3), (drums, 0.6, 0.1), (voice, 0.5, 0.4)], drive=0.5 * (seed % 2))


def stretches(
    count: int, seconds: float, rate: int, music: Path | None, stereo: bool = True
) -> list[np.ndarray]:
    """``count`` tracks of ``seconds``: ``[2, samples]``, or ``[samples]`` mono."""
    sources = songs(music, rate, min(40.0, max(4.0, seconds)))
    need, tracks = int(seconds * rate), []
    for number in range(count):
        song = sources[number % len(sources)]
        if song.shape[1] < need:
            song = np.tile(song, (1, need // song.shape[1] + 1))
        start = int(number * 7.3 * rate) % max(1, song.shape[1] - need)
        part = song[:, start : start + need]
        tracks.append(np.ascontiguousarray(part if stereo else part.mean(axis=0)))
    return tracks


def write_corpus(folder: Path, count: int, seconds: float, music: Path | None) -> float:
    """``count`` FLAC files of ``seconds``, no two alike, written by all cores; returns their audio, s."""
    folder.mkdir(parents=True, exist_ok=True)
    workers = min(count, os.cpu_count() or 1)
    parts = [(folder, range(i, count, workers), seconds, music) for i in range(workers)]
    if workers == 1 or count < 8:
        for part in parts:
            _write(part)
    else:
        songs(music, RATE)  # read once, and inherited
        with ProcessPoolExecutor(workers, get_context("fork")) as pool:
            list(pool.map(_write, parts))
    return count * seconds


def _write(part: tuple[Path, range, float, Path | None]) -> None:
    import soundfile

    folder, numbers, seconds, music = part
    sources, need = songs(music, RATE), int(seconds * RATE)
    for number in numbers:
        song = sources[number % len(sources)]
        start = int(number * 7.31 * RATE) % song.shape[1]
        samples = np.take(song, np.arange(start, start + need), axis=1, mode="wrap")
        gain = 0.5 + 0.5 * ((number * 37) % 1009) / 1009
        soundfile.write(folder / f"{number:05d}.flac", (gain * samples).T, RATE, subtype="PCM_16")


def architectures(small: bool) -> tuple[str, ...]:
    """The audio towers that are measured, the main one first; one as small as it gets for a rehearsal."""
    if not small:
        return "HTSAT-base", "HTSAT-tiny"
    from pipeline.models.clap import checkpoint
    from pipeline.models.clap.htsat import HtsatShape

    checkpoint.ARCHITECTURES.setdefault(REHEARSAL, HtsatShape(32, (1, 1, 1, 1)))
    return (REHEARSAL,)


def random_checkpoint(folder: Path, architecture: str) -> Path:
    """A checkpoint in LAION's format, written once.

    Matrices as they are initialised map all sounds to nearly one direction, where nothing can be compared; these
    are larger.
    """
    path = folder / f"random-{architecture}.pt"
    if path.exists():
        return path
    import torch
    from torch import nn

    from pipeline.models.clap.checkpoint import ARCHITECTURES
    from pipeline.models.clap.htsat import Htsat

    shape = ARCHITECTURES[architecture]
    torch.manual_seed(0)
    tower = nn.Module()
    tower.audio_branch = Htsat(shape)
    tower.audio_branch.bn0 = nn.BatchNorm2d(64)
    tower.audio_projection = nn.Sequential(nn.Linear(shape.features, 512), nn.ReLU(), nn.Linear(512, 512))
    with torch.no_grad():
        for name, parameter in tower.audio_branch.named_parameters():
            if name.startswith(("layers.", "patch_embed.")) and parameter.ndim > 1:
                nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
        tower.audio_branch.bn0.running_mean.fill_(-30.0)
        tower.audio_branch.bn0.running_var.fill_(400.0)
    state = {f"module.{name}": value for name, value in tower.state_dict().items()}
    torch.save({"state_dict": state}, path)
    return path


def random_htdemucs(small: bool, seed: int = 0):
    """htdemucs as published, or one of few channels and windows of 2 s."""
    import torch
    from demucs.htdemucs import HTDemucs

    torch.manual_seed(seed)
    if small:
        sizes = {"channels": 8, "nfft": 2048, "t_layers": 1, "t_heads": 2, "bottom_channels": 0}
        return HTDemucs(SOURCES, segment=Fraction(2), **sizes).eval()
    return HTDemucs(SOURCES, bottom_channels=512, segment=Fraction(39, 5)).eval()


def random_unets(small: bool):
    """Spleeter's two U-Nets, or two of two levels."""
    import torch

    from pipeline.models.separation.spleeter import UNet

    torch.manual_seed(0)
    return [UNet((2, 4)) if small else UNet() for _ in range(2)]


def random_repository(folder: Path, small: bool) -> Path:
    """A folder for ``separation.demucs_repo`` with one model, ``random``."""
    repository = folder / "random-demucs"
    if not (repository / "random.th").exists():
        import torch

        repository.mkdir(parents=True, exist_ok=True)
        model = random_htdemucs(small)
        args, kwargs = model._init_args_kwargs
        content = {"klass": type(model), "args": args, "kwargs": kwargs, "state": model.state_dict()}
        torch.save(content, repository / "random.th")
    return repository


def random_umx():
    """Open-Unmix's ``umxhq`` shape: four targets of 512 units."""
    import torch
    from openunmix.model import OpenUnmix, Separator

    torch.manual_seed(0)
    targets = {
        name: OpenUnmix(nb_bins=2049, nb_channels=2, hidden_size=512, max_bin=1487) for name in SOURCES
    }
    return Separator(targets, niter=1, n_fft=4096, n_hop=1024, nb_channels=2, wiener_win_len=300)
