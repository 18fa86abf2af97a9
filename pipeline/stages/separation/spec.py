"""The declaration of source separation: one product, the columns of a track and its stems as files. No torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.audio.views import View
from pipeline.engine.declare import Artifact, Gpu, Product, Stage
from pipeline.features.base import column, stable_key
from pipeline.models.separation.names import AUTO, BACKEND_NAMES, DROP, STEMS

if TYPE_CHECKING:
    from pipeline.models.separation.base import Separator
    from pipeline.models.separation.names import SeparationOptions

NAME = "separation"
WORKER = "pipeline.stages.separation.worker:SeparationWorker"
VIEW = View("separation", 44100, 2)
VOCALS = View("vocals", VIEW.sample_rate, VIEW.channels, maker=NAME)
"""What a stage that wants the voice of a track reads: as the backend gives it, without any of the residual."""
# By one core, which decodes at 450 times real time: benchmarks/RESULTS.md, separation backends. Open-Unmix, whose
# weights no package carries, is rated by what it takes on a card beside Spleeter.
WEIGHTS = {"demucs": 400.0, "openunmix": 60.0, "spleeter": 40.0, "midside": 3.0}
# 16 windows have 94 % of the speed of 32.
GPU = Gpu("windows", 4, 32, networks=(("htdemucs", "bfloat16"), ("spleeter", "float32")), leaves=1)

COLUMNS = (
    column("separation_backend", pa.string(), "name", "backend used"),
    column("separation_model", pa.string(), "name", "name and weights hash of its model"),
    column("separation_choice", pa.string(), "1", "auto or listed, and why the backends before it were passed over"),
    *(column(f"stem_share_{s}", pa.float32(), "ratio", f"energy of {s} over that of all stems, with the residual in it")
      for s in STEMS),
    *(column(f"stem_rms_{s}_dbfs", pa.float32(), "dBFS", f"RMS level of {s}") for s in STEMS),
    *(column(f"stem_gain_{s}_db", pa.float32(), "dB",
             f"gain of the saved FLAC of {s}: below 0 where it would have clipped, to be undone before stems are "
             "added; null where none was saved")
      for s in STEMS),
    *(column(f"stem_{s}_blob", pa.string(), "path", f"samples of {s}, float32 [2, samples] at 44.1 kHz")
      for s in STEMS),
)  # fmt: skip
STEM_FILES = Artifact(
    "stems",
    ".flac",
    b"fLaC",
    files={f"stem_gain_{stem}_db": f"{stem}.flac" for stem in STEMS},
    audio=True,
    noun="stem",
)


def separation_stage(
    backends: Sequence[str],
    key: str | None,
    *,
    stems: Sequence[str] = STEMS,
    threads: int = 1,
    backend: str = "midside",
    makes_vocals: bool = False,
    **arguments: Any,
) -> Stage:
    """The stage that separates.

    Args:
        backends: in the order wanted, or ``["auto"]``.
        key: see `separation_key`; None where no backend can run here, and rows say why.
        stems: that backends may make.
        threads: of torch, by which ``auto`` chooses.
        backend: what most tracks get.
        makes_vocals: whether later stages read `VOCALS`; the residual is then ``drop``.
        arguments: of `pipeline.stages.separation.worker.SeparationWorker`.
    """
    saves = {"gains": bool(arguments.get("save_stems")), "arrays": bool(arguments.get("save_arrays"))}
    chosen_by = {"backends": list(backends), "threads": threads if AUTO in backends else None}
    return Stage(
        NAME,
        WORKER,
        (separation_product(key, stems, **saves),),
        (VIEW,),
        (VOCALS,) if makes_vocals else (),
        arguments={"backends": list(backends), **arguments},
        weight=WEIGHTS[backend],
        gpu=GPU,
        kept=None if any(saves.values()) else chosen_by,
    )


def separation_product(
    key: str | None = None, stems: Sequence[str] = STEMS, *, gains: bool = True, arrays: bool = True
) -> Product:
    """What is filled: computed where there is a ``key``.

    Args:
        stems: that backends may make.
        gains: stems are saved, each with a gain.
        arrays: samples of stems are saved.
    """
    present = {"separation_backend", "separation_model", "separation_choice"}
    for stem in stems:
        present |= {f"stem_share_{stem}", f"stem_rms_{stem}_dbfs"}
        present |= {f"stem_gain_{stem}_db"} if gains else set()
        present |= {f"stem_{stem}_blob"} if arrays else set()
    return Product(
        NAME,
        COLUMNS,
        key=key,
        stage=NAME,
        timed=NAME,
        artifacts=(STEM_FILES,),
        version_column="separation_backend",
        rank=2,
        title="stems",
        present=frozenset(present),
    )


def separation_key(
    backends: Sequence[str],
    load: Callable[[str], Separator],
    options: SeparationOptions,
    saved: Mapping[str, Any],
) -> str:
    """The key of the separation columns: what could be chosen from, where the residual goes, and what is stored.

    Of each backend that can run the model and its weights are in it: where a better one was installed since, a
    later run computes the tracks anew.

    Args:
        load: name → backend, or `BackendUnavailable`.
        saved: ``auto_cpu_seconds``, ``save_stems``, ``save_arrays`` and ``residual``, as in the config, and
            ``takes_near_mono`` of the worker, true where it is not said.
    """
    from pipeline.models.separation.base import BackendUnavailable

    models = []
    for name in BACKEND_NAMES if AUTO in backends else backends:
        with contextlib.suppress(BackendUnavailable):
            separator = load(name)
            models.append((name, separator.version, separator.model_id()))
    parameters = {
        "name": "separation",
        "models": models,
        "bfloat16_allowed": options.amp != "false",
        "auto_cpu_seconds": saved["auto_cpu_seconds"] if AUTO in backends else None,
        "stems": saved["save_stems"],
        "arrays": saved["save_arrays"],
    }
    # Stems without their residual are what they were before there was a choice, and so is their key.
    parameters |= {"residual": saved["residual"]} if saved["residual"] != DROP else {}
    # Nor is a track that all take another one.
    return stable_key(parameters | ({} if saved.get("takes_near_mono", True) else {"takes_near_mono": False}))
