"""The declaration of the karaoke score: which vocals are removed, and what is predicted of the result. No torch."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipeline.audio.views import View
from pipeline.engine.declare import Product, Stage
from pipeline.features.base import column, stable_key
from pipeline.stages.separation.spec import VIEW, VOCALS

NAME = "karaoke"
WORKER = "pipeline.stages.karaoke.worker:KaraokeWorker"
REMOVED = View("removed", VIEW.sample_rate, VIEW.channels, maker=NAME)
"""The voice that is taken out of the song."""
VERSION = 2
# By one core, which decodes at 450 times real time: a third of Spleeter's, at most.
WEIGHT = 13.0

_BY_NAME = "of the instrumental against the mix, as people ask for it by name; says nothing of quality"
COLUMNS = (
    column("karaoke_method", pa.string(), "name", "backend whose vocals were removed"),
    column("karaoke_choice", pa.string(), "1", "why it was this one"),
    column("karaoke_predicted_sdr_db", pa.float32(), "dB",
           "SI-SDR of the instrumental against the true backing, predicted without it; null where there is no voice to "
           "remove", "Le Roux et al., 2019"),
    column("karaoke_predicted_sdr_db_low", pa.float32(), "dB", "lower end of its 90 % interval (split-conformal)"),
    column("karaoke_predicted_sdr_db_high", pa.float32(), "dB", "upper end of its 90 % interval (split-conformal)"),
    column("karaoke_residual_vocal_db", pa.float32(), "dB",
           "level of the voice that is left, over that of the voice in the mix; predicted"),
    column("karaoke_damage_db", pa.float32(), "dB",
           "level of what was changed in the backing, over that of the backing; predicted"),
    column("karaoke_score", pa.float32(), "1", "0 to 1: 1 / (1 + exp((8 - p) / 4)) of the predicted SDR p"),
    column("karaoke_calibration", pa.string(), "1", "version of the numbers behind the prediction"),
    column("karaoke_snr_db", pa.float32(), "dB", f"signal to noise {_BY_NAME}"),
    column("karaoke_rms_change_db", pa.float32(), "dB", f"change of RMS level {_BY_NAME}"),
    column("karaoke_spectral_similarity", pa.float32(), "1", f"likeness of spectra {_BY_NAME}"),
    column("karaoke_score_common", pa.float32(), "1",
           "0.7 × scaled SNR + 0.3 × spectral similarity: the formula in common use, best where nothing is removed; "
           "never used to choose"),
)  # fmt: skip


def karaoke_stage(
    calibration: str, *, judge: str | None, judged_by: str = "", compare: bool, **arguments: Any
) -> Stage:
    """The stage that scores, and of two ways of removing the voice takes the better one.

    Args:
        calibration: version of the numbers behind the score.
        judge: a backend that looks for voice in results that are not its own; None where none is here.
        judged_by: version and model of that backend.
        compare: whether centre extraction is tried beside a network.
        arguments: of `pipeline.stages.karaoke.worker.KaraokeWorker`.
    """
    parameters = {"calibration": calibration, "judge": judge, "judged_by": judged_by, "compare": compare}
    key = stable_key({"name": NAME, "version": VERSION, **parameters})
    return Stage(
        NAME,
        WORKER,
        (karaoke_product(key),),
        (VIEW, VOCALS),
        (REMOVED,),
        arguments={"judge": judge, "compare": compare, **arguments},
        weight=WEIGHT,
        kept=None,
    )


def karaoke_product(key: str | None = None) -> Product:
    """What is filled: computed where there is a ``key``."""
    return Product(
        NAME,
        COLUMNS,
        key=key,
        stage=NAME,
        timed=NAME,
        version_column="karaoke_calibration",
        rank=3,
        title="how good the song without vocals is",
    )
