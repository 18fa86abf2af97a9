"""Soundmill: a bucket of audio files in, tables people can work with out.

The floors, lowest first; a module imports only from its own floor and lower ones (tests/test_layers.py):
``commands`` → ``errors`` → ``audio`` → ``features``, ``models``, ``mastering`` → ``dataset`` → ``engine`` →
``report``, ``service`` → ``workflows`` → ``jobs`` → the command ``soundmill``.
"""

__version__ = "0.1.0"
