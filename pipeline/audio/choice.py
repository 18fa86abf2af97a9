"""Which of the sound tracks of a file is decoded: by its number, or by its language."""

from __future__ import annotations

import re

import av

from pipeline.audio.validate import NoAudioStream, NoSuchAudioStream, UnrecognizedFormat, printable_line

Choice = int | str
"""Number of the track among those with sound, from 0, or a language in lower case."""

FIRST: Choice = 0

_LANGUAGE = re.compile(r"language:([a-z]{2,3})(?:-[a-z0-9-]{1,24})?")

# ISO 639-1 and the codes of ISO 639-2 (terminology, bibliography) of the same language.
_CODES = """
aa/aar ab/abk af/afr ak/aka am/amh an/arg ar/ara as/asm ay/aym az/aze be/bel bg/bul bi/bis bn/ben bo/bod/tib br/bre
bs/bos ca/cat ce/che cs/ces/cze cv/chv cy/cym/wel da/dan de/deu/ger dv/div dz/dzo el/ell/gre en/eng eo/epo es/spa
et/est eu/baq/eus fa/fas/per ff/ful fi/fin fo/fao fr/fra/fre fy/fry ga/gle gd/gla gl/glg gu/guj gv/glv ha/hau he/heb
hi/hin hr/hrv ht/hat hu/hun hy/arm/hye ia/ina id/ind ig/ibo ik/ipk is/ice/isl it/ita iu/iku ja/jpn ka/geo/kat kk/kaz
kl/kal km/khm kn/kan ko/kor ks/kas ku/kur kw/cor ky/kir la/lat lb/ltz lg/lug li/lim ln/lin lo/lao lt/lit lv/lav mg/mlg
mi/mao/mri mk/mac/mkd ml/mal mn/mon mr/mar ms/may/msa mt/mlt my/bur/mya nb/nob ne/nep nl/dut/nld nn/nno no/nor nr/nbl
oc/oci om/orm or/ori os/oss pa/pan pl/pol ps/pus pt/por qu/que ro/ron/rum ru/rus rw/kin sa/san sc/srd sd/snd se/sme
si/sin sk/slk/slo sl/slv sm/smo so/som sq/alb/sqi sr/srp ss/ssw st/sot sv/swe sw/swa ta/tam te/tel tg/tgk th/tha ti/tir
tk/tuk tl/tgl tn/tsn to/ton tr/tur ts/tso tt/tat ug/uig uk/ukr ur/urd uz/uzb ve/ven vi/vie wa/wln wo/wol xh/xho yi/yid
yo/yor zh/chi/zho zu/zul
"""
_LANGUAGES = tuple(frozenset(codes.split("/")) for codes in _CODES.split())
# More of a file's tracks than a message has room for are counted.
_NAMED = 8


def choice_of(text: str) -> Choice:
    """``default`` (the first), a number from 0 or ``language:xx`` as a `Choice`. Raises `ValueError` for all else."""
    if text == "default":
        return FIRST
    if text.isascii() and text.isdigit() and len(text) <= 4:
        return int(text)
    if _LANGUAGE.fullmatch(text.lower()) is None:
        raise ValueError(f"{text} is neither default nor a number nor language:xx")
    return text.lower().removeprefix("language:")


def same_language(one: str, other: str) -> bool:
    """Whether two codes mean one language: ``de``, ``deu``, ``ger`` and ``de-CH`` do."""
    first, second = (code.lower().replace("_", "-").partition("-")[0] for code in (one, other))
    return first == second or any({first, second} <= codes for codes in _LANGUAGES)


def chosen_audio(container: av.container.InputContainer, choice: Choice = FIRST) -> av.AudioStream:
    """The sound track that is asked for.

    Raises:
        NoAudioStream: there is none at all.
        NoSuchAudioStream: there is none of that number or language; the message says which there are.
        UnrecognizedFormat: nothing can decode it.
    """
    streams = container.streams.audio
    if not streams:
        raise NoAudioStream("the container has no sound track")
    if isinstance(choice, int):
        stream = streams[choice] if choice < len(streams) else None
    else:
        spoken = (s for s in streams if same_language(language_of(container, s), choice))
        stream = next(spoken, None)
    if stream is None:
        raise NoSuchAudioStream(_lacks(container, choice))
    if stream.codec_context is None:
        raise UnrecognizedFormat(
            "the FFmpeg that PyAV carries has no decoder for the sound track; an FFmpeg that has one converts it: "
            "ffmpeg -i IN OUT.flac"
        )
    return stream


def language_of(container: av.container.InputContainer, stream: av.AudioStream) -> str:
    """As the track says it, or else, where it is the only one, the file; empty where nothing does."""
    said = {name.lower(): value for name, value in stream.metadata.items()}
    if len(container.streams.audio) == 1:
        said = {**{name.lower(): value for name, value in container.metadata.items()}, **said}
    language = said.get("language", "").strip()
    return "" if language.lower() == "und" else language


def _lacks(container: av.container.InputContainer, choice: Choice) -> str:
    streams = container.streams.audio
    wanted = f"number {choice}" if isinstance(choice, int) else f"in language {choice}"
    there = [
        f"{number} ({printable_line(language_of(container, stream))[:16] or 'no language'})"
        for number, stream in enumerate(streams)
    ]
    more = f" and {len(there) - _NAMED} more" if len(there) > _NAMED else ""
    return f"no audio stream {wanted}: the file has {', '.join(there[:_NAMED])}{more}"
