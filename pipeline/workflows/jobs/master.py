"""Mastering: from its config and the references that were listened to to its stages."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from pipeline.audio.reader import Spool
from pipeline.audio.song_formats import SongFormat
from pipeline.audio.stream import open_bytes
from pipeline.audio.validate import DecodeError
from pipeline.counting import plural
from pipeline.dataset.output import Output
from pipeline.dataset.sources.addresses import WEB, scheme
from pipeline.dataset.sources.explain import explain
from pipeline.dataset.storage import filesystem, one_line, public_uri
from pipeline.engine.declare import Pipeline, Product
from pipeline.errors import UserError
from pipeline.features.base import Extractor
from pipeline.features.fingerprint import Fingerprint
from pipeline.features.golden import Golden
from pipeline.stages.features.spec import extractor_product, features_stage
from pipeline.stages.master.spec import master_product, master_stage
from pipeline.workflows.job import Found, Job
from pipeline.workflows.master_config import MasterConfig, config_from

METHOD = "soundmill"
DSP_RATE = 22050
"""Hz, of the mono mix that the fingerprint's rhythm and pitch are heard in."""


@dataclass
class Masters(Found):
    """What was found.

    Args:
        references: of `pipeline.mastering.drafting.Reference`.
    """

    references: tuple[Any, ...] = ()

    def pipeline(
        self,
        config: MasterConfig,
        output: Output | None = None,
        *,
        everywhere: bool = False,
        golden: Golden | None = None,
    ) -> Pipeline:
        """Take the fingerprint, master, see `Found.pipeline`."""
        options = config.master
        fingerprint = features_stage(
            [Fingerprint()], DSP_RATE, max_track_bytes=config.hardware.max_track_bytes, golden=golden
        )
        master = master_stage(
            options.wish(),
            options.form(),
            references=self.references,
            encodes=options.encodes,
            preview_s=options.preview,
            sample_rate=options.sample_rate,
            output=output,
            method=METHOD,
        )
        return Pipeline((fingerprint, master), known_products()).linked()

    def extractors(self, config: MasterConfig) -> tuple[list[Extractor], int]:
        """The fingerprint."""
        return [Fingerprint()], DSP_RATE

    def about(self, config: MasterConfig) -> str:
        """Preset, mode and what is promised."""
        options = config.master
        loudness = f"{options.numbers().lufs:g} LUFS"
        if self.references and "lufs" not in options.own():
            near = "the loudness of" if options.mode == "reference" else f"between {loudness} and that of"
            loudness = f"{near} {plural(len(self.references), 'reference')}"
        return f"preset {options.preset}, {options.mode}: {loudness} and {options.ceiling():g} dBTP; {options.format}"


def find(config: MasterConfig) -> Masters:
    """Listen to the references. Raises `UserError` where one cannot be read."""
    return Masters(references=tuple(_heard(config, place) for place in config.master.references()))


def _heard(config: MasterConfig, place: str) -> Any:
    from pipeline.mastering.song import reference

    try:
        fs, path = filesystem(place, _options(config, place))
        with fs.open(path, "rb") as file:
            data = file.read()
    except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
        raise explain(place, error) from None
    try:
        with open_bytes(data) as stream, closing(Spool.of(stream, stream.channels)) as spool:
            return reference(spool, stream.sample_rate, hashlib.sha256(data).hexdigest())
    except (DecodeError, ValueError) as error:
        raise UserError(
            f"the reference {public_uri(place)} cannot be read",
            one_line(error, 200),
            "master.reference=FILE with a song in it, or master.mode=adaptive",
        ) from None


def _options(config: MasterConfig, place: str) -> dict[str, Any] | None:
    """Those of the source, where the reference is asked of the same: what opens the one is not told to others."""
    source = config.source.uri or config.source.manifest or ""
    if scheme(place) != scheme(source):
        return None
    web = scheme(place) in WEB
    same = urlsplit(place).netloc == urlsplit(source).netloc
    return config.source.storage_options if same or not web else None


def known_products() -> tuple[Product, ...]:
    """Every product that this job can have, none of them computed."""
    fingerprint = extractor_product(Fingerprint(), DSP_RATE)
    return (replace(fingerprint, key=None), master_product(SongFormat("flac")))


MASTER = Job(
    "master",
    "master.py",
    config=config_from,
    find=find,
    unsought=Masters,
    known=known_products,
    seeks=lambda config: "listening to the reference" if config.master.references() else "",
)
