"""What is known of songs, and kept: their samples, what was heard of them, and their fingerprints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.audio.isolated_stream import StreamDecoder, Written
from pipeline.audio.validate import Limits
from pipeline.features.extraction import run_extractors
from pipeline.features.fingerprint import Fingerprint
from pipeline.features.streamed import StreamedAudio
from pipeline.mastering.drafting import Heard, Reference
from pipeline.mastering.song import listen
from pipeline.mastering.wish import VERSION
from pipeline.service.listening.cache import Cache
from pipeline.service.listening.decoders import Decoders
from pipeline.service.listening.files import Recording, Replayed
from pipeline.service.listening.sources import Source

CHANNELS = 8
"""A song with more is not mastered."""
DSP_RATE = 22050
"""Hz, of the mono mix that a fingerprint's rhythm and pitch are heard in, as in the mastering job."""
_PREFIX = "fingerprint_"
_HEARD = 256

Told = Callable[[str, float | None], None]
"""Is told a part of the work and which share of it is done, None where that is unknown; it may raise to end it."""


@dataclass
class Known:
    """What is known of a song.

    Args:
        recording: its samples.
        heard: its levels and spectrum.
        fingerprint: empty where none was wanted.
        seconds: what each part took, 0 where it was known before.
    """

    recording: Recording
    heard: Heard
    fingerprint: dict[str, float | None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Analysis:
    """Listens to songs. Any thread may ask.

    Args:
        recordings: so many decoded songs are kept, in temporary files.
        limits: of a song.
        folder: where temporary files lie.
    """

    def __init__(self, recordings: int, limits: Limits, folder: str | None = None) -> None:
        self._folder = folder
        self.decoders = Decoders(lambda: StreamDecoder(limits, CHANNELS))
        self.recordings: Cache[Recording] = Cache(recordings, lambda recording: recording.close())
        self.heard: Cache[Heard] = Cache(_HEARD)
        self.fingerprints: Cache[dict[str, float | None]] = Cache(_HEARD)

    @contextmanager
    def known(self, source: Source, fingerprint: bool, told: Told) -> Iterator[Known]:
        """What is known of a song; its recording is there for as long as the context lasts.

        Raises:
            DecodeError: it cannot be decoded, has too many channels, or the decoder died of it.
            ValueError: it holds what is no sound.
            DecoderUnavailable: no decoder lived until it took the song.
            OSError: it was changed meanwhile, or the disk is full.
        """
        seconds = dict.fromkeys(("decode", "listen", "fingerprint"), 0.0)
        key = (source.content, VERSION)

        def timed(part: str, make: Callable, *arguments: object) -> Callable:
            def run() -> object:
                started = time.perf_counter()
                try:
                    return make(*arguments)
                finally:
                    seconds[part] = time.perf_counter() - started

            return run

        with self.recordings.held(source.content, timed("decode", self._decoded, source, told)) as recording:
            heard = self.heard.get(key, timed("listen", _listened, recording, told))
            marks: dict[str, float | None] = {}
            if fingerprint:
                marks = self.fingerprints.get(key, timed("fingerprint", _fingerprint, recording, told))
            yield Known(recording, heard, marks, seconds)

    def reference(self, source: Source, told: Told) -> Reference:
        """A song that others shall sound like. Raises as `known`, and `ValueError` where it is silent."""

        def heard() -> Heard:
            with self.recordings.held(source.content, lambda: self._decoded(source, told)) as recording:
                return _listened(recording, told)

        found = self.heard.get((source.content, VERSION), heard)
        if found.levels.lufs is None:
            raise ValueError(f"{source.name} has no loudness: it is silent, or shorter than 0.4 s")
        return Reference(source.content, found.levels, found.spectrum)

    def close(self) -> None:
        """Give back all temporary files that are not in use, and end the decoders."""
        self.recordings.clear()
        self.decoders.close()

    def _decoded(self, source: Source, told: Told) -> Recording:
        with source.copied(lambda: told("decode", 0.0)) as copy, self.decoders.one() as decoder:

            def decode(target: int) -> Written:
                return decoder.decode(copy.fileno(), source.name, target, lambda share: told("decode", share))

            recording = Recording.decoded(decode, self._folder)
        try:
            told("decode", 1.0)
        except BaseException:
            recording.close()
            raise
        return recording


def _listened(recording: Recording, told: Told) -> Heard:
    return listen(recording, recording.sample_rate, lambda part, share: told("listen", share))


def _fingerprint(recording: Recording, told: Told) -> dict[str, float | None]:
    told("fingerprint", 0.0)
    extractor = Fingerprint()
    audio = StreamedAudio(
        lambda: Replayed(recording),
        DSP_RATE,
        context_seconds=extractor.context_seconds(DSP_RATE),
        every_channel="channels" in extractor.views,
        mono_channel=recording.mono_channel,
    )
    (outcome,) = run_extractors([extractor], audio.track, audio.blocks)
    if outcome.extraction is None:
        raise outcome.error
    told("fingerprint", 1.0)
    return {name.removeprefix(_PREFIX): value for name, value in outcome.extraction.values.items()}
