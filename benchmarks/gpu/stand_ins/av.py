"""Stands in for PyAV on a machine without it, so that the audio floor can be imported.

WAV, FLAC and Ogg Vorbis, of which the corpus is made, never reach it. Whatever is asked of it is a class that nothing
raises and nothing is.
"""


def __getattr__(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (Exception,), {})
