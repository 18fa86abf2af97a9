"""demucs's fused kernels against torch: on the host under Triton's interpreter, and on a card where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("demucs")
from helpers.separation_models import RATE, SEGMENT, small_htdemucs

from pipeline.models.separation import fused_demucs
from pipeline.models.separation.demucs import Demucs
from pipeline.models.separation.networks import parameters_hash

pytestmark = pytest.mark.filterwarnings("ignore")

REPO = Path(__file__).resolve().parents[2]
TESTS = REPO / "tests"


@pytest.fixture(scope="module")
def found() -> dict:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": f"{REPO}{os.pathsep}{TESTS}"}
    command = [sys.executable, str(TESTS / "helpers" / "fused_checks.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.chaos  # under an interpreter of Triton, a minute in all
def test_residual_branches(found):
    errors = found["branches"]
    assert len(errors) == 16
    for what, error in errors.items():
        if what.endswith("float32"):
            assert error < 1e-5, what
        elif what.endswith("bfloat16"):
            # No further from the exact ones than torch's, which rounds more often.
            assert error < 1.2 * errors[f"{what}, torch"] + 1e-3, what


@pytest.mark.chaos  # under an interpreter of Triton, a minute in all
def test_activations_with_their_bias(found):
    for what, error in found["elementwise"].items():
        assert error < (1e-6 if what.endswith("float32") else 3e-3), what


@pytest.mark.chaos  # under an interpreter of Triton, a minute in all
def test_group_norms_keep_the_digits_of_rows_far_from_zero(found):
    assert found["norms"]["short"] < 1e-6
    assert found["norms"]["long"] < 1e-6
    # float32 holds values around 1000 to 6e-5.
    assert found["norms"]["far from zero"] < 2e-4


@pytest.mark.chaos  # under an interpreter of Triton, a minute in all
def test_a_network_before_and_after(found):
    network = found["network"]
    assert network["reason"] is None
    assert network["given up"] == []
    # Two branches and both layers of four codecs, the norms of six transformer layers, the transformer.
    assert network["replaced"] >= 4 + 8 + 6 + 1
    assert network["float32"] > 100
    assert network["bfloat16"] > network["bfloat16, torch"] - 1.5


@pytest.mark.chaos  # under an interpreter of Triton, a minute in all
def test_parameters_gradients_and_the_way_back(found):
    assert found["network"]["same hash"]
    assert found["network"]["records gradients"]
    assert found["network"]["as before"]


@pytest.mark.chaos  # under an interpreter of Triton, a minute in all
def test_a_kernel_that_fails_gives_way_to_torch_and_says_so_once(found):
    network = found["network"]
    assert network["after a failure"] > 100
    assert network["then plain"] > 100
    assert len(network["said"]) == 1
    assert network["said"][0].endswith("RuntimeError: out of resource: shared memory")
    assert "plain torch instead of fused kernels" in network["fused again"]


def test_on_a_cpu_the_network_stays_as_it_is_and_triton_is_not_needed():
    code = """
import sys
sys.modules["triton"] = None
import torch
from helpers.separation_models import small_htdemucs
from pipeline.models.separation import fused_demucs
from pipeline.models.separation.demucs import Demucs
model = small_htdemucs()
assert "cpu" in fused_demucs.fuse(model, torch.device("cpu"), amp=False)
assert not any("forward" in module.__dict__ for module in model.modules())
Demucs(model)
assert not any("forward" in module.__dict__ for module in model.modules())
from pipeline.models.separation import fused_norm
fused_demucs.DEVICES = ("cpu",)
assert "plain torch" in fused_demucs.fuse(model, torch.device("cpu"), amp=False)
"""
    environment = {**os.environ, "PYTHONPATH": f"{REPO}{os.pathsep}{TESTS}"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp", [False, True])
def test_on_a_card(amp, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = small_htdemucs()
    for name, parameter in model.named_parameters():
        if name.endswith(".scale"):
            parameter.data.fill_(0.5)
    mix = 0.1 * torch.randn(3, 2, SEGMENT, generator=torch.Generator().manual_seed(0)) + 0.02
    assert model.samplerate == RATE
    digest = parameters_hash([model])
    with torch.inference_mode():
        exact = model(mix)
        backend = Demucs(model, "cuda", amp)
        assert backend.plain == ""
        fused = backend.separate(mix.cuda()).cpu()
        fused_demucs.unfuse(model)
        plain = backend.separate(mix.cuda()).cpu()

    def decibels(y: torch.Tensor) -> float:
        return float(10 * torch.log10(exact.square().sum() / (y - exact).square().sum()))

    assert decibels(fused) > (decibels(plain) - 1.5 if amp else 90)
    assert parameters_hash([model]) == digest
    assert fused_demucs._GIVEN_UP == []
