"""What the CLAP stage does where nothing else is asked for; here, so that a config loads no torch for it."""

from __future__ import annotations

WINDOW_SECONDS = 10.0
"""The clip that HTSAT was trained on, s."""

HOP_SECONDS = 5.0
"""Between the starts of two windows, s."""

BATCH_CLIPS = 16
"""Clips in a batch."""
