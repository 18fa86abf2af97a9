"""``clap.compile``: when the network is compiled, and what is said of it."""

import pytest

from pipeline.errors import UserError
from pipeline.workflows.config import ClapConfig, ExtractConfig
from pipeline.workflows.hardware import settle_compile

HOUR = 3600.0


@pytest.mark.parametrize(("hours", "expected"), [(1, "false"), (250, "false"), (300, "true"), (5000, "true")])
def test_auto_compiles_where_it_pays(hours, expected):
    clap, [reason] = settle_compile(ClapConfig(), 2, hours * HOUR)
    assert clap.compile == expected
    assert f"{hours:.1f} hours" in reason


def test_what_is_asked_for_stays_and_a_cpu_compiles_nothing():
    for wanted in ("true", "false"):
        assert settle_compile(ClapConfig(compile=wanted), 1, HOUR) == (ClapConfig(compile=wanted), ())
    assert settle_compile(ClapConfig(), 0, 9999 * HOUR) == (ClapConfig(), ())


def test_another_word_is_refused():
    config = ExtractConfig()
    config.source.uri, config.output.uri, config.clap.compile = "in", "out", "maybe"
    with pytest.raises(UserError, match=r"clap\.compile=maybe is not one of auto, true, false"):
        config.check()
