"""``hardware.*``: what of the machine each stage takes, and how much audio travels at a time."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.audio.isolated import MAX_TRACK_BYTES, MAX_TRACK_HOURS, MIN_MEMORY_BYTES, TIMEOUT_S
from pipeline.errors import UserError
from pipeline.workflows.config_checks import positive, refused, stage_of

_BY_STAGE = ("actors", "gpu_shares", "batch_items", "vram_bytes", "models")


@dataclass
class HardwareConfig:
    """A profile: which share of a GPU each stage takes and how much audio travels in a block.

    Which stages there are is the job's to say, see `for_stages`.

    ``gpu_shares.<stage>`` is the n of 1/n GPU per actor; 0 keeps the stage on the CPU, where ``decode`` and
    ``features`` always are. ``actors.<stage>`` fixes a pool's size; 0 sizes it from the cluster.
    ``batch_items.<stage>`` is how many clips, or windows of separation, a network takes at a time; 0 leaves it to
    the stage. ``gpu_memory_fraction`` of a card is what all actors on it may use together, each its 1/n of it.
    ``vram_bytes.<stage>`` is what one actor needs there, for ``hardware=auto``; 0 takes what `pipeline.engine.vram`
    knows of its batch. ``auto`` fills in ``gpu_shares``, and ``actors``, ``batch_items`` and the two block sizes where
    they are 0.
    Decoded audio of up to ``max_track_bytes`` travels between the stages; of a longer track (40 min of stereo with
    all stages on) each stage reads the source itself, in pieces. ``max_track_hours`` is the longest taken at all.
    A file of which no samples come for ``decode_timeout_s`` is a failure, however long one may take that gets on.
    ``decode_memory_bytes`` is what the process that decodes may take besides the views; 0 is twice
    ``max_track_bytes`` and 1 GiB.
    A step of speech preparation may take ``time_limit`` seconds for each second of a file's audio, 10 minutes at
    least: a file that takes longer is a failure of that step, and one that hangs ends the process first. 0 is no limit.
    The stages of other jobs have none.
    ``processes`` is how many work side by side at most where there is no Ray, each with all networks, and never more
    than the cores that the job may use; 0 goes by those alone.
    ``models.<stage>`` is the largest model that suits the machine, for jobs that let it decide.
    """

    name: str = "cpu"
    gpu_shares: dict[str, int] = field(default_factory=dict)
    actors: dict[str, int] = field(default_factory=dict)
    batch_items: dict[str, int] = field(default_factory=dict)
    gpu_memory_fraction: float = 0.75
    vram_bytes: dict[str, int] = field(default_factory=dict)
    block_audio_seconds: float = 300.0
    max_files_per_block: int = 256
    max_track_bytes: int = MAX_TRACK_BYTES
    max_track_hours: float = MAX_TRACK_HOURS
    decode_timeout_s: float = TIMEOUT_S
    decode_memory_bytes: int = 0
    time_limit: float = 2.0
    processes: int = 0
    models: dict[str, str] = field(default_factory=dict)

    @classmethod
    def for_stages(cls, pools: Sequence[str], gpu_stages: Sequence[str]) -> HardwareConfig:
        """A profile of the CPU for a job's actor pools, of which ``gpu_stages`` can run on a GPU."""
        shares, batches, needs = (dict.fromkeys(gpu_stages, 0) for _ in range(3))
        return cls(gpu_shares=shares, actors=dict.fromkeys(pools, 0), batch_items=batches, vram_bytes=needs)

    def of_job(self, pools: Sequence[str], others: Collection[str]) -> None:
        """Leave out what a profile says of stages that only other jobs have.

        Args:
            pools: of this job.
            others: stages of all jobs; what is of none stays, and is refused.
        """
        for key in _BY_STAGE:
            said = getattr(self, key)
            foreign = {s for s in said if s in others and s not in pools}
            setattr(self, key, {s: n for s, n in said.items() if s not in foreign})

    def check(self, pools: Sequence[str], gpu_stages: Sequence[str], chosen: Collection[str] = ()) -> None:
        """Refuse what cannot work, a stage that the job does not have included. Raises `UserError`.

        Args:
            pools, gpu_stages: of the job.
            chosen: the stages whose model the machine may choose.
        """
        for key in ("hardware.block_audio_seconds", "hardware.max_files_per_block"):
            if self.name != "auto" or getattr(self, key.rpartition(".")[2]) != 0:
                positive(self, key)
        positive(self, "hardware.max_track_bytes")
        positive(self, "hardware.max_track_hours")
        positive(self, "hardware.decode_timeout_s")
        if self.decode_memory_bytes and self.decode_memory_bytes < MIN_MEMORY_BYTES:
            must = f"must be 0 (worked out) or at least {MIN_MEMORY_BYTES}"
            raise refused(self, "hardware.decode_memory_bytes", must)
        if not (math.isfinite(self.time_limit) and self.time_limit >= 0):
            raise refused(self, "hardware.time_limit", "must be 0 (no limit) or a positive number")
        if self.processes < 0:
            raise refused(self, "hardware.processes", "must be 0 (worked out) or a number of processes")
        key = "hardware.models"
        for stage, model in self.models.items():
            if stage not in chosen:
                why = f"the stages that let it: {', '.join(chosen) or 'none of this job'}"
                do = f"hardware={self.name} without it"
                raise UserError(
                    f"{key}.{stage}={model}: {stage} does not let the machine choose its model", why, do
                )
        if not 0 < self.gpu_memory_fraction <= 1:
            raise refused(self, "hardware.gpu_memory_fraction", "must lie within 0..1, above 0")
        for stage, share in self._of_gpu_stages("gpu_shares", gpu_stages):
            if share < 0:
                raise UserError(
                    f"hardware.gpu_shares.{stage}={share} is no share of a GPU",
                    "it is the n of 1/n, because Ray packs actors onto a card by whole parts",
                    f"hardware.gpu_shares.{stage}=4 for a quarter of a card, hardware.gpu_shares.{stage}=0 for the CPU",
                )
            if share and self.name == "auto":
                raise UserError(
                    f"hardware.gpu_shares.{stage}={share} does not go with hardware=auto",
                    "auto works the shares out",
                    f"hardware=gpu_small to fix it, or hardware.gpu_shares.{stage}=0 and "
                    f"hardware.vram_bytes.{stage}=BYTES to say what it needs",
                )
        for stage, count in self.actors.items():
            stage_of("hardware.actors", stage, count, pools)
            if count < 0:
                raise _no_number("actors", stage, count, "automatic", "actors")
        for stage, size in self._of_gpu_stages("vram_bytes", gpu_stages):
            if size < 0:
                raise _no_number("vram_bytes", stage, size, "as measured", "bytes")
        for stage, items in self.batch_items.items():
            stage_of("hardware.batch_items", stage, items, gpu_stages)
            if items < 0:
                raise _no_number("batch_items", stage, items, "automatic", "clips or windows")

    def _of_gpu_stages(self, key: str, gpu_stages: Sequence[str]) -> Iterator[tuple[str, int]]:
        """The entries of ``gpu_shares`` or ``vram_bytes``; one of the descriptors may say 0 and is left out."""
        for stage, value in getattr(self, key).items():
            if stage != "features":
                stage_of(f"hardware.{key}", stage, value, gpu_stages)
                yield stage, value
            elif value:
                raise UserError(
                    f"hardware.{key}.features={value}: the descriptors do not run on a GPU",
                    "one CPU core does them at 222 times real time, an H100 at 290: their kernels are many and small",
                    f"hardware.{key}.features=0; hardware.actors.features=N says how many processes compute them",
                )


def _no_number(key: str, stage: str, value: int, zero: str, of: str) -> UserError:
    return UserError(
        f"hardware.{key}.{stage}={value} must be 0 ({zero}) or a number of {of}",
        do=f"hardware.{key}.{stage}=0",
    )
