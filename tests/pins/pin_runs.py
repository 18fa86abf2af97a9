"""The runs that are pinned: the default config, and one with everything on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pin_outputs
import pin_seams
import pin_sources

URIS = ("/music/a.wav", "s3://bucket/b c.flac", "https://example.org/ü.mp3", "/music/d.ogg")


@dataclass(frozen=True)
class Pinned:
    """A finished run.

    Args:
        name: ``default`` or ``everything``.
        source, output: where it read and wrote.
        result: what the job returned.
        declared: see `declared`.
        sources: name of a file → sha256 of its bytes.
    """

    name: str
    source: Path
    output: Path
    result: Any
    declared: dict[str, Any] = field(repr=False)

    def sources(self) -> dict[str, str]:
        """Name of a file → beginning of the sha256 of its bytes."""
        files = sorted(p for p in self.source.rglob("*") if p.is_file())
        return {
            p.relative_to(self.source).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()[:16]
            for p in files
        }


def default_config() -> pin_seams.ExtractConfig:
    """As it is; the networks that it asks for have no weights, and mid/side separation remains."""
    return pin_seams.ExtractConfig()


def everything_config(checkpoint: Path) -> pin_seams.ExtractConfig:
    """All extractors, all arrays, text queries, CLAP with the checkpoint, stems and their arrays."""
    config = pin_seams.ExtractConfig()
    config.clap.checkpoint = str(checkpoint)
    config.clap.window_seconds = config.clap.hop_seconds = 2.0
    config.clap.text_queries = list(pin_seams.QUERIES)
    config.separation.backends = ["midside"]
    config.separation.save_stems = config.separation.save_arrays = True
    config.blobs.max_inline_elements = 16
    # A batch of one file, so that a float does not depend on which other files there are.
    config.hardware.max_files_per_block = 1
    return config


def run_default(root: Path) -> Pinned:
    """The default config over the synthetic files."""
    return _run("default", default_config(), root, None)


def run_everything(root: Path, checkpoint: Path, shared: Path | None) -> Pinned:
    """Everything over the synthetic files, and over excerpts of the real ones where there are some."""
    return _run("everything", everything_config(checkpoint), root, shared)


def _run(name: str, config: pin_seams.ExtractConfig, root: Path, shared: Path | None) -> Pinned:
    source, output = root / "in", root / "out"
    pin_sources.write_synthetic(source / "synthetic")
    if shared is not None:
        pin_sources.write_real(source / "real", shared)
    config.source.uri, config.output.uri = str(source), str(output)
    keys = pin_seams.wanted(config)
    result = pin_seams.run(config)
    declared = {
        "keys": keys,
        "owners": pin_seams.owners(config),
        "schemas": pin_outputs.schemas(output),
        "manifest": pin_outputs.payloads(output, result.run_id, source / "synthetic"),
    }
    return Pinned(name, source, output, result, declared)


def parts() -> dict[str, list[str]]:
    """Number of files in a part → names of the parts of `URIS`."""
    return {str(most): pin_seams.part_names(URIS, most) for most in (1, 3, 4)}


def old_config(source: Path, output: Path, checkpoint: Path) -> pin_seams.ExtractConfig:
    """That of ``output_v1``: all extractors, some arrays in files, CLAP and stems."""
    config = pin_seams.ExtractConfig()
    config.source.uri, config.output.uri = str(source), str(output)
    config.clap.checkpoint = str(checkpoint)
    config.clap.window_seconds = config.clap.hop_seconds = 0.5
    config.separation.backends = ["midside"]
    config.separation.save_stems = True
    config.blobs.max_inline_elements = 100
    config.hardware.actors = dict.fromkeys(config.hardware.actors, 1)
    return config
