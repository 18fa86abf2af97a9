"""``hardware=auto`` made into a profile, once the cluster is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipeline.engine.declare import Stage
from pipeline.engine.sizing import size_for_cards, size_for_cpu
from pipeline.models.precision import normalise_amp
from pipeline.workflows.config import ClapConfig
from pipeline.workflows.hardware_config import HardwareConfig


def settle_compile(clap: ClapConfig, share: int, audio_s: float) -> tuple[ClapConfig, tuple[str, ...]]:
    """``clap.compile=auto`` made into true or false, and why, in one line; none where nothing is asked or gained.

    Args:
        share: of a GPU that CLAP has, the n of 1/n; 0 is the CPU, where nothing is compiled.
        audio_s: in the whole run, roughly.
    """
    wanted = normalise_amp(clap.compile, "clap.compile")
    if wanted != "auto" or not share:
        return clap, ()
    from pipeline.models.clap.fast_paths import compile_pays  # imports torch

    pays = compile_pays(audio_s, clap.window_seconds, clap.hop_seconds)
    text = f"clap.compile=auto: {'compiled' if pays else 'not compiled'}, for {audio_s / 3600:.1f} hours of audio"
    return dataclasses.replace(clap, compile=str(pays).lower()), (text,)


def resolve_hardware(
    hardware: HardwareConfig, stages: Sequence[Stage], asked: tuple[list[int], str] | None = None
) -> tuple[HardwareConfig, tuple[str, ...]]:
    """The profile as it is, or ``auto`` worked out for the cluster Ray is connected to; and why, line by line.

    What the config fixes itself (``actors``, batches, block sizes) stays.

    Args:
        asked: bytes of every card, and why there is none, where that is known without Ray.

    Raises:
        UserError: the actors that the config fixes do not fit the cards, or no card answers.
    """
    if hardware.name != "auto":
        return hardware, ()
    if asked is None:
        from pipeline.engine.session import gpu_cards  # imports Ray

        asked = gpu_cards()
    cards, problem = asked
    if cards:
        sizing = size_for_cards(
            stages,
            cards,
            hardware.gpu_memory_fraction,
            vram_bytes=hardware.vram_bytes,
            fixed_actors=hardware.actors,
            fixed_items=hardware.batch_items,
        )
    else:
        sizing = size_for_cpu(stages, problem)
    worked_out = dataclasses.replace(
        hardware,
        gpu_shares=hardware.gpu_shares | sizing.gpu_shares,
        actors={stage: n or sizing.actors.get(stage, 0) for stage, n in hardware.actors.items()},
        batch_items={s: n or sizing.batch_items.get(s, 0) for s, n in hardware.batch_items.items()},
        block_audio_seconds=hardware.block_audio_seconds or sizing.block_audio_seconds,
        max_files_per_block=hardware.max_files_per_block or sizing.max_files_per_block,
    )
    return worked_out, sizing.reasons
