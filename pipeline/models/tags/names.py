"""What musicnn's networks are called and what each of their outputs stands for; no torch.

The lists are those of ``musicnn/configuration.py`` in the wheel that carries the weights, letter by letter and in its
order; `pipeline.models.tags.checkpoint` refuses weights that come with others.
"""

from __future__ import annotations

WEIGHTS = "musicnn"
"""Name in the catalogue."""

NETWORKS = ("mtt", "msd")
"""Trained on MagnaTagATune, and on the Million Song Dataset; in this order everywhere."""

SAMPLE_RATE = 16000
HOP = 256
PATCH_FRAMES = 187
PATCH_SECONDS = PATCH_FRAMES * HOP / SAMPLE_RATE
"""What a network sees at once, 2.992 s."""

TAGS = 50
"""Of each network."""

UNITS = 200
"""Of the layer before the tags, of each network."""

EMBEDDING_SIZE = UNITS * len(NETWORKS)

THRESHOLD = 0.2
"""Probability from which on a tag is among ``tags_top``."""

MTT_TAGS = (
    "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano",
    "ambient", "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing",
    "vocals", "no vocals", "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal", "pop",
    "soft", "sitar", "solo", "man", "classic", "choir", "voice", "new age", "dance", "male voice",
    "female vocal", "beats", "harp", "cello", "no voice", "weird", "country", "metal", "female voice", "choral",
)  # fmt: skip

MSD_TAGS = (
    "rock", "pop", "alternative", "indie", "electronic", "female vocalists", "dance", "00s", "alternative rock",
    "jazz", "beautiful", "metal", "chillout", "male vocalists", "classic rock", "soul", "indie rock", "Mellow",
    "electronica", "80s", "folk", "90s", "chill", "instrumental", "punk", "oldies", "blues", "hard rock", "ambient",
    "acoustic", "experimental", "female vocalist", "guitar", "Hip-Hop", "70s", "party", "country", "easy listening",
    "sexy", "catchy", "funk", "electro", "heavy metal", "Progressive rock", "60s", "rnb", "indie pop", "sad", "House",
    "happy",
)  # fmt: skip

NAMES = {"mtt": MTT_TAGS, "msd": MSD_TAGS}
