"""From what a backend heard to turns: clustered here, or told by the backend."""

from __future__ import annotations

from pipeline.models.speech.diarize import Heard, Told
from pipeline.speech.clustering import Cosines, SpeakerCounts
from pipeline.speech.diarization import Diarization, diarize
from pipeline.speech.told import as_told


def turns_of(found: Heard | Told, counts: SpeakerCounts | None = None) -> Diarization:
    """Who speaks when in a recording.

    Args:
        found: of a backend's stream.
        counts: what is known of the number of speakers; a backend that clusters by itself was told before.
    """
    if isinstance(found, Told):
        return as_told(found.turns, found.voices)
    return diarize(found, counts, Cosines(**found.cosines))
