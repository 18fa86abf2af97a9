"""The row of a master: what was measured before and after, and what was done between."""

from __future__ import annotations

from typing import Any

from pipeline.mastering.delivery import Delivered
from pipeline.mastering.drafting import HEADROOM_DB, Heard, Reference, References
from pipeline.mastering.levels import Levels
from pipeline.mastering.spectrum import Spectrum, spectral_distance_db, third_octave_db
from pipeline.mastering.wish import Wish


def row_of(
    delivered: Delivered, heard: Heard, references: tuple[Reference, ...], wish: Wish
) -> dict[str, Any]:
    """The ``master_*`` columns, but for what is said of the files.

    Args:
        delivered: the master.
        heard: the song.
        references: that it was to be like; none in the adaptive mode.
        wish: what was asked for.
    """
    plan, after = delivered.plan, delivered.after
    like = References(references).spectrum if plan.references else None
    return {
        "master_preset": wish.name,
        "master_mode": wish.mode,
        "master_amount": wish.amount,
        "master_target_lufs": plan.target_lufs,
        "master_ceiling_dbtp": plan.limiting.ceiling_dbtp + HEADROOM_DB,
        **_levels(heard.levels, "before"),
        **_levels(after.levels, "after"),
        "master_gain_db": plan.gain_db,
        "master_max_gain_reduction_db": delivered.max_gain_reduction_db,
        "master_max_compression_db": delivered.max_compression_db,
        **_distances(heard.spectrum, like, "before"),
        **_distances(after.spectrum, like, "after"),
        "master_limited_by": delivered.limited_by,
        "master_reasons": list(plan.reasons),
        "master_plan": plan.to_json(),
        "master_references": list(plan.references) or None,
        "master_encoded_tp": delivered.encoded_tp_dbtp,
        "master_encode_rounds": delivered.rounds,
        "master_from_s": delivered.from_s,
        "master_loudness_before": list(heard.short_term_lufs),
        "master_loudness_after": list(after.short_term_lufs),
        "master_gain_reduction": list(delivered.gain_reduction_db),
        "master_spectrum_hz": third_octave_db(heard.spectrum).frequencies_hz.tolist(),
        "master_spectrum_before": third_octave_db(heard.spectrum).mid_db.tolist(),
        "master_spectrum_after": third_octave_db(after.spectrum).mid_db.tolist(),
    }


def _levels(levels: Levels, when: str) -> dict[str, float | None]:
    return {
        f"master_lufs_{when}": levels.lufs,
        f"master_lra_{when}": levels.lra_lu,
        f"master_tp_{when}": levels.true_peak_dbtp,
        f"master_plr_{when}": levels.plr_lu,
        f"master_psr_{when}": levels.psr_lu,
    }


def _distances(spectrum: Spectrum, like: Spectrum | None, when: str) -> dict[str, float | None]:
    if like is None:
        return {}
    apart = spectral_distance_db(spectrum, like)
    return {f"master_spectral_distance_{when}": apart.mid_db, f"master_side_distance_{when}": apart.side_db}
