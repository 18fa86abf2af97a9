"""Mastering: a plan from the whole song, and a chain that renders it; numpy in, numpy out."""
