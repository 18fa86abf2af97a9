"""The configuration of the karaoke job: plain typed dataclasses, see `pipeline.workflows.run_config`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Optional

from pipeline.audio.encode import EncodeError
from pipeline.audio.song_formats import SONG_FORMATS, SongFormat
from pipeline.errors import UserError
from pipeline.models.precision import AMP, amp_word, normalise_amp
from pipeline.models.separation import AUTO, BACKEND_NAMES, SeparationOptions
from pipeline.models.separation.names import AUTO_CPU_SECONDS
from pipeline.stages.instrumental.spec import KEPT
from pipeline.workflows.config_checks import each_of, filled, one_of, refused
from pipeline.workflows.hardware_config import HardwareConfig
from pipeline.workflows.run_config import RunConfig

GPU_STAGES = ("separation",)
POOLS = ("decode", "separation", "karaoke", "instrumental")
METHODS = (AUTO, *BACKEND_NAMES)

# Optional[...] rather than X | None below: OmegaConf reads these annotations at run time.
# ruff: noqa: UP045


@dataclass
class KaraokeOptions:
    """How vocals are removed, and what is written.

    ``method`` is a backend, or ``auto``: the best that is installed and takes the song, and centre extraction instead
    where that is better beyond the uncertainty of the score. ``sample_rate`` (Hz) and ``channels`` of the files are
    each song's own unless they are given. ``keep`` may hold ``vocals``. ``ceiling_dbtp`` is the highest true peak of a
    file: where it would be higher, the whole song gets one gain, which the row says.
    """

    method: str = AUTO
    demucs_model: Optional[str] = None
    demucs_repo: Optional[str] = None
    openunmix_model: Optional[str] = None
    amp: str = "auto"
    auto_cpu_seconds: float = AUTO_CPU_SECONDS
    format: str = "mp3"
    bit_rate: Optional[int] = None
    quality: Optional[float] = None
    bits: Optional[int] = None
    sample_rate: Optional[int] = None
    channels: Optional[int] = None
    keep: list[str] = field(default_factory=list)
    ceiling_dbtp: float = -1.0

    def options(self) -> SeparationOptions:
        """What the backends are told."""
        amp = normalise_amp(self.amp, "karaoke.amp")
        return SeparationOptions(self.demucs_model, self.demucs_repo, self.openunmix_model, amp)

    def backends(self) -> list[str]:
        """The method, as `pipeline.models.separation.choose` takes it."""
        return [self.method]

    def form(self) -> SongFormat:
        """The format of the files. Raises `EncodeError`."""
        return SongFormat(self.format, self.bit_rate, self.quality, self.bits)

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        one_of("karaoke.method", self.method, METHODS)
        one_of("karaoke.amp", amp_word(self.amp), AMP)
        one_of("karaoke.format", self.format, SONG_FORMATS)
        each_of("karaoke.keep", self.keep, KEPT)
        if not (math.isfinite(self.auto_cpu_seconds) and self.auto_cpu_seconds >= 0):
            raise refused(self, "karaoke.auto_cpu_seconds", "must not be negative")
        if not -60.0 <= self.ceiling_dbtp <= 0.0:
            raise refused(self, "karaoke.ceiling_dbtp", "must lie within -60..0 dBTP")
        if self.channels not in (None, 1, 2):
            raise refused(self, "karaoke.channels", "must be 1 or 2, or null for the song's own")
        try:
            form = self.form()
        except EncodeError as error:
            raise UserError(
                f"karaoke: {error}",
                "bit_rate is of mp3, opus and m4a, quality of mp3 and ogg, bits of flac",
                f"karaoke.format={self.format} alone",
            ) from None
        if self.sample_rate is not None:
            try:
                form.check(self.sample_rate, self.channels or 2)
            except EncodeError as error:
                raise refused(self, "karaoke.sample_rate", "cannot be", str(error)) from None


@dataclass
class KaraokeConfig(RunConfig):
    """Everything ``jobs/karaoke.py`` can be told."""

    hardware: HardwareConfig = field(default_factory=lambda: HardwareConfig.for_stages(POOLS, GPU_STAGES))
    karaoke: KaraokeOptions = field(default_factory=KaraokeOptions)

    def pools(self) -> tuple[str, ...]:
        """Decoding, the network, its judge, and the encoder."""
        return POOLS

    def gpu_stages(self) -> tuple[str, ...]:
        """The network."""
        return GPU_STAGES

    def questions(self) -> tuple[str, ...]:
        """The places, how vocals are removed, what is written, and on what machine."""
        return (*super().questions(), "karaoke.method", "karaoke.format", "karaoke.keep", "hardware")

    def check(self) -> None:
        """Refuse what cannot work, in words that name the key. Raises `UserError`."""
        super().check()
        self.karaoke.check()


def config_from(values: dict[str, Any]) -> KaraokeConfig:
    """The config that a run wrote down as ``config.yaml``; what it does not say, or this version does not know, is
    the default."""
    config = filled(KaraokeConfig(), values)
    if config.hardware.name == "auto":
        # What was worked out for the cards of that run is worked out anew for those of this one.
        hardware = config.hardware
        hardware.gpu_shares, hardware.batch_items = (dict.fromkeys(GPU_STAGES, 0) for _ in range(2))
    return config
