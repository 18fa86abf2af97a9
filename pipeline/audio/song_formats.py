"""The formats of finished songs: what each holds, and what is refused before a sample is encoded."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.audio.encode import EncodeError

MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
OPUS_RATE = 48000
LAYOUTS = {
    1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1",
}  # fmt: skip
"""Channels → FFmpeg's name of the layout, in WAV order."""

_CHANNELS: dict[str, tuple[int, ...]] = {
    "mp3": (1, 2),
    "flac": tuple(LAYOUTS),
    "ogg": (1, 2),
    "opus": (1, 2, 6, 8),
    "m4a": (1, 2, 6),
    "wav": tuple(range(1, 65)),
}
_RATES: dict[str, tuple[int, ...]] = {"mp3": MP3_RATES, "m4a": AAC_RATES, "opus": (OPUS_RATE,)}
_HIGHEST = {"flac": 655_350, "ogg": 200_000, "wav": 768_000}
_BITS = {"flac": (16, 24), "wav": (32,)}
# Format → quality from, to, and which of them is the best.
_QUALITIES = {"mp3": (0.0, 9.999, "0"), "ogg": (0.0, 10.0, "10")}
_BIT_RATES = ("mp3", "opus", "m4a")
# bit/s of MPEG-1, MPEG-2 and MPEG-2.5, layer III; LAME goes no higher than 64 kbit/s in the last.
_MPEG_KBPS = {
    1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    3: (8, 16, 24, 32, 40, 48, 56, 64),
}

# What files begin with.
_MAGIC = {
    "mp3": b"ID3",
    "flac": b"fLaC",
    "ogg": b"OggS",
    "opus": b"OggS",
    "m4a": b"\x00\x00\x00\x1cftyp",
    "wav": b"R",  # RIFF, or RF64 beyond 4 GB
}

SONG_FORMATS = tuple(_CHANNELS)


@dataclass(frozen=True)
class SongFormat:
    """A target format and its settings.

    Args:
        name: one of `SONG_FORMATS`: ``mp3``, ``flac``, ``ogg`` (Vorbis), ``opus``, ``m4a`` (AAC), ``wav`` (float32).
        bit_rate: bit/s of mp3 (constant), opus and m4a (on average); by default 320 kbit/s or the most that the rate
            allows for mp3, 96 kbit/s per channel for opus, 128 kbit/s per channel for m4a.
        quality: variable bit rate instead: of mp3 as LAME's ``-V``, 0 (best) to 9.999; of ogg 0 to 10 (best), by
            default 7.
        bits: per sample of flac, 16 or 24 (the default).

    Raises:
        EncodeError: an unknown name, or a setting that the format does not have.
    """

    name: str
    bit_rate: int | None = None
    quality: float | None = None
    bits: int | None = None

    def __post_init__(self) -> None:
        if self.name not in SONG_FORMATS:
            raise EncodeError(f"unknown format {self.name!r}: choose one of {', '.join(SONG_FORMATS)}")
        if self.bit_rate is not None and self.name not in _BIT_RATES:
            raise EncodeError(
                f"{self.name} has no bit rate to choose: leave it out, or choose {', '.join(_BIT_RATES)}"
            )
        if self.bit_rate is not None and self.quality is not None:
            raise EncodeError(f"{self.name} takes a bit rate or a quality, not both: leave one out")
        if self.bits is not None and self.bits not in _BITS.get(self.name, ()):
            kinds = " or ".join(map(str, _BITS.get(self.name, ())))
            rather = f"choose {kinds}" if kinds else "leave it out, or choose flac"
            raise EncodeError(f"{self.name} does not have {self.bits} bits per sample: {rather}")
        if self.quality is not None:
            self._check_quality(self.quality)

    def _check_quality(self, quality: float) -> None:
        if self.name not in _QUALITIES:
            raise EncodeError(
                f"{self.name} has no quality to choose: leave it out, or choose {', '.join(_QUALITIES)}"
            )
        low, high, best = _QUALITIES[self.name]
        if not low <= quality <= high:
            raise EncodeError(
                f"quality {quality:g} is not one of {self.name}: choose {low:g} to {high:g}, {best} is best"
            )

    def check(self, sample_rate: int, channels: int) -> None:
        """Raise `EncodeError` where the format does not hold that rate, channel count or bit rate."""
        held = _CHANNELS[self.name]
        if channels not in held:
            most = (
                f"{held[-1]} at most" if held == tuple(range(1, held[-1] + 1)) else ", ".join(map(str, held))
            )
            rather = "wav" if self.name == "flac" else "flac (8) or wav (64)"
            choose = f"mix down, or choose {rather}" if self.name != "wav" else "mix down"
            raise EncodeError(f"{self.name} does not hold {channels} channels ({most}): {choose}")
        rates = _RATES.get(self.name)
        if rates is not None and sample_rate not in rates:
            known = ", ".join(map(str, rates))
            nearest = min((rate for rate in rates if rate >= sample_rate), default=rates[-1])
            raise EncodeError(
                f"{self.name} does not hold {sample_rate} Hz (only {known}): resample to {nearest} Hz, or choose flac"
            )
        highest = _HIGHEST.get(self.name)
        if highest is not None and not 1 <= sample_rate <= highest:
            raise EncodeError(f"{self.name} holds 1 to {highest} Hz, not {sample_rate}: resample")
        self._check_bit_rate(sample_rate, channels)

    def _check_bit_rate(self, sample_rate: int, channels: int) -> None:
        if self.bit_rate is None:
            return
        if self.name == "mp3":
            known = _MPEG_KBPS[mpeg_version(sample_rate)]
            if self.bit_rate not in [1000 * kbps for kbps in known]:
                raise EncodeError(
                    f"mp3 at {sample_rate} Hz does not have {self.bit_rate} bit/s: choose"
                    f" {', '.join(str(kbps) for kbps in known)} kbit/s"
                )
            return
        low, high = (6000, 256_000) if self.name == "opus" else (8000, 6 * sample_rate)
        if not low * channels <= self.bit_rate <= high * channels:
            raise EncodeError(
                f"{self.name} at {sample_rate} Hz with {channels} channels does not have {self.bit_rate} bit/s:"
                f" choose {low * channels} to {high * channels}"
            )

    def bits_per_second(self, sample_rate: int, channels: int) -> int:
        """The bit rate that was chosen, or the default; of mp3, opus and m4a."""
        if self.bit_rate is not None:
            return self.bit_rate
        if self.name == "mp3":
            return 1000 * _MPEG_KBPS[mpeg_version(sample_rate)][-1]
        return channels * (96_000 if self.name == "opus" else min(128_000, 6 * sample_rate))

    @property
    def magic(self) -> bytes:
        """The bytes that every file of `pipeline.audio.song_encoder` begins with."""
        return _MAGIC[self.name]

    @property
    def suffix(self) -> str:
        """Of a file's name, with its dot."""
        return f".{self.name}"


def mpeg_version(sample_rate: int) -> int:
    """1 for MPEG-1, 2 for MPEG-2, 3 for the MPEG-2.5 of the lowest rates."""
    if sample_rate >= 32000:
        return 1
    return 2 if sample_rate >= 16000 else 3


def held_rate(form: SongFormat, rate: int, channels: int) -> int:
    """The source's rate where the format holds it, else the nearest higher one that it holds, else its highest.

    Raises:
        EncodeError: the format holds none of that many channels, or not that bit rate.
    """
    known = sorted({*MP3_RATES, *AAC_RATES})
    tried = [rate, *(r for r in known if r > rate), *reversed(known)]
    refusal: EncodeError | None = None
    for candidate in tried:
        try:
            form.check(candidate, channels)
        except EncodeError as error:
            refusal = refusal or error
        else:
            return candidate
    raise refusal


def held_channels(form: SongFormat, channels: int) -> int:
    """The source's channels where the format holds that many, else the most below it that it holds."""
    return max((held for held in _CHANNELS[form.name] if held <= channels), default=1)
