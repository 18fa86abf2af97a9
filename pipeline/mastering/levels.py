"""How loud a song is, and how high its peaks: what a master promises, and what is measured before and after."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Levels:
    """Levels of a song; what is not defined is None.

    Args:
        lufs: integrated loudness, LUFS (ITU-R BS.1770-4).
        lra_lu: loudness range, LU (EBU Tech 3342).
        true_peak_dbtp: the largest true peak, dBTP.
        short_term_lufs: the loudest 3 s, LUFS; of a shorter song None.
        loud_dbfs: RMS level that 5 % of the song's steps of 100 ms are above, dBFS, where a full-scale square wave has
            0; what the compressor's threshold is set by.
    """

    lufs: float | None = None
    lra_lu: float | None = None
    true_peak_dbtp: float | None = None
    short_term_lufs: float | None = None
    loud_dbfs: float | None = None

    @property
    def plr_lu(self) -> float | None:
        """Peak to loudness ratio: true peak over integrated loudness, LU."""
        return _above(self.true_peak_dbtp, self.lufs)

    @property
    def psr_lu(self) -> float | None:
        """Peak to short-term loudness ratio: true peak over the loudest 3 s, LU."""
        return _above(self.true_peak_dbtp, self.short_term_lufs)


def _above(peak: float | None, loudness: float | None) -> float | None:
    return None if peak is None or loudness is None else peak - loudness
