"""Says at the end of a run which tests were skipped and why; with ``--known-skips-only`` a skip for another reason than
those known here fails the run: a test that nobody runs proves nothing.

Hooks of pytest, taken over by ``tests/conftest.py``; with pytest-xdist they collect what its workers skip.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

KNOWN = (
    # Whichever of the two a machine is, it skips what is about the other.
    r"needs a CUDA device",
    r"needs a machine without a GPU",
    r"there is a GPU, and nothing moves",
    # Root who keeps the rights that a test wants to do without.
    r"root enters every folder here",
    # Songs and speech that no package carries.
    r"no real audio at ",
    # Programs that pip cannot install.
    r"no Chromium here",
    r"no Java on the PATH",
)
"""Beginnings of the reasons that are no failure, as regular expressions."""


def is_known(reason: str) -> bool:
    """Whether a test may be skipped for this reason."""
    return any(re.match(known, reason) for known in KNOWN)


class Skips:
    """Counts skips by reason.

    Args:
        strict: whether an unknown reason fails the run.
    """

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.tests: Counter[str] = Counter()
        # Whole modules are skipped while they are collected, which every worker does for itself.
        self.modules: dict[str, str] = {}

    def unknown(self) -> list[str]:
        """Reasons that are not on the list."""
        return sorted(r for r in {*self.tests, *self.modules.values()} if not is_known(r))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self.tests[_reason(report)] += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.modules[report.nodeid] = _reason(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """What a worker of pytest-xdist skipped while it collected."""
        self.modules.update(getattr(node, "workeroutput", {}).get("skipped_modules", {}))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["skipped_modules"] = self.modules
        elif self.strict and self.unknown() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        lines = [f"{count} × {reason}" for reason, count in sorted(self.tests.items())]
        lines += [f"all of {module}: {reason}" for module, reason in sorted(self.modules.items())]
        if lines:
            terminalreporter.section("skipped, and why")
            terminalreporter.write_line("\n".join(lines))
        if self.strict and self.unknown():
            terminalreporter.section("not to be skipped", red=True)
            terminalreporter.write_line("\n".join(self.unknown()))
            terminalreporter.write_line("install what is missing, or put the reason into tests/skips.py")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    message = report.longrepr[2] if isinstance(report.longrepr, (tuple, list)) else str(report.longrepr)
    return " ".join(str(message).removeprefix("Skipped: ").split())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--known-skips-only",
        action="store_true",
        help="fail where a test was skipped for a reason that tests/skips.py does not know",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Skips(config.getoption("known_skips_only")), "soundmill-skips")
