"""A file to the views that are wanted of it: decoded once, then mixed down and resampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import NamedTuple

import numpy as np

from pipeline.audio.decode import AudioTooLong, gather
from pipeline.audio.mixing import MixMeter, channel_of_mix, for_mono
from pipeline.audio.resample import make_view
from pipeline.audio.stream import AudioFile, PcmStream
from pipeline.audio.tags import NOTHING_SAID, FileFacts
from pipeline.audio.validate import Allocator, Limits, private_memory

Progress = Callable[[int], None]


class View(NamedTuple):
    """A form of the audio: rate in Hz and channels (1 mono, 2 stereo), None for the file's own; and who makes it."""

    name: str
    sample_rate: int | None
    channels: int | None
    maker: str = "decode"


class Place(NamedTuple):
    """Where a view lies: the view whose samples it shares, its rate in Hz and its channels."""

    owner: str
    sample_rate: int
    channels: int


@dataclass(frozen=True)
class Wanted:
    """What is wanted of every file.

    Args:
        views: of equal forms the first owns the samples.
        max_bytes: a track whose views and samples need more is ``long``: checked, but not kept.
        max_seconds: a longer track is an error.
        made: views that are made later and take room, too.
    """

    views: tuple[View, ...]
    max_bytes: int
    max_seconds: float
    made: tuple[View, ...] = ()

    @property
    def limits(self) -> Limits:
        """For any track."""
        return Limits(self.max_seconds, None)

    @property
    def mono(self) -> bool:
        """Whether any view mixes the channels to one."""
        return any(view.channels == 1 for view in self.views)

    def kept(self, rate: int, channels: int) -> Limits:
        """How long a track of this form may be for its views to be kept."""
        forms = {(place.sample_rate, place.channels) for place in self.places(rate, channels).values()}
        forms.add((rate, channels))
        sizes = [4 * rate * channels for rate, channels in forms]
        sizes += [4 * (view.sample_rate or rate) * (view.channels or channels) for view in self.made]
        return Limits(self.max_bytes / sum(sizes))

    def places(self, rate: int, channels: int) -> dict[str, Place]:
        """Every view of a track of this form."""
        owners: dict[tuple[int, int], str] = {}
        found = {}
        for view in self.views:
            form = (view.sample_rate or rate, view.channels or channels)
            found[view.name] = Place(owners.setdefault(form, view.name), *form)
        return found


@dataclass(frozen=True, eq=False)
class DecodedViews:
    """A decoded file.

    Args:
        container, codec, sample_rate, channels: as in `pipeline.audio.decode.Decoded`.
        samples: per channel.
        replaced_samples, damaged_packets: as there.
        stored: owner → float32 ``[channels, samples]``, C-contiguous; empty for a long track.
        places: view → where it lies; empty for a long track.
        long: whether its views were too large to keep.
        retried: why it was decoded a second time, where it was.
        facts: streams, bit rate and tags.
        mono_channel: the channel that mono views are made of, where the mix of all cancels, see
            `pipeline.audio.mixing`; None where it does not, and where no view is mono.
    """

    container: str
    codec: str
    sample_rate: int
    channels: int
    samples: int
    _: KW_ONLY
    replaced_samples: int
    damaged_packets: int
    stored: dict[str, np.ndarray]
    places: dict[str, Place]
    long: bool = False
    retried: str = ""
    facts: FileFacts = NOTHING_SAID
    mono_channel: int | None = None

    @property
    def duration_s(self) -> float:
        """Seconds."""
        return self.samples / self.sample_rate


def decode_views(
    file: AudioFile,
    wanted: Wanted,
    allocate: Allocator = private_memory,
    progress: Progress = lambda frames: None,
) -> DecodedViews:
    """Decode ``file``, and make its views.

    A track that is too long for that is decoded block by block to its end, so that one that is damaged says so.

    Args:
        allocate: where the views lie, as far as that saves a copy.
        progress: called with the sample frames of every block, and with 1 for every view.

    Raises:
        DecodeError: as `pipeline.audio.decode.decode`.
    """
    with file.open(wanted.limits) as stream:
        kept = wanted.kept(stream.sample_rate, stream.channels)
        where = allocate if _keeps_native(stream, wanted) else private_memory
        try:
            decoded = gather(stream, file.size, kept, where, progress)
        except AudioTooLong:
            decoded = None
    if decoded is None:
        return _checked(file, wanted, progress)
    places = wanted.places(decoded.sample_rate, decoded.channels)
    mono_channel = channel_of_mix(decoded.samples) if wanted.mono else None
    stored = {}
    for view in wanted.views:
        owner, rate, _ = places[view.name]
        if owner == view.name:
            source = for_mono(decoded.samples, mono_channel) if view.channels == 1 else decoded.samples
            stored[owner] = make_view(source, decoded.sample_rate, rate, view.channels, allocate)
            progress(1)
    return replace(_described(stream, decoded.samples.shape[1], stored, places), mono_channel=mono_channel)


def _keeps_native(stream: PcmStream, wanted: Wanted) -> bool:
    form = (stream.sample_rate, stream.channels)
    return any(place[1:] == form for place in wanted.places(*form).values())


def _checked(file: AudioFile, wanted: Wanted, progress: Progress) -> DecodedViews:
    limits = wanted.limits
    with file.open(limits) as stream:
        samples, meter = 0, MixMeter(stream.channels)
        for block in stream:
            samples += block.shape[1]
            meter.add(block)
            # Where no header says how long it is.
            limits.check(samples, stream.channels, stream.sample_rate)
            progress(block.shape[1])
    mono_channel = meter.channel() if wanted.mono else None
    return replace(_described(stream, samples, {}, {}), long=True, mono_channel=mono_channel)


def _described(
    stream: PcmStream, samples: int, stored: dict[str, np.ndarray], places: dict[str, Place]
) -> DecodedViews:
    return DecodedViews(
        stream.kind.container,
        stream.codec,
        stream.sample_rate,
        stream.channels,
        samples,
        replaced_samples=stream.replaced_samples,
        damaged_packets=stream.damaged_packets,
        stored=stored,
        places=places,
        facts=stream.facts(),
    )
