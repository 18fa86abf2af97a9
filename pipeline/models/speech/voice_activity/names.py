"""What processes without torch or onnxruntime need, too: those that only read a config."""

from __future__ import annotations

# In the order in which `auto` does without: with both of the first two it chooses between them, second by second.
BACKEND_NAMES = ("firered", "silero", "seg3", "energy")

AUTO = "auto"
