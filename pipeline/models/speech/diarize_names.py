"""Names of the diarization backends: what a configuration can be checked against without torch."""

from __future__ import annotations

BACKEND_NAMES = ("campplus", "resemblyzer", "ecapa", "pyannote")
OWN_MODELS = {
    "ecapa": "speechbrain/spkrec-ecapa-voxceleb",
    "pyannote": "pyannote/speaker-diarization-community-1",
}
"""Backend → its model on the Hugging Face hub, of those whose weights are no part of the weights store."""
