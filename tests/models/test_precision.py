import platform

import pytest
import torch

from pipeline.errors import Fallback, UserError
from pipeline.models import precision
from pipeline.models.precision import normalise_amp, pick_precision


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("auto", "auto"),
        ("True", "true"),
        (True, "true"),
        ("1", "true"),
        (False, "false"),
        (" FALSE ", "false"),
    ],
)
def test_what_yaml_a_shell_and_the_environment_give(given, word):
    assert normalise_amp(given) == word


def test_another_word_is_refused():
    with pytest.raises(UserError, match="amp=half is not one of auto, true, false"):
        pick_precision("half", "cpu")


@pytest.mark.parametrize("has_it", [True, False])
def test_auto_and_true_follow_the_instructions_of_the_cpu(monkeypatch, has_it):
    monkeypatch.setattr(precision, "cpu_computes_bf16", lambda: has_it)
    auto, asked = pick_precision("auto", "cpu"), pick_precision("true", "cpu")
    assert auto.name == asked.name == ("bfloat16" if has_it else "float32")
    assert auto.fallback("clap") is None
    wanted = None if has_it else Fallback("clap", "bfloat16", "float32", asked.reason)
    assert asked.fallback("clap") == wanted
    assert has_it or "no bfloat16 instructions" in asked.reason


def test_false_is_float32_whatever_there_is(monkeypatch):
    monkeypatch.setattr(precision, "cpu_computes_bf16", lambda: True)
    chosen = pick_precision("false", "cpu")
    assert (chosen.dtype, chosen.fallback("clap")) == (torch.float32, None)


def test_a_device_that_does_not_run_it_gets_float32(monkeypatch):
    monkeypatch.setattr(precision, "cpu_computes_bf16", lambda: True)
    monkeypatch.setattr(precision, "bf16_supported", lambda device: False)
    chosen = pick_precision("true", "cpu")
    assert chosen.fallback("clap") == Fallback("clap", "bfloat16", "float32", "cpu does not run bfloat16")


def test_the_probe_of_this_cpu_agrees_with_the_kernel():
    """Linux lists the instructions; torch may know fewer, never more."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("needs /proc/cpuinfo of an x86")
    with open("/proc/cpuinfo") as file:  # noqa: PTH123
        flags = next(line for line in file if line.startswith("flags")).split()
    if precision.cpu_computes_bf16():
        assert {"avx512_bf16", "amx_bf16"} & set(flags)
