"""The score of a karaoke instrumental, without a reference: how much voice is left, and how much else was harmed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from pipeline.audio.reader import ArrayReader, AudioReader
from pipeline.karaoke.calibration import NO_JUDGE, Calibration, calibration
from pipeline.karaoke.evidence import Evidence, Judge, gather

HALF_MARKS_DB = 8.0
DB_PER_STEP = 4.0
NOTHING_LEFT_DB = -40.0
NEEDS_STEREO = "midside"
"""The method that has nothing to go by in mono."""


@dataclass(frozen=True)
class Score:
    """The columns of an instrumental.

    The first seven are null where there is no voice to remove, where the mix is silent, and for the method
    ``midside`` on a mono track.

    Args:
        karaoke_predicted_sdr_db: SI-SDR (Le Roux et al. 2019) of the instrumental against the true backing, as
            predicted from evidence, dB, -20 to 20: what is beyond counts as the bound.
        karaoke_predicted_sdr_db_low, karaoke_predicted_sdr_db_high: its 90 % interval, within the same bounds.
        karaoke_residual_vocal_db: level of the voice that was left less that of the voice in the mix, as
            predicted, dB; 0 where nothing was removed, at least -40.
        karaoke_damage_db: level of all that was changed in the backing less that of the backing, as predicted,
            dB, at least -40.
        karaoke_score: 0..1, ``1 / (1 + exp((8 - p) / 4))`` of the predicted SDR p: 8 dB are worth a half.
        karaoke_calibration: version of the numbers behind the prediction.
        karaoke_snr_db, karaoke_rms_change_db, karaoke_spectral_similarity, karaoke_score_common: by-name measures
            against the mix, see `pipeline.karaoke.common.Common`; never used to choose.
    """

    karaoke_predicted_sdr_db: float | None = None
    karaoke_predicted_sdr_db_low: float | None = None
    karaoke_predicted_sdr_db_high: float | None = None
    karaoke_residual_vocal_db: float | None = None
    karaoke_damage_db: float | None = None
    karaoke_score: float | None = None
    karaoke_calibration: str | None = None
    karaoke_snr_db: float | None = None
    karaoke_rms_change_db: float | None = None
    karaoke_spectral_similarity: float | None = None
    karaoke_score_common: float | None = None


def in_marks(sdr_db: float) -> float:
    """A predicted SDR as a score, 0..1, that rises with it."""
    return 1.0 / (1.0 + math.exp((HALF_MARKS_DB - sdr_db) / DB_PER_STEP))


def score(
    mix: np.ndarray | AudioReader,
    instrumental: np.ndarray | AudioReader,
    judge: Judge | None = None,
    *,
    method: str = "",
    numbers: Calibration | None = None,
) -> Score:
    """The score of an instrumental.

    Args:
        mix, instrumental: 44.1 kHz, float ``[channels, samples]`` or a reader of it; the same shape, one or two
            channels.
        judge: the separator that looks for voice; the calibration knows some by name. Without one, evidence is
            weaker and the interval wider.
        method: the backend that made the instrumental.
        numbers: the calibration; by default the one that comes with the package.

    Raises:
        ValueError: shapes differ, there are more than two channels, samples are not finite, or the judge is not
            in the calibration.
    """
    numbers = numbers or calibration()
    name = judge.name if judge else NO_JUDGE
    if name not in numbers.models:
        known = ", ".join(sorted(numbers.models))
        raise ValueError(f"the karaoke calibration has no judge {name}: it knows {known}")
    readers = [
        ArrayReader(audio) if isinstance(audio, np.ndarray) else audio for audio in (mix, instrumental)
    ]
    found = gather(*readers, judge)
    if method == NEEDS_STEREO and readers[0].channels == 1:
        return Score(**asdict(found.common))
    return from_evidence(found, numbers, name)


def from_evidence(found: Evidence, numbers: Calibration, judge: str) -> Score:
    """The score that evidence is worth by the calibration for this judge, or `NO_JUDGE`."""
    common, model = asdict(found.common), numbers.models[judge]
    if found.silent_mix or found.voice_db < model.voice_db:
        return Score(**common)
    if found.silent_instrumental:
        # Nothing of the backing is there, so no regression is asked.
        low = model.targets["sdr"].low
        value, bottom, top, residual, damage = low, low, low, NOTHING_LEFT_DB, 0.0
    else:
        value, bottom, top = model.predict(found.signs, "sdr")
        residual = model.predict(found.signs, "residual_vocal")[0]
        damage = model.predict(found.signs, "damage")[0]
    return Score(
        karaoke_predicted_sdr_db=value,
        karaoke_predicted_sdr_db_low=bottom,
        karaoke_predicted_sdr_db_high=top,
        karaoke_residual_vocal_db=residual,
        karaoke_damage_db=damage,
        karaoke_score=in_marks(value),
        karaoke_calibration=numbers.version,
        **common,
    )
