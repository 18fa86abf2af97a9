"""One peer of `benchmarks/features.py` in a process of its own.

    python benchmarks/feature_peers.py librosa < list_of_wav_paths

A path per line comes in; the seconds of each of the peer's steps go out, a line of JSON each.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import soundfile

DSP_RATE = 22050

Track = dict[str, Any]
Steps = dict[str, Callable[[Track], object]]


def load(path: str) -> Track:
    """The excerpt at ``path`` in the forms the peers read."""
    from pipeline.audio.resample import make_view

    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    native = np.ascontiguousarray(samples.T)
    return {"path": path, "native": native, "rate": rate, "mono": make_view(native, rate, DSP_RATE, 1)[0]}


def soundmill_steps() -> Steps:
    """All registered extractors: together on one `SharedSpectra`, and each alone on its own."""
    import torch

    from pipeline.features import REGISTRY
    from pipeline.features.spectra import SharedSpectra

    torch.set_num_threads(1)

    def spectra(track: Track) -> SharedSpectra:
        return SharedSpectra(track["mono"], DSP_RATE, track["native"], track["rate"])

    def together(track: Track) -> None:
        track["shared"] = spectra(track)

    def shared(name: str) -> Callable[[Track], object]:
        return lambda track: REGISTRY[name]().extract(track["shared"])

    def alone(name: str) -> Callable[[Track], object]:
        return lambda track: REGISTRY[name]().extract(spectra(track))

    # The order of the registry: the first to ask for a spectrum pays for it.
    steps: Steps = {"": together}
    steps.update({name: shared(name) for name in REGISTRY})
    steps.update({f"alone {name}": alone(name) for name in REGISTRY})
    return steps


def librosa_steps() -> Steps:
    """What a straight script calls, with librosa's defaults; loudness by pyloudnorm."""
    import librosa
    import pyloudnorm

    def on_mono(function: Callable[..., object], **parameters: object) -> Callable[[Track], object]:
        return lambda track: function(y=track["mono"], **parameters)

    def mel(track: Track) -> object:
        power = librosa.feature.melspectrogram(y=track["mono"], sr=DSP_RATE)
        return librosa.power_to_db(power)

    def loudness(track: Track) -> object:
        return pyloudnorm.Meter(track["rate"]).integrated_loudness(track["native"].T)

    rate = {"sr": DSP_RATE}
    return {
        "mel": mel,
        "mfcc": on_mono(librosa.feature.mfcc, n_mfcc=20, **rate),
        "chroma_stft": on_mono(librosa.feature.chroma_stft, **rate),
        "chroma_cqt": on_mono(librosa.feature.chroma_cqt, **rate),
        "tuning": on_mono(librosa.estimate_tuning, **rate),
        "hpss": on_mono(librosa.effects.hpss),
        "loudness": loudness,
        "rms": on_mono(librosa.feature.rms),
        "beat_track": on_mono(librosa.beat.beat_track, **rate),
        "onset": on_mono(librosa.onset.onset_strength, **rate),
        "centroid": on_mono(librosa.feature.spectral_centroid, **rate),
        "contrast": on_mono(librosa.feature.spectral_contrast, **rate),
    }


def essentia_steps() -> Steps:
    """MusicExtractor with its default statistics."""
    import essentia
    import essentia.standard

    essentia.log.infoActive = essentia.log.warningActive = False
    extractor = essentia.standard.MusicExtractor()
    return {"MusicExtractor": lambda track: extractor(track["path"])}


def opensmile_steps() -> Steps:
    """Functionals of eGeMAPS."""
    import opensmile

    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    return {"eGeMAPS": lambda track: smile.process_signal(track["mono"], DSP_RATE)}


def torchaudio_steps() -> Steps:
    """The transforms that have a counterpart here."""
    import torch
    from torchaudio import transforms

    torch.set_num_threads(1)
    slaney = {"n_mels": 128, "norm": "slaney", "mel_scale": "slaney"}
    mel = transforms.MelSpectrogram(DSP_RATE, 2048, hop_length=512, pad_mode="constant", **slaney)
    mfcc = transforms.MFCC(DSP_RATE, 20, melkwargs={"n_fft": 2048, "hop_length": 512, **slaney})
    decibels = transforms.AmplitudeToDB()
    return {
        "mel": lambda track: decibels(mel(torch.from_numpy(track["mono"]))),
        "mfcc": lambda track: mfcc(torch.from_numpy(track["mono"])),
    }


STEPS: dict[str, Callable[[], Steps]] = {
    "soundmill": soundmill_steps,
    "librosa": librosa_steps,
    "essentia": essentia_steps,
    "opensmile": opensmile_steps,
    "torchaudio": torchaudio_steps,
}


def serve(peer: str) -> None:
    """Answer until there are no more paths. A first, empty answer says that all is imported."""
    # Libraries print to standard output; the answers keep it for themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    steps = STEPS[peer]()
    tracks: dict[str, Track] = {}
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        path = line.strip()
        if path not in tracks:
            tracks[path] = load(path)
        track = tracks[path]
        times = {}
        for name, step in steps.items():
            start = time.perf_counter()
            step(track)
            times[name] = time.perf_counter() - start
        track.pop("shared", None)
        print(json.dumps(times), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
