"""Mastering: from its config and the references that were listened to to its stages."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from pipeline.audio.reader import Spool
from pipeline.audio.song_formats import SongFormat
from pipeline.audio.stream import open_bytes
from pipeline.audio.validate import DecodeError
from pipeline.dataset.output import Output
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
        like = f" like {len(self.references)} reference(s)" if self.references else ""
        return (
            f"mastered by preset {options.preset}, {options.mode}{like}, to {options.numbers().lufs:g} LUFS and "
            f"{options.ceiling():g} dBTP; {options.format}"
        )


def find(config: MasterConfig) -> Masters:
    """Listen to the references. Raises `UserError` where one cannot be read."""
    return Masters(references=tuple(_heard(config, place) for place in config.master.references()))


def _heard(config: MasterConfig, place: str) -> Any:
    from pipeline.mastering.song import reference

    try:
        fs, path = filesystem(place, config.source.storage_options if "://" in place else None)
        with fs.open(path, "rb") as file:
            data = file.read()
        with open_bytes(data) as stream, closing(Spool.of(stream, stream.channels)) as spool:
            return reference(spool, stream.sample_rate, hashlib.sha256(data).hexdigest())
    except (OSError, DecodeError, ValueError, ImportError) as error:
        raise UserError(
            f"the reference {public_uri(place)} cannot be read",
            one_line(error, 200),
            "master.reference=FILE with a song in it, or master.mode=adaptive",
        ) from None


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
