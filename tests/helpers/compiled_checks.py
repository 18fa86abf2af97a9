"""What test_clap_compiled runs under Triton's interpreter, in a process of its own: findings as JSON on stdout."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import torch

import helpers.triton_on_cpu  # noqa: F401  first
from helpers.clap_reference import synthetic_clips
from helpers.clap_towers import load_tower
from pipeline.models.clap import fast_paths, fused_htsat
from pipeline.models.clap.tower import AudioTower

SAID: list[str] = []
# Few large programs: the interpreter takes its time for each.
fused_htsat._ELEMENTS = 1 << 19


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1).min())


def fused(path: Path, clips: torch.Tensor, exact: torch.Tensor) -> dict[str, object]:
    found: dict[str, object] = {}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        tower = load_tower(path, "cpu", dtype)[0]
        plain = tower(clips)
        problems = tower.prepare(2)
        unit = tower(clips)
        found[name] = {
            "problems": problems,
            "is used": tower.fused is not None and not torch.equal(unit, plain),
            "to plain": cosine(unit, plain),
            "to float32": cosine(unit, exact),
        }
    return found


def norm() -> float:
    """Error of a norm of rows that are no power of two long and far from zero, against double precision."""
    x, delta = torch.randn(7, 3, 96) + 300, torch.randn(7, 3, 96)
    layer = torch.nn.LayerNorm(96)
    torch.nn.init.normal_(layer.weight)
    layer.requires_grad_(False)
    exact = torch.nn.functional.layer_norm(
        (x + delta).double(), (96,), layer.weight.double(), layer.bias.double()
    )
    total = x + delta
    found = fused_htsat.add_norm(x, delta, layer, torch.float32)
    assert torch.equal(x, total)
    return float((found - exact).abs().max())


def ways(tower: AudioTower, clips: torch.Tensor, exact: torch.Tensor) -> dict[str, object]:
    """Which way a batch takes, and where it goes when one fails."""
    calls: list[int] = []

    def fake_compile(function, dynamic):
        assert dynamic is False

        def run(log_mel):
            calls.append(len(log_mel))
            if len(calls) == 3:
                raise RuntimeError("recompiled in vain\nand more")
            return function(log_mel)

        return run

    found: dict[str, object] = {}
    torch.compile = fake_compile
    found["problems"] = tower.prepare(2, compile=True)
    tower(clips[:1]), tower(clips)
    found["only full batches"] = calls == [2, 2]
    found["after a failure"] = cosine(tower(clips), exact)
    found["given up"] = tower.compiled is None
    tower(clips)
    found["calls"] = len(calls)

    def no_compiler(function, dynamic):
        raise RuntimeError("Failed to find C compiler")

    torch.compile = no_compiler
    found["without a compiler"] = tower.prepare(2, compile=True)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of resource")

    fused_htsat.launch = broken
    found["without kernels"] = cosine(tower(clips), exact)
    found["nor fused"] = tower.fused is None
    found["not prepared"] = tower.prepare(2)
    return found


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    handler = logging.Handler()
    handler.emit = lambda record: SAID.append(record.getMessage())
    fast_paths.log.addHandler(handler)
    path = Path(sys.argv[1])
    clips = torch.from_numpy(np.stack(synthetic_clips()[:2]))
    tower = load_tower(path)[0]
    exact = tower(clips)
    results = {
        "fused": fused(path, clips, exact),
        "norm": norm(),
        "ways": ways(tower, clips, exact),
        "said": SAID,
    }
    print(json.dumps(results))
