"""The tags of a track's file, for the song that is made of it."""

from __future__ import annotations

from pipeline.audio.song_tags import NO_TAGS, SongTags, read_song_tags
from pipeline.dataset.storage import one_line
from pipeline.engine.batch import Track
from pipeline.engine.source_file import Fetcher
from pipeline.errors import Fallback


def tags_of(track: Track, fetcher: Fetcher, stage: str) -> SongTags:
    """Those of the original. A source that is away is a failure, tags that cannot be read are none, which the track's
    fallbacks say: the song is still a song.

    Raises:
        Exception: as `Fetcher.fetch`.
    """
    with fetcher.fetch(track, stage) as source:
        try:
            return read_song_tags(source.data if source.data is not None else source.path)
        except Exception as error:  # noqa: BLE001  whatever is wrong with tags, the sound was decoded
            track.fallbacks.append(Fallback(stage, "tags of the original", "none", one_line(error, 200)))
            return NO_TAGS
