"""The dataset of ``make demo``: a dozen short synthetic tracks whose key, tempo and loudness are known."""

from __future__ import annotations

import dataclasses
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import numpy as np

from pipeline.audio import synth
from pipeline.audio.encode import encode
from pipeline.audio.resample import resample

GENERATOR = "soundmill-demo-1"
"""Raised whenever a track would come out differently; older folders are then written anew."""

TRUTH = "truth.json"
MAX_TRUE_PEAK_DBTP = -1.0


@dataclass(frozen=True)
class DemoTrack:
    """One track, and what is true of it.

    Args:
        name: file name.
        content: ``chords``, ``drums``, ``band`` (both), ``voice`` or ``song`` (voice over a band).
        container: as `pipeline.audio.decode.Decoded.container` will say.
        sample_rate: Hz.
        channels: 1 or 2.
        lufs: integrated loudness before encoding, LUFS (ITU-R BS.1770-4).
        key: such as ``F# major``; None without chords.
        tempo_bpm: beats per minute; None without drums.
        seconds: duration before encoding.
    """

    name: str
    content: str
    container: str
    sample_rate: int
    channels: int
    _: KW_ONLY
    lufs: float
    key: str | None = None
    tempo_bpm: float | None = None
    seconds: float = 20.0


# Levels leave every true peak below -1 dBTP; what is percussive must be quieter for that.
TRACKS = (
    DemoTrack("chords_c_major.wav", "chords", "wav", 44100, 2, lufs=-16.0, key="C major"),
    DemoTrack("chords_a_minor.ogg", "chords", "ogg", 22050, 1, lufs=-20.0, key="A minor"),
    DemoTrack("chords_f_sharp_major.m4a", "chords", "m4a", 48000, 2, lufs=-18.0, key="F# major"),
    DemoTrack("drums_120.wav", "drums", "wav", 48000, 2, lufs=-20.0, key=None, tempo_bpm=120.0),
    DemoTrack("drums_90.flac", "drums", "flac", 44100, 1, lufs=-23.0, key=None, tempo_bpm=90.0),
    DemoTrack("band_g_major_100.mp3", "band", "mp3", 44100, 2, lufs=-18.0, key="G major", tempo_bpm=100.0),
    DemoTrack("band_d_minor_140.ogg", "band", "ogg", 48000, 2, lufs=-19.0, key="D minor", tempo_bpm=140.0),
    DemoTrack(
        "band_e_minor_110_loud.flac", "band", "flac", 44100, 2, lufs=-9.0, key="E minor", tempo_bpm=110.0
    ),
    DemoTrack("song_a_major_96.flac", "song", "flac", 44100, 2, lufs=-18.0, key="A major", tempo_bpm=96.0),
    DemoTrack("song_b_minor_128.m4a", "song", "m4a", 44100, 2, lufs=-19.0, key="B minor", tempo_bpm=128.0),
    DemoTrack("voice_16k.wav", "voice", "wav", 16000, 1, lufs=-23.0),
    DemoTrack("voice_8k.wav", "voice", "wav", 8000, 1, lufs=-23.0),
)


def write_demo(folder: Path, seconds: float = 20.0) -> list[DemoTrack]:
    """Write the demo tracks and ``truth.json`` into ``folder``, unless they are there already.

    Args:
        folder: created if needed; other files in it are left alone.
        seconds: length of each track, at least 1.

    Returns:
        the tracks, in the order of ``truth.json``.

    Raises:
        ValueError: ``seconds`` is below 1.
    """
    if seconds < 1:
        raise ValueError(f"demo tracks last at least 1 s, not {seconds:g}")
    tracks = [dataclasses.replace(track, seconds=float(seconds)) for track in TRACKS]
    truth = {
        "generator": GENERATOR,
        "seconds": float(seconds),
        "tracks": [dataclasses.asdict(track) for track in tracks],
    }
    path = folder / TRUTH
    if all((folder / track.name).is_file() for track in tracks) and _read(path) == truth:
        return tracks
    folder.mkdir(parents=True, exist_ok=True)
    # Removed first and written last, so that an interrupted run is not taken for a complete one.
    path.unlink(missing_ok=True)

    def write(seed: int, track: DemoTrack) -> None:
        data = encode(render(track, seed), track.sample_rate, track.name.rpartition(".")[2])
        (folder / track.name).write_bytes(data)

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # numpy and the encoders let go of the interpreter
        list(threads.map(write, range(len(tracks)), tracks))
    path.write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
    return tracks


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def render(track: DemoTrack, seed: int) -> np.ndarray:
    """The samples of ``track``: float32 ``[channels, samples]`` at its loudness.

    Raises:
        ValueError: its true peak would exceed -1 dBTP at that loudness.
    """
    parts = _parts(track, seed)
    # Drums alone, and what is to be loud, need some density: level alone would push peaks over full scale.
    drive = 4.0 if track.lufs > -12 else 1.5 if track.content == "drums" else 0.0
    mix = synth.mixture(parts, drive)
    mix = mix if track.channels == 2 else mix.mean(axis=0, keepdims=True)
    samples = synth.normalize_lufs(mix, track.sample_rate, track.lufs)
    peak = 20 * np.log10(np.abs(resample(samples, track.sample_rate, 4 * track.sample_rate)).max())
    if peak > MAX_TRUE_PEAK_DBTP:
        raise ValueError(f"{track.name}: {peak:.1f} dBTP at {track.lufs} LUFS")
    return samples


def _parts(track: DemoTrack, seed: int) -> list[tuple[np.ndarray, float, float]]:
    """(signal, gain, position) of what ``track`` is made of."""
    seconds, rate = track.seconds, track.sample_rate
    tonic, _, mode = (track.key or "").partition(" ")
    bpm = track.tempo_bpm or 120.0
    parts = []
    if track.key:
        # Two renderings with other phases, left and right of the centre, make a wide but mono-safe pair.
        for offset, position in ((0, -0.5), (100, 0.5)):
            chords = synth.chord_progression(tonic, mode, seconds, rate, bpm=bpm, seed=seed + offset)
            parts.append((chords, 0.5, position))
    if track.tempo_bpm:
        parts.append((synth.drum_pattern(bpm, seconds, rate, seed), 0.7, 0.0))
    if track.content in ("voice", "song"):
        parts.append((synth.voice(seconds, rate, _melody(tonic, mode), seed), 1.0, 0.0))
    return parts


def _melody(tonic: str, mode: str) -> list[float] | None:
    """The notes of the tonic triad from A2 on; None (a speaking voice) without a key."""
    if not tonic:
        return None
    root = synth.PITCH_CLASSES.index(tonic)
    notes = sorted((root + step) % 12 for step in (0, 4 if mode == "major" else 3, 7))
    return [synth.pitch_hz(note, 2 if note >= 9 else 3) for note in notes]
