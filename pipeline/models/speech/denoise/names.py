"""What processes without torch or onnxruntime need, too: those that only read a config."""

from __future__ import annotations

# In the order that `auto` follows.
BACKEND_NAMES = ("deepfilternet", "dtln", "spleeter", "demucs")
"""Every backend; ``off`` is none of them: a stage that denoises nothing does not come here."""

AUTO = "auto"

LEAST_DB, MOST_DB = 0.1, 100.0
"""Bounds of ``limit_db``: below the first nothing would be taken away, from the second on everything is."""
