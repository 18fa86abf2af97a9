"""The configuration of the mastering job: plain typed dataclasses, see `pipeline.workflows.run_config`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Optional

from pipeline.audio.encode import EncodeError
from pipeline.audio.song_formats import SONG_FORMATS, SongFormat, held_channels, held_rate
from pipeline.errors import UserError
from pipeline.mastering.presets import Preset
from pipeline.mastering.wish import Wish
from pipeline.workflows.config_checks import each_of, filled, one_of, refused
from pipeline.workflows.hardware_config import HardwareConfig
from pipeline.workflows.master_presets import presets, said
from pipeline.workflows.place_checks import check_place
from pipeline.workflows.run_config import RunConfig

POOLS = ("decode", "features", "master")
GPU_STAGES: tuple[str, ...] = ()
MODES = ("adaptive", "reference", "hybrid")
PHASES = ("linear", "minimum")
ENCODES = ("mp3", "m4a", "opus")
CEILING_DBTP = -1.0
LOSSY_CEILING_DBTP = -2.0
LOW_BIT_RATE = 128_000
"""Below it the ceiling is the lower one: codecs overshoot the more, the less they may spend."""

# Optional[...] rather than X | None below: OmegaConf reads these annotations at run time.
# ruff: noqa: UP045


@dataclass
class MasterOptions:
    """How songs are mastered, and what is written.

    What is null of the numbers of a preset is as the preset says. ``mode`` is where the master comes from: the song
    and the preset (``adaptive``), a reference, or both (``hybrid``, by ``reference_weight``). ``amount`` scales
    everything that is done, 0 to 1. ``ceiling_dbtp`` is the highest true peak: null is -1 dBTP, and -2 dBTP where
    ``bit_rate`` is below 128 kbit/s. ``encodes`` are formats that the master is encoded in on trial, at 128 kbit/s:
    where a decoder would go beyond full scale, the ceiling is lowered. ``preview`` renders that many seconds, the
    loudest ones, and no more.
    """

    preset: str = "adaptive"
    mode: str = "adaptive"
    amount: float = 1.0
    reference: list[str] = field(default_factory=list)
    reference_weight: float = 0.5
    ceiling_dbtp: Optional[float] = None
    phase: str = "linear"
    lufs: Optional[float] = None
    tilt_db_per_octave: Optional[float] = None
    low_shelf_db: Optional[float] = None
    low_shelf_hz: Optional[float] = None
    high_shelf_db: Optional[float] = None
    high_shelf_hz: Optional[float] = None
    balance: Optional[float] = None
    max_db: Optional[float] = None
    width_db: Optional[float] = None
    mono_below_hz: Optional[float] = None
    ratio: Optional[float] = None
    attack_ms: Optional[float] = None
    release_ms: Optional[float] = None
    max_compression_db: Optional[float] = None
    crossovers_hz: Optional[list[float]] = None
    max_gr_db: Optional[float] = None
    encodes: list[str] = field(default_factory=list)
    preview: float = 0.0
    format: str = "flac"
    bit_rate: Optional[int] = None
    quality: Optional[float] = None
    bits: Optional[int] = None
    sample_rate: Optional[int] = None

    def form(self) -> SongFormat:
        """The format of the files. Raises `EncodeError`."""
        return SongFormat(self.format, self.bit_rate, self.quality, self.bits)

    def references(self) -> list[str]:
        """Where the references are; none where the mode has none."""
        return [] if self.mode == "adaptive" else list(self.reference)

    def own(self) -> tuple[str, ...]:
        """The numbers of the preset that were asked for by themselves. What ``master=NAME`` gives is all that the file
        of the preset says, and counts as the preset."""
        names = (f.name for f in dataclasses.fields(Preset))
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        file = said(self.preset)
        whole = bool(file) and all(given.get(name) == value for name, value in file.items())
        return tuple(name for name in given if not (whole and name in file))

    def numbers(self) -> Preset:
        """The preset, with what is said here instead of its own numbers."""
        return dataclasses.replace(
            presets()[self.preset], **{name: getattr(self, name) for name in self.own()}
        )

    def wish(self) -> Wish:
        """What plans are made by."""
        return Wish(
            self.numbers(),
            self.preset,
            self.mode,
            amount=float(self.amount),
            reference_weight=float(self.reference_weight),
            own=self.own(),
            ceiling_dbtp=float(self.ceiling()),
            phase=self.phase,
        )

    def ceiling(self) -> float:
        """The highest true peak of a file, dBTP."""
        if self.ceiling_dbtp is not None:
            return self.ceiling_dbtp
        low = self.bit_rate is not None and self.bit_rate < LOW_BIT_RATE
        return LOSSY_CEILING_DBTP if low else CEILING_DBTP

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        one_of("master.preset", self.preset, sorted(presets()))
        one_of("master.mode", self.mode, MODES)
        one_of("master.phase", self.phase, PHASES)
        one_of("master.format", self.format, SONG_FORMATS)
        each_of("master.encodes", self.encodes, ENCODES)
        for key in ("amount", "reference_weight"):
            if not 0.0 <= getattr(self, key) <= 1.0:
                raise refused(self, f"master.{key}", "must lie within 0..1")
        if self.ceiling_dbtp is not None and not -20.0 <= self.ceiling_dbtp <= 0.0:
            raise refused(self, "master.ceiling_dbtp", "must lie within -20..0 dBTP, or be null")
        if not (math.isfinite(self.preview) and 0.0 <= self.preview <= 600.0):
            raise refused(self, "master.preview", "must lie within 0..600 s; 0 renders the whole song")
        self._check_reference()
        self._check_numbers()
        self._check_form()

    def _check_reference(self) -> None:
        for place in self.reference:
            check_place("master.reference", place, "source.storage_options")
        if self.mode != "adaptive" and not self.reference:
            raise UserError(
                f"master.mode={self.mode} needs a reference",
                "it is the song that the others shall sound like",
                "master.reference=FILE, or master.mode=adaptive",
            )
        if self.mode == "adaptive" and self.reference:
            raise UserError(
                "master.reference is given, and master.mode=adaptive does not listen to it",
                do="master.mode=reference, or master.mode=hybrid",
            )

    def _check_numbers(self) -> None:
        try:
            self.numbers().check()
        except ValueError as error:
            key = str(error).partition("=")[0]
            raise UserError(f"master.{error}", do=f"master.{key}=null") from None

    def _check_form(self) -> None:
        given = [key for key in ("bit_rate", "quality", "bits") if getattr(self, key) is not None]
        try:
            form = self.form()
            # That some rate has the bit rate: each song has its own.
            held_rate(form, self.sample_rate or 44100, held_channels(form, 2))
        except EncodeError as error:
            raise UserError(
                f"master: {error}",
                "bit_rate is of mp3, opus and m4a, quality of mp3 and ogg, bits of flac",
                " ".join(f"master.{key}=null" for key in given),
            ) from None
        if self.sample_rate is not None:
            try:
                form.check(self.sample_rate, 2)
            except EncodeError as error:
                raise refused(self, "master.sample_rate", "cannot be", str(error)) from None


@dataclass
class MasterConfig(RunConfig):
    """Everything ``jobs/master.py`` can be told."""

    hardware: HardwareConfig = field(default_factory=lambda: HardwareConfig.for_stages(POOLS, GPU_STAGES))
    master: MasterOptions = field(default_factory=MasterOptions)

    def pools(self) -> tuple[str, ...]:
        """Decoding, the fingerprint, and the mastering itself."""
        return POOLS

    def gpu_stages(self) -> tuple[str, ...]:
        """None: everything runs on the CPU."""
        return GPU_STAGES

    def questions(self) -> tuple[str, ...]:
        """The places, what it shall sound like, and what is written."""
        return (*super().questions(), "master.preset", "master.amount", "master.format")

    def check(self) -> None:
        """Refuse what cannot work, in words that name the key. Raises `UserError`."""
        super().check()
        self.master.check()


def config_from(values: dict[str, Any]) -> MasterConfig:
    """The config that a run wrote down as ``config.yaml``; what it does not say, or this version does not know, is
    the default."""
    return filled(MasterConfig(), values)
