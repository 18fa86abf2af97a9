"""Optional packages: what is there, what is not, what is there and broken, and what to type."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement

from pipeline.errors import Fallback
from pipeline.features.key import Key
from pipeline.optional import INSTALL, look_up


@pytest.fixture
def package(tmp_path, monkeypatch):
    """``package(name, source)`` puts a package on the path, with a distribution of version 1.2."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, source: str | None) -> None:
        (tmp_path / name).mkdir()
        if source is not None:
            (tmp_path / name / "__init__.py").write_text(source)
        info = tmp_path / f"{name}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        monkeypatch.delitem(sys.modules, name, raising=False)

    return write


@pytest.mark.parametrize("load", [False, True])
def test_what_is_there_is_told_with_its_version(load):
    found = look_up("soundfile", load)
    assert found.available
    assert found.version == version("soundfile")
    assert found.reason == f"soundfile {found.version} is installed"


def test_a_module_is_found_under_the_name_of_its_distribution():
    assert look_up("laion_clap").version == version("laion-clap")


@pytest.mark.parametrize(
    ("name", "typed"), [("essentia", "essentia>=2.1b6.dev1389"), ("no_such_package", "no_such_package")]
)
def test_what_is_missing_is_told_with_what_to_type(name, typed, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    found = look_up(name)
    assert (found.available, found.version) == (False, None)
    assert found.reason == f"{name} is not installed; type `pip install '{typed}'`"


def test_looking_up_imports_nothing_unless_asked(package):
    package("sm_probe", "import sys\nsys.modules['sm_probe_ran'] = sys")
    assert look_up("sm_probe").version == "1.2"
    assert "sm_probe_ran" not in sys.modules
    assert look_up("sm_probe", load=True).available
    assert sys.modules.pop("sm_probe_ran")


def test_a_broken_installation_gives_a_reason_and_raises_nothing(package):
    package("sm_broken", "raise OSError('libsm.so:\\n cannot open')")
    assert look_up("sm_broken").available
    found = look_up("sm_broken", load=True)
    assert (found.available, found.version) == (False, "1.2")
    assert found.reason == (
        "sm_broken 1.2 does not load (OSError: libsm.so: cannot open); "
        "type `pip install --force-reinstall 'sm_broken'`"
    )


def test_a_folder_of_that_name_is_no_package(package):
    package("sm_folder", None)
    assert not look_up("sm_folder").available


def test_the_fallback_says_what_took_its_place(monkeypatch):
    monkeypatch.setitem(sys.modules, "essentia", None)
    found = look_up("essentia")
    assert found.fallback("features", "key.backend=essentia", "own") == Fallback(
        "features", "key.backend=essentia", "own", found.reason
    )


def test_a_broken_essentia_costs_a_track_nothing(package, chord_spectra):
    package("essentia", "raise ImportError('wrong numpy')")
    [fallback] = Key(backend="essentia", method="stft").extract(chord_spectra).fallbacks
    assert "does not load (ImportError: wrong numpy)" in fallback.reason


def test_what_is_typed_is_in_the_package_itself(repo):
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *(project["optional-dependencies"].get(m, [""])[0] for m in INSTALL)]
    declared = {Requirement(r).name.lower(): Requirement(r) for r in listed if r}
    for module, typed in INSTALL.items():
        wanted = Requirement(typed)
        assert wanted.name != project["name"], "no index has it"
        assert wanted.specifier == declared[wanted.name].specifier, module


@pytest.fixture
def chord_spectra():
    import numpy as np

    from pipeline.features.spectra import SharedSpectra

    time = np.arange(22050) / 22050
    tones = sum(np.sin(2 * np.pi * f * time) for f in (261.6, 329.6, 392.0)).astype(np.float32) / 3
    return SharedSpectra(tones, 22050, tones[None], 22050)
