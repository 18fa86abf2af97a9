"""What the README says, done."""

import re
import subprocess
import sys
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECK = """
import sys
import numpy as np
import pipeline.features
pipeline.features.__path__.append(sys.argv[1])
from pipeline.features.spectra import SharedSpectra
from pipeline.workflows.config import ExtractConfig
config = ExtractConfig()
assert "zcr" in config.features.enabled
assert config.features.zcr.threshold == 0.0
[zcr] = [e for e in config.extractors() if e.name == "zcr"]
x = np.tile(np.float32([0.5, -0.5]), 500)
print(zcr.extract(SharedSpectra(x, 8000, x[None], 8000)).values)
"""


def test_the_extractor_of_the_readme_is_one_file(repo, tmp_path):
    """The file, and nothing else, makes it appear in the config and in what is enabled."""
    [code] = re.findall(r"```python\n(from dataclasses.*?)```", (repo / "README.md").read_text(), re.DOTALL)
    (tmp_path / "zcr.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(tmp_path)], cwd=repo, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{'zcr_mean': 1.0}"


def test_the_commands_of_the_readme_exist(repo):
    text = (repo / "README.md").read_text()
    makefile = (repo / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE) or f" {target} " in makefile, target
    for script in re.findall(r"(?:jobs|benchmarks|tests)/\w+\.py", text):
        assert (repo / script).exists(), script


def test_what_the_readme_imports_comes_with_its_two_commands(repo):
    """`make demo` installs the dependencies and no extra: a recipe that needs one would end in an ImportError."""
    text = (repo / "pyproject.toml").read_text()
    [block] = re.findall(r"(?ms)^dependencies = \[\n(.*?)^\]", text)
    todo = re.findall(r'^\s*"([^"]+)"', block, re.MULTILINE)
    have: set[str] = set()
    while todo:
        one = Requirement(todo.pop())
        name = canonicalize_name(one.name)
        if name in have or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        have.add(name)
        for line in metadata.requires(name) or ():
            needed = Requirement(line)
            if not needed.marker or any(needed.marker.evaluate({"extra": e}) for e in ("", *one.extras)):
                todo.append(line.partition(";")[0])
    sources = re.findall(r"```python\n(.*?)```", (repo / "README.md").read_text(), re.DOTALL)
    modules = {
        name.split(".")[0]
        for code in sources
        for name in re.findall(r"^(?:import|from) ([\w.]+)", code, re.M)
    }
    homes = metadata.packages_distributions()
    for module in modules - {"pipeline", *sys.stdlib_module_names}:
        assert {canonicalize_name(name) for name in homes[module]} & have, module
    assert {"duckdb", "pandas", "pyarrow"} <= modules
