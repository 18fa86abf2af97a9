"""The contenders of `truth.py`: what each makes of a file, as plain numbers.

A contender is a function of the audio at 44.1 kHz that answers some of: ``tempo`` (1/min), ``tempo_confidence``,
``beats`` and ``downbeats`` (s), ``meter``, ``onsets`` (s), ``key`` (such as ``F# minor``), ``key_confidence`` and
``cents``. What it answers not, it is not judged by. Essentia is AGPL and a peer only. `install` makes the virtual
environment that holds what only the benchmark needs: pretty_midi and music21 for the sets, mir_eval for the meters.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REPO = Path(__file__).resolve().parents[1]
RATE, OUR_RATE = 44100, 22050
PACKAGES = ("pretty_midi==0.2.11.post0", "mir_eval==0.8.2", "music21==10.5.1")
PROFILES = ("bgate", "braw", "edma", "edmm", "krumhansl", "temperley", "shaath", "gomez", "noland",
            "temperley2005", "diatonic", "thpcp", "tonictriad")  # fmt: skip
"""Of Essentia's KeyExtractor; its weichai knows no minor keys."""
_FLATS = {"Db": "C#", "Eb": "D#", "Gb": "F#", "Ab": "G#", "Bb": "A#"}

Answer = dict[str, Any]
Contender = Callable[[np.ndarray], Answer]


def install(folder: Path) -> str:
    """The Python of the virtual environment, which is made where it is not there.

    Raises:
        subprocess.CalledProcessError: it cannot be; pip has said why.
    """
    python, told = folder / "bin" / "python", folder / "installed.txt"
    if not told.is_file() or told.read_text() != "\n".join(PACKAGES):
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)  # noqa: S603
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)  # noqa: S603
        told.write_text("\n".join(PACKAGES))
    return str(python)


def _times(values: Any) -> list[float]:
    return [round(float(v), 4) for v in values]


def _essentia() -> Any:
    import essentia

    essentia.log.infoActive = False
    essentia.log.warningActive = False
    import essentia.standard

    return essentia.standard


def rhythm_2013(method: str) -> Contender:
    """Essentia's RhythmExtractor2013; only multifeature has a confidence, of 0 to 5.32."""

    def answer(audio: np.ndarray) -> Answer:
        bpm, beats, confidence, _, _ = _essentia().RhythmExtractor2013(method=method)(audio)
        found = {"tempo": float(bpm), "beats": _times(beats)}
        return found | ({"tempo_confidence": float(confidence)} if method == "multifeature" else {})

    return answer


def percival(audio: np.ndarray) -> Answer:
    """Essentia's PercivalBpmEstimator."""
    return {"tempo": float(_essentia().PercivalBpmEstimator()(audio))}


def key_extractor(profile: str) -> Contender:
    """Essentia's KeyExtractor at its defaults but for the profile; its strength is the confidence."""

    def answer(audio: np.ndarray) -> Answer:
        tonic, mode, strength = _essentia().KeyExtractor(profileType=profile, sampleRate=RATE)(audio)
        return {"key": f"{_FLATS.get(tonic, tonic)} {mode}", "key_confidence": float(strength)}

    return answer


def essentia_onsets(audio: np.ndarray) -> Answer:
    """Essentia's OnsetRate."""
    onsets, _ = _essentia().OnsetRate()(audio)
    return {"onsets": _times(onsets)}


def essentia_tuning(audio: np.ndarray) -> Answer:
    """Essentia's TuningFrequency after its spectral peaks; what it says after the last frame."""
    es = _essentia()
    window, spectrum = es.Windowing(type="blackmanharris62"), es.Spectrum()
    peaks = es.SpectralPeaks(maxPeaks=60, minFrequency=40, maxFrequency=5000, orderBy="magnitude")
    tuning, cents = es.TuningFrequency(), 0.0
    for frame in es.FrameGenerator(audio, frameSize=4096, hopSize=2048):
        frequencies, magnitudes = peaks(spectrum(window(frame)))
        if len(frequencies):
            _, cents = tuning(frequencies, magnitudes)
    return {"cents": float(cents)}


def _at_22050(audio: np.ndarray) -> np.ndarray:
    import soxr

    return soxr.resample(audio, RATE, OUR_RATE)


def librosa_beats(audio: np.ndarray) -> Answer:
    """librosa's beat_track."""
    import librosa

    tempo, beats = librosa.beat.beat_track(y=_at_22050(audio), sr=OUR_RATE, units="time")
    return {"tempo": float(np.atleast_1d(tempo)[0]), "beats": _times(beats)}


def librosa_onsets(audio: np.ndarray) -> Answer:
    """librosa's onset_detect."""
    import librosa

    return {"onsets": _times(librosa.onset.onset_detect(y=_at_22050(audio), sr=OUR_RATE, units="time"))}


def librosa_tuning(audio: np.ndarray) -> Answer:
    """librosa's estimate_tuning."""
    import librosa

    return {"cents": 100.0 * float(librosa.estimate_tuning(y=_at_22050(audio), sr=OUR_RATE))}


def _spectra(audio: np.ndarray) -> Any:
    sys.path.insert(0, str(REPO))
    import torch

    from pipeline.audio.resample import make_view
    from pipeline.features.spectra import SharedSpectra

    torch.set_num_threads(1)
    return SharedSpectra(make_view(audio[None], RATE, OUR_RATE, 1)[0], OUR_RATE, audio[None], RATE)


def _extracted(extractor: str, audio: np.ndarray) -> dict[str, Any]:
    spectra = _spectra(audio)
    from pipeline.features import REGISTRY

    return REGISTRY[extractor]().extract(spectra).values


def our_tempo(audio: np.ndarray) -> Answer:
    """The tempo extractor at its defaults."""
    found = _extracted("tempo", audio)
    beats = found["tempo_beats_s"]
    return {"tempo": found["tempo_bpm"], "tempo_confidence": found["tempo_confidence"],
            "beats": _times(() if beats is None else beats)}  # fmt: skip


def our_key(audio: np.ndarray) -> Answer:
    """The key extractor at its defaults."""
    found = _extracted("key", audio)
    key = f"{found['key_name']} {found['key_mode']}" if found["key_name"] else None
    return {"key": key, "key_confidence": found["key_confidence"], "key_evidence": found["key_evidence"]}


def our_tuning(audio: np.ndarray) -> Answer:
    """The tuning that the chroma extractor tells."""
    tuning = _extracted("chroma", audio)["chroma_tuning"]
    return {"cents": None if tuning is None else 100.0 * tuning}


def our_onsets(audio: np.ndarray) -> Answer:
    """The onsets that ``onset_rate_hz`` counts."""
    spectra = _spectra(audio)
    from pipeline.dsp.onsets import OnsetCurve, note_onsets

    curve, hop = OnsetCurve(2048, 512), 512
    curve.add(spectra.rises(2048, hop, 128))
    return {"onsets": _times(note_onsets(curve.strength(), OUR_RATE / hop))}


def our_beats(audio: np.ndarray) -> Answer:
    """The trained tracker of the project."""
    sys.path.insert(0, str(REPO))
    from pipeline.models.beats import track_beats

    found = track_beats(audio, RATE)
    return {
        "tempo": found.bpm, "tempo_confidence": found.bpm_confidence, "beats": _times(found.beats),
        "downbeats": _times(found.downbeats), "meter": found.meter,
    }  # fmt: skip


CONTENDERS: dict[str, dict[str, Contender]] = {
    "beats": {
        "ours, tempo": our_tempo,
        "ours, beats": our_beats,
        "librosa": librosa_beats,
        "Essentia multifeature": rhythm_2013("multifeature"),
        "Essentia degara": rhythm_2013("degara"),
        "Essentia Percival": percival,
    },
    "key": {"ours": our_key} | {f"Essentia {profile}": key_extractor(profile) for profile in PROFILES},
    "onsets": {"ours": our_onsets, "librosa": librosa_onsets, "Essentia OnsetRate": essentia_onsets},
    "tuning": {"ours": our_tuning, "librosa": librosa_tuning, "Essentia TuningFrequency": essentia_tuning},
}
"""Subject → name → contender. Names of the project's begin with ``ours``."""


def there(name: str) -> bool:
    """Whether the project has what a contender of that name needs."""
    return name != "ours, beats" or (REPO / "pipeline" / "models" / "beats" / "__init__.py").is_file()
