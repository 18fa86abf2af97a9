"""The configuration of the karaoke service: that of the karaoke job, and `service.*`."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.errors import UserError
from pipeline.workflows.karaoke_config import KaraokeConfig
from pipeline.workflows.service_config import ServiceConfig

RATE, CHANNELS = 44_100, 2
"""Of the results, whatever the songs have."""


@dataclass
class KaraokeServiceConfig(KaraokeConfig):
    """Everything ``jobs/karaoke_service.py`` can be told. Songs come with messages, and so there is no source."""

    service: ServiceConfig = field(default_factory=ServiceConfig)

    def check(self) -> None:
        """Refuse what cannot work, in words that name the key. Raises `UserError`."""
        for key, given in (("source.uri", self.source.uri), ("output.uri", self.output.uri)):
            if given:
                instead = "service.roots=[FOLDER]" if key == "source.uri" else "service.output_uri=FOLDER"
                raise UserError(
                    f"{key} is not for the service", "each message says which song is meant", instead
                )
        self.service.check()
        self.ray.check()
        self.perf.check()
        self.hardware.check(self.pools(), self.gpu_stages())
        self.karaoke.check()
        for key, given, instead in (
            ("dry_run", self.dry_run, "dry_run=false"),
            ("karaoke.keep", self.karaoke.keep, "karaoke.keep=[]"),
        ):
            if given:
                raise UserError(f"{key} is not for the service", "it is for python jobs/karaoke.py", instead)
        if self.service.workers == "inline" and self.hardware.name == "auto":
            raise UserError(
                "hardware=auto does not go with service.workers=inline",
                "without Ray nobody shares the cards out",
                "service.workers=ray, or hardware=cpu",
            )
        if self.karaoke.format != "mp3":
            raise UserError(
                f"karaoke.format={self.karaoke.format} is not for the service",
                "whoever asks expects an MP3",
                "karaoke.format=mp3, or python jobs/karaoke.py for other formats",
            )
        if self.service.workers == "inline" and self.ray.names_a_cluster:
            raise UserError(
                f"ray.address={self.ray.address} does not go with service.workers=inline",
                "inline does without Ray",
                "service.workers=ray, or ray.address=null",
            )
