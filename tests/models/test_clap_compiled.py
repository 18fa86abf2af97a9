"""Faster ways through the audio tower: on the host under Triton's interpreter, and on a card where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.clap_reference import synthetic_clips, tiny_checkpoint
from helpers.clap_towers import load_tower

from pipeline.models.clap import fast_paths

REPO = Path(__file__).resolve().parents[2]
TESTS = REPO / "tests"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_checkpoint(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def found(tiny) -> dict:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": f"{REPO}{os.pathsep}{TESTS}"}
    command = [sys.executable, str(TESTS / "helpers" / "compiled_checks.py"), str(tiny)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_compiling_pays_for_hundreds_of_hours_only():
    assert not fast_paths.compile_pays(3600.0, 10.0, 5.0)
    assert not fast_paths.compile_pays(200 * 3600.0, 10.0, 5.0)
    assert fast_paths.compile_pays(300 * 3600.0, 10.0, 5.0)
    # Twice as many windows, half as much audio.
    assert fast_paths.compile_pays(150 * 3600.0, 10.0, 2.5)
    assert not fast_paths.compile_pays(300 * 3600.0, 10.0, 10.0)
    assert not fast_paths.compile_pays(0.0, 10.0, 5.0)


def test_compiled_networks_are_kept_between_runs(monkeypatch, tmp_path):
    monkeypatch.delenv("SOUNDMILL_COMPILE_CACHE", raising=False)
    assert fast_paths.cache_folder() == Path.home() / ".cache" / "soundmill" / "compile"
    monkeypatch.setenv("SOUNDMILL_COMPILE_CACHE", str(tmp_path))
    assert fast_paths.cache_folder() == tmp_path


def test_on_a_cpu_the_tower_stays_as_it_is(tiny):
    tower = load_tower(tiny)[0]
    clip = torch.from_numpy(synthetic_clips()[0])[None]
    before = tower(clip)
    assert tower.prepare(1, compile=True) == []
    assert (tower.fused, tower.compiled, tower.captured) == (None, None, None)
    assert torch.equal(tower(clip), before)


@pytest.mark.chaos  # under an interpreter of Triton, a minute in all
def test_fused_norms_give_the_same_embeddings(found):
    for name, result in found["fused"].items():
        assert result["problems"] == []
        assert result["is used"], name
        assert result["to plain"] > (0.9999999 if name == "float32" else 0.9999)
        assert result["to float32"] > 0.9999


@pytest.mark.chaos  # under an interpreter of Triton, a minute in all
def test_a_norm_keeps_the_digits_of_rows_far_from_zero(found):
    assert found["norm"] < 1e-3


@pytest.mark.chaos  # under an interpreter of Triton, a minute in all
def test_only_full_batches_are_compiled_and_each_way_has_a_way_back(found):
    ways = found["ways"]
    assert ways["problems"] == []
    assert ways["only full batches"]
    assert ways["after a failure"] > 0.999999
    assert ways["given up"]
    assert ways["calls"] == 3
    assert ways["without a compiler"] == ["clap: no torch.compile: RuntimeError: Failed to find C compiler"]
    assert ways["without kernels"] > 0.999999
    assert ways["nor fused"]
    assert ways["not prepared"] == ["clap: no fused kernels: RuntimeError: out of resource"]
    assert found["said"] == [
        "clap: no torch.compile from now on: RuntimeError: recompiled in vain",
        "clap: no torch.compile: RuntimeError: Failed to find C compiler",
        "clap: no fused kernels from now on: RuntimeError: out of resource",
        "clap: no fused kernels: RuntimeError: out of resource",
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_card(tiny, dtype):
    clips = torch.from_numpy(np.stack(synthetic_clips()[:4]))
    exact = load_tower(tiny)[0](clips)
    tower = load_tower(tiny, "cuda", dtype)[0]
    assert tower.prepare(4, compile=False, capture=True) == []
    assert tower.fused is not None
    assert tower.captured is not None
    for _ in range(2):
        for count in (4, 3):
            unit, raw = tower(clips[:count].cuda(), return_raw=True)
            cosines = torch.nn.functional.cosine_similarity(unit.cpu(), exact[:count], dim=-1)
            assert cosines.min() > 0.999
            torch.testing.assert_close(unit, raw / raw.norm(dim=1, keepdim=True))
    # What was returned before is not overwritten by the next batch.
    first = tower(clips.cuda())
    kept = first.clone()
    tower(clips.flip(0).cuda())
    assert torch.equal(first, kept)
