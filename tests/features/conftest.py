"""Signals and real recordings."""

from helpers.signals import at_rate, chord, music, one_thread, spectra_of, speech, synthetic  # noqa: F401  fixtures
