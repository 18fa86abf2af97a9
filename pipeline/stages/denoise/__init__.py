"""Recordings with the noise taken away, as files and for later stages."""
