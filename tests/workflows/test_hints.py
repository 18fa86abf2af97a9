"""What an error says to type is typed: every hint of every check of the config is composed, and accepted."""

import ast
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from config_mistakes import MISTAKES, Mistake

from pipeline.errors import UserError

BASE = ("source.uri=/in", "output.uri=/out")
PLACEHOLDERS = {"FOLDER": "/folder", "BUCKET": "bucket", "BYTES": "1000000000", "DEFAULT": "3"}
COMMANDS = ("python jobs/extract_features.py --cfg job",)
REFUSING_FILES = (
    "pipeline/workflows/config.py",
    "pipeline/workflows/config_checks.py",
    "pipeline/workflows/features_config.py",
    "pipeline/workflows/hardware_config.py",
    "pipeline/workflows/place_checks.py",
    "pipeline/workflows/cache_config.py",
    "pipeline/workflows/plan_config.py",
    "pipeline/workflows/run_config.py",
    "jobs/commandline.py",
    "jobs/explaining.py",
)
# What makes an error there; `_no_number` and `refused` are called with one in mind, too.
REFUSING = {
    "UserError",
    "refused",
    "positive",
    "one_of",
    "each_of",
    "stage_of",
    "check_place",
    "check_options",
    "check_writable",
    "check_path_on_a_cluster",
    "_no_number",
    "no_option",
}


@pytest.fixture(scope="module")
def compose(repo):
    sys.path.insert(0, str(repo / "jobs"))
    import compose

    compose.register()
    return compose


@dataclass
class Driven:
    """What every mistake is told, and which lines were gone through for that."""

    errors: dict[str, UserError] = field(default_factory=dict)
    lines: set[tuple[str, int]] = field(default_factory=set)


@pytest.fixture(scope="module")
def driven(compose, tmp_path_factory) -> Driven:
    """Each mistake made once."""
    result = Driven()
    made = UserError.__init__

    def noted(self, *arguments, **named):
        frame = sys._getframe(1)
        while frame is not None:
            result.lines.add((frame.f_code.co_filename, frame.f_lineno))
            frame = frame.f_back
        made(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UserError, "__init__", noted)
        for mistake in MISTAKES:
            with patch.context() as inner:
                for name, value in mistake.environment.items():
                    inner.setenv(name, value)
                start = primary(compose, mistake, tmp_path_factory.mktemp("configs"))
                try:
                    compose.load(command(mistake.given), primary=start)
                except UserError as error:
                    result.errors[str(mistake)] = error
    return result


def primary(compose, mistake: Mistake, folder: Path):
    """The config that a command line begins with; a folder of one's own is written."""
    if not mistake.files:
        return compose.Primary()
    for name, text in mistake.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return compose.Primary("mine", more=folder)


def command(given) -> list[str]:
    """What is typed, with places where none are."""
    keys = [key_of(o) for o in given]
    return [*(o for o in BASE if key_of(o) not in keys), *given]


def key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def is_key(commandline, key: str, folders: list[Path]) -> bool:
    known = set(commandline.known_keys())
    free = tuple(f"{name[:-2]}." for name in known if name.endswith(".*"))
    return key in known or key.startswith(free) or bool(commandline.options_of(key, folders))


def hints(commandline, do: str, folders: list[Path]) -> list[list[str]]:
    """What is said to type: alternatives, each the overrides that go together."""
    found: list[list[str]] = []
    for alternative in re.split(r"\bor\b", do):
        if "--multirun" in alternative:
            commandline.check_keys(shlex.split(alternative)[1:], sweep=True)
            continue
        alternative = re.sub(rf"\b({'|'.join(PLACEHOLDERS)})\b", lambda m: PLACEHOLDERS[m[0]], alternative)
        together: list[str] = []
        for word in shlex.split(alternative):
            word = re.sub(r"=N$", "=2", word.rstrip(",;"))
            if "=" not in word or not is_key(commandline, key_of(word), folders):
                continue
            if key_of(word) in map(key_of, together):
                found.append(together)
                together = []
            together.append(word)
        found += [together] if together else []
    return found


def mended(commandline, given: list[str], hint: list[str], folders: list[Path]) -> list[str]:
    """The command line with what the hint says in the place of what it is about."""
    ours = [key_of(o) for o in hint]
    known = set(commandline.known_keys())
    return [
        *(
            o
            for o in given
            if not any(f"{key}.".startswith(f"{key_of(o)}.") for key in ours)
            and (key_of(o) in known or "storage_options." in o or commandline.options_of(key_of(o), folders))
            and "=" in o
        ),
        *hint,
    ]


def follow(compose, given: list[str], error: UserError, start, steps: int = 3) -> None:
    """Type what is said, each alternative; where that shows a further mistake, what is said of that."""
    import commandline

    assert len(str(error).splitlines()) == 1
    assert error.do, error.explained()
    alternatives = hints(commandline, error.do, start.folders())
    if not alternatives:
        assert any(error.do.startswith(command) for command in COMMANDS), error.explained()
    for hint in alternatives:
        typed = mended(commandline, given, hint, start.folders())
        further = None
        try:
            compose.load(typed, primary=start)
        except UserError as again:
            further = again
        if further is not None:
            assert further.what != error.what, further.explained()
            assert steps, further.explained()
            follow(compose, typed, further, start, steps - 1)


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_what_an_error_says_to_type_is_accepted(compose, driven, tmp_path, monkeypatch, mistake):
    error = driven.errors[str(mistake)]
    start = primary(compose, mistake, tmp_path)
    if "--config-dir" in error.do:
        (tmp_path / "NAME.yaml").write_text("defaults: [extract]")
        compose.load(BASE, primary=compose.Primary("NAME", more=tmp_path))
    elif file := re.fullmatch(r"(.+) in (\w+\.yaml)", error.do):
        (tmp_path / file[2]).write_text(f"defaults: [extract, _self_]\n{file[1]}")
        compose.load(command(mistake.given), primary=start)
    elif variable := re.match(r"(\w+)=VALUE before the command, or (.*)", error.do):
        monkeypatch.setenv(variable[1], "3")
        compose.load(command(mistake.given), primary=start)
        monkeypatch.delenv(variable[1])
        follow(compose, command(mistake.given), UserError(error.what, do=variable[2]), start)
    else:
        follow(compose, command(mistake.given), error, start)


def test_the_command_of_the_hints_runs(repo):
    for line in COMMANDS:
        done = subprocess.run(
            [sys.executable, *line.split()[1:]], cwd=repo, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert "hop_seconds:" in done.stdout


def test_every_place_that_refuses_a_config_is_driven_here(driven, repo):
    """So that no hint of a check that is added goes untyped: add its mistake to `config_mistakes.MISTAKES`."""
    places = {}
    for name in REFUSING_FILES:
        for node in ast.walk(ast.parse((repo / name).read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in REFUSING:
                places[str(repo / name), node.lineno, node.end_lineno] = node.func.id
    assert len(places) > 60
    left = {
        f"{os.path.relpath(file, repo)}:{first} {what}"
        for (file, first, last), what in places.items()
        if not any(file == there and first <= line <= last for there, line in driven.lines)
    }
    assert not left


def texts(node: ast.AST) -> str:
    """The text of a string in the source, with § for what is put in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(texts(value) for value in node.values)
    if isinstance(node, ast.BinOp):
        return texts(node.left) + texts(node.right)
    return "§"


def said_everywhere(repo: Path) -> set[tuple[str, str]]:
    """File and text of every argument of a `UserError` of the library."""
    return {
        (str(path.relative_to(repo)), texts(argument))
        for path in (repo / "pipeline").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError"
        for argument in [*node.args, *(k.value for k in node.keywords)]
    }


def test_every_key_that_an_error_anywhere_names_is_there_and_its_value_is_taken(compose, repo):
    """Of those that need files, a Ray or a card to be driven: at least no hint has a wrong key or value."""
    import commandline

    known = set(commandline.known_keys())
    sections = "|".join(sorted({key.partition(".")[0] for key in known if "." in key}))
    seen = 0
    for file, text in said_everywhere(repo):
        for key, value in re.findall(rf"(?<![\w.])((?:{sections})(?:\.[\w§<>]+)+)(?:=(\S+))?", text):
            seen += 1
            pattern = re.compile(
                re.sub(r"§|<\w+>", "\\\\w+", re.escape(key).replace(r"\<", "<").replace(r"\>", ">"))
            )
            assert any(pattern.fullmatch(k) for k in known) or "storage_options" in key, f"{file}: {key}"
            value = value.strip("`,;:)'")
            if value and key in known and re.fullmatch(r"[a-z0-9_\[\],.]+", value):
                compose.load([*BASE, f"{key}={value}"], check=False)
    assert seen > 100


def test_what_the_readme_says_in_a_word_is_taken(compose, repo, tmp_path):
    """`key=value` in the text, which is in no command."""
    import commandline

    known = set(commandline.known_keys())
    text = re.sub(r"(?ms)^```.*?^```", "", (repo / "README.md").read_text())
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]*=[^`]*)`", text)]
    given = [word for span in spans for word in shlex.split(span)]
    typed = [word for word in given if key_of(word) in known and "…" not in word]
    assert len(typed) > 15
    (tmp_path / "hardware").mkdir()
    (tmp_path / "hardware" / "mybox.yaml").write_text("name: mybox")  # as it says beside
    for word in typed:
        compose.load(command([word]), primary=compose.Primary(more=tmp_path))
