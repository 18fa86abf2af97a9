"""What test_fused_norm runs under Triton's interpreter, in a process of its own: errors as JSON on stdout."""

from __future__ import annotations

import json
import logging
import warnings
from fractions import Fraction

import torch
from demucs.demucs import DConv
from demucs.htdemucs import HTDemucs
from torch import nn

import helpers.triton_on_cpu  # noqa: F401  first
from pipeline.models.separation import fused_demucs, fused_norm
from pipeline.models.separation.demucs import flash_attention
from pipeline.models.separation.fused_norm import Cast
from pipeline.models.separation.networks import parameters_hash

# demucs warns about layers of small models that have nothing to initialise.
warnings.filterwarnings("ignore")

BRANCHES = {
    # batch, channels, inner, length
    "one short row": (1, 16, 1, 5),
    "two blocks of a row": (1, 48, 1, 129),
    "a whole block, many rows": (3, 16, 5, 128),
    "many channels, odd length": (2, 136, 1, 47),
}
FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def decibels(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(10 * torch.log10(expected.square().sum() / (found - expected).square().sum()))


def branches() -> dict[str, float]:
    """What a DConv adds: of the fused one against torch's, both in the format, from torch's in float32."""
    errors = {}
    for what, (batch, channels, inner, length) in BRANCHES.items():
        dconv = DConv(channels, compress=8, depth=2, init=1.0).eval()
        for name, dtype in FORMATS.items():
            x = (torch.randn(batch, channels, inner, length) + 2).to(dtype)
            rows = x.float().transpose(1, 2).flatten(0, 1)

            def back(y: torch.Tensor, batch: int = batch, inner: int = inner) -> torch.Tensor:
                return y.unflatten(0, (batch, inner)).transpose(1, 2)

            exact = back(dconv(rows)) - x.float()
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                plain = back(dconv(rows.to(dtype)))
            fused = fused_norm.residual_branches(dconv.layers, Cast(), x, dtype, rounds=False)
            assert fused.dtype == plain.dtype == torch.float32
            errors[f"{what}, {name}"] = apart(fused - x.float(), exact)
            errors[f"{what}, {name}, torch"] = apart(plain - x.float(), exact)
    return errors


def elementwise() -> dict[str, float]:
    errors = {}
    for name, dtype in FORMATS.items():
        x, bias = torch.randn(2, 6, 3, 1001).to(dtype), torch.randn(6)
        wide = x.float() + bias[:, None, None]
        errors[f"gelu, {name}"] = apart(
            fused_norm.gelu(x.flatten(2), bias, 7, 2990), nn.functional.gelu(wide.flatten(2)[..., 7:2997])
        )
        errors[f"bias, {name}"] = apart(fused_norm.gelu(x.flatten(2), bias, activate=False), wide.flatten(2))
        errors[f"glu, {name}"] = apart(fused_norm.glu(x, bias), nn.functional.glu(wide, 1))
    return errors


def norms() -> dict[str, float]:
    """Of rows shorter and longer than a block, and of one whose mean is a thousand times its deviation."""
    errors = {}
    weight, bias = torch.randn(24), torch.randn(24)
    for what, x in {
        "short": torch.randn(3, 5, 24),
        "long": torch.randn(2, 401, 24),
        "far from zero": torch.randn(1, 401, 24) + 1000,
    }.items():
        exact = nn.functional.group_norm(
            x.double().transpose(1, 2), 1, weight.double(), bias.double(), 1e-5
        ).transpose(1, 2)
        errors[what] = apart(fused_norm.group_norm(x, weight, bias, 1e-5, torch.float32), exact)
    return errors


def network() -> dict[str, object]:
    model = HTDemucs(
        ["a", "b"], channels=8, depth=2, nfft=256, segment=Fraction(1, 8), t_layers=3, t_heads=2,
        bottom_channels=32, samplerate=8000,
    ).eval()  # fmt: skip
    for name, parameter in model.named_parameters():
        if name.endswith(".scale"):
            parameter.data.fill_(0.5)  # at first it is so small that branches would not show
    mix = 0.1 * torch.randn(2, 2, 1000) + 0.02

    def run(amp: bool) -> torch.Tensor:
        with flash_attention(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
            return model(mix).float()

    exact, half = run(False), run(True)
    before = parameters_hash([model]), list(model.state_dict())
    with_gradient = model.encoder[0].forward
    reason = fused_demucs.fuse(model, torch.device("cpu"), amp=False)
    replaced = sum(isinstance(m.__dict__.get("forward"), fused_demucs._Forward) for m in model.modules())
    found = {
        "reason": reason,
        "replaced": replaced,
        "same hash": before == (parameters_hash([model]), list(model.state_dict())),
        "float32": decibels(run(False), exact),
        "bfloat16": decibels(run(True), exact),
        "bfloat16, torch": decibels(half, exact),
        "given up": list(fused_demucs._GIVEN_UP),
    }
    with torch.inference_mode(False), torch.enable_grad():
        found["records gradients"] = model(mix.clone()).requires_grad
    fused_demucs.unfuse(model)
    found["as before"] = torch.equal(run(False), exact) and model.encoder[0].forward == with_gradient
    fused_demucs.fuse(model, torch.device("cpu"), amp=False)
    found |= fails(model, run, exact)
    return found


def fails(model: nn.Module, run, exact: torch.Tensor) -> dict[str, object]:
    """A kernel that fails, in the middle of a track."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    fused_demucs.log.addHandler(handler)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of resource: shared memory\nand more")

    fused_norm.glu = broken
    first, second = run(False), run(False)
    return {
        "after a failure": decibels(first, exact),
        "then plain": decibels(second, exact),
        "said": said,
        "fused again": fused_demucs.fuse(model, torch.device("cpu"), amp=False),
    }


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.inference_mode():
        results = {check.__name__: check() for check in (branches, elementwise, norms)}
    with torch.no_grad():
        results["network"] = network()
    print(json.dumps(results))
