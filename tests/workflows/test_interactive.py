"""``--interactive``: what is asked, what an answer becomes, how one leaves; and the job itself on a pseudo-terminal."""

from __future__ import annotations

import fcntl
import importlib
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import termios
import time

import psutil
import pytest

from pipeline.errors import UserError
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.karaoke_config import KaraokeConfig
from pipeline.workflows.speech_config import SpeechConfig

JOBS = {
    "extract": (ExtractConfig, "extract_features.py"),
    "karaoke": (KaraokeConfig, "karaoke.py"),
    "speech": (SpeechConfig, "prepare_speech.py"),
}
PLACES = ["a", "b"]
DEADLINE_S = 120


class Answers:
    """Somebody who types: shows what was asked, and gives one answer after the other."""

    def __init__(self, *answers: str) -> None:
        self._left, self.asked = list(answers), []

    def __call__(self, prompt: str) -> str:
        self.asked.append(prompt)
        if not self._left:
            raise EOFError
        return self._left.pop(0)


@pytest.fixture
def modules(repo, monkeypatch):
    """(interactive, compose, a function that says which job this is)."""
    monkeypatch.syspath_prepend(repo / "jobs")
    schema = importlib.import_module("schema")
    compose, interactive = importlib.import_module("compose"), importlib.import_module("interactive")

    def of_job(name: str) -> None:
        config, script = JOBS[name]
        for key, value in (("config", config), ("name", name), ("script", script)):
            monkeypatch.setattr(schema.CURRENT, key, value)
        monkeypatch.setattr(sys, "argv", [f"jobs/{script}"])
        compose.register()

    of_job("speech")
    return interactive, compose, of_job


def ask(modules, answers: Answers, *given: str) -> list[str]:
    interactive, compose, _ = modules
    return interactive.ask(given, lambda overrides: compose.load(overrides, check=False), answers)


def test_enter_takes_what_is_in_brackets_and_answers_become_overrides(modules):
    answers = Answers("my calls", "out", "", "", "120", "2", "", "en")
    made = ask(modules, answers)
    assert made == [
        "source.uri=my calls",
        "output.uri=out",
        "split.max_seconds=120",
        "diarize.num_speakers=2",
        "transcribe.language=en",
    ]
    assert answers.asked == [
        "source.uri: ",
        "output.uri: ",
        "speech.steps [split,denoise,vad,diarize,transcribe,clips]: ",
        "split.method [word]: ",
        "split.max_seconds [300.0]: ",
        "diarize.num_speakers [null]: ",
        "transcribe.model [auto]: ",
        "transcribe.language [null]: ",
    ]
    config = modules[1].load(made)
    assert (config.source.uri, config.split.max_seconds, config.transcribe.language) == (
        "my calls",
        120.0,
        "en",
    )


def test_what_is_typed_or_not_wanted_is_not_asked(modules):
    answers = Answers("out", "vad diarize", "")
    made = ask(modules, answers, "source.uri=in", "seed=3")
    assert made == ["output.uri=out", "speech.steps=[vad,diarize]"]
    assert [prompt.split()[0].strip(":") for prompt in answers.asked] == [
        "output.uri",
        "speech.steps",
        "diarize.num_speakers",
    ]
    listed = Answers("out", "vad")
    assert ask(modules, listed, "source.manifest=list.csv")[0] == "output.uri=out"
    modules[2]("extract")
    off = Answers("")
    given = ("features.enabled=mel", "~clap", "separation={enabled: false}", "tags.enabled=false", "beats={}")
    ask(modules, off, *BASE, *given)
    assert off.asked == ["hardware [cpu]: "]


BASE = ["source.uri=a", "output.uri=b"]


@pytest.mark.parametrize("name", JOBS)
def test_all_that_a_job_asks_has_a_default_that_it_takes_and_an_explanation(modules, name, capsys):
    interactive, compose, of_job = modules
    of_job(name)
    config = compose.load([], check=False)
    keys = config.questions()
    assert 4 < len(keys) < 10
    made = ask(modules, Answers(*PLACES, *[""] * (len(keys) - 2)))
    assert made == BASE
    assert compose.load(made).questions() == keys
    for key in keys:
        lines = interactive.explained(key, config).splitlines()
        assert lines[-1].startswith(f"now: {key}=")
        assert len(lines) > 1 or key == "features.enabled"  # which shows the extractors themselves


@pytest.mark.parametrize(
    ("name", "wrong", "right", "says"),
    [
        ("speech", "vad,diarise", "vad,diarize", "error: speech.steps=diarise is not one of split"),
        ("speech", "transcribe", "speech.steps=[diarize]", "error: speech.steps has transcribe and not vad"),
        ("speech", "a: [b", "diarize", "error: speech.steps: its value cannot be parsed"),
        ("karaoke", "demux", "spleeter", "error: karaoke.method=demux is not one of auto"),
        ("extract", "mel, loud", "mel, loudness", "error: features.enabled=loud is not one of"),
    ],
)
def test_a_wrong_answer_is_refused_in_the_config_s_words_and_asked_again(
    modules, capsys, name, wrong, right, says
):
    modules[2](name)
    answers = Answers(*PLACES, wrong, right)
    with pytest.raises(EOFError):
        ask(modules, answers)
    assert answers.asked[2] == answers.asked[3] != answers.asked[4]
    assert says in capsys.readouterr().err


def test_the_first_answer_is_checked_before_the_others_are_there(modules, capsys):
    answers = Answers("", "http://u:p@h/x", "in", "memory://x", "out")
    with pytest.raises(EOFError):
        ask(modules, answers)
    assert answers.asked[:6] == ["source.uri: "] * 3 + ["output.uri: "] * 2 + [answers.asked[5]]
    said = capsys.readouterr().err
    for reason in (
        "source.uri is not set",
        "source.uri carries credentials",
        "output.uri=memory:// cannot be",
    ):
        assert reason in said


def test_what_was_typed_wrongly_is_said_before_anything_is_asked(modules):
    answers = Answers(*PLACES)
    with pytest.raises(UserError, match="vad.backend=silerro"):
        ask(modules, answers, "vad.backend=silerro")
    assert answers.asked == []


def test_a_question_mark_explains_and_asks_again(modules, capsys):
    answers = Answers("?", *PLACES, "?")
    with pytest.raises(EOFError):
        ask(modules, answers)
    said = capsys.readouterr().err
    assert "a folder, a file, a glob, s3://bucket/prefix" in said
    assert "those that are done, in whatever order they are named" in said
    interactive, compose, of_job = modules
    of_job("karaoke")
    config = compose.load([], check=False)
    assert interactive.explained("karaoke.method", config).startswith(
        "auto, demucs, openunmix, spleeter or midside."
    )
    assert "gpu_small: One card of 8 to 24 GB" in interactive.explained("hardware", config)
    of_job("extract")
    assert interactive.explained("clap.enabled", compose.load([], check=False)).startswith("The CLAP stage.")


@pytest.mark.parametrize("leave", [EOFError, KeyboardInterrupt])
def test_who_leaves_does_so_with_130_and_nothing_done(modules, monkeypatch, capsys, leave):
    interactive, compose, _ = modules

    def ran() -> None:
        pytest.fail("the job ran")

    def read(prompt: str) -> str:
        raise leave

    monkeypatch.setattr(interactive, "require_terminal", lambda: None)
    monkeypatch.setattr(interactive.ask, "__defaults__", (read,))
    with pytest.raises(SystemExit) as left:
        compose.run_job(ran, asks=True)
    assert left.value.code == 130
    assert "stopped before anything was computed" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["", "n"])
def test_hydra_gets_the_answers_where_it_is_to_be_run(modules, monkeypatch, word):
    """And the job is not begun where it is not."""
    interactive, compose, _ = modules
    read, begun = Answers(*PLACES, "vad", word), []

    def left(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(interactive, "require_terminal", lambda: None)
    for function in (interactive.ask, interactive.agreed):
        monkeypatch.setattr(function, "__defaults__", (read,))
    monkeypatch.setattr(compose, "end", left)
    monkeypatch.setattr(sys, "argv", ["jobs/prepare_speech.py", "seed=3", "-c", "job"])
    with pytest.raises(SystemExit) as ended:
        compose.run_job(lambda: begun.extend(sys.argv[1:]), asks=True)
    assert ended.value.code == 0
    taken = ["++seed=3", "++source.uri='a'", "++output.uri='b'", "++speech.steps=[vad]"]
    assert [begun[:4], begun[-2:]] == ([[], []] if word else [taken, ["-c", "job"]])


def test_the_flag_is_taken_out_wherever_it_stands(modules):
    words = ["jobs/plan.py", "--interactive", "karaoke", "--cfg", "job"]
    assert modules[0].take_flag(words)
    assert words == ["jobs/plan.py", "karaoke", "--cfg", "job"]
    assert not modules[0].take_flag(words)


@pytest.mark.parametrize(
    ("answers", "runs"), [(["?", "ja", "Y"], True), ([""], True), (["no"], False), (["N"], False)]
)
def test_it_is_run_where_it_is_agreed(modules, capsys, answers, runs):
    read = Answers(*answers)
    assert modules[0].agreed("python jobs/x.py 'a b'", read) is runs
    assert len(read.asked) == len(answers)
    assert capsys.readouterr().out == "python jobs/x.py 'a b'\n"


def test_the_command_is_for_bash_and_tells_no_secret(modules, monkeypatch):
    interactive, _, of_job = modules
    words = [
        "source.uri=it's here",
        "speech.steps=[vad,diarize]",
        "--cfg",
        "job",
        "source.storage_options.key=S3CRET",
    ]
    shown = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {interactive.as_command(words)}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()  # fmt: skip
    assert shown[1:-1] == ["jobs/prepare_speech.py", *words[:-1]]
    assert shown[-1] == "source.storage_options.key=***"
    of_job("karaoke")
    monkeypatch.setattr(sys, "argv", ["jobs/plan.py"])
    assert shlex.split(interactive.as_command(["seed=1"]))[1:] == ["jobs/plan.py", "karaoke", "seed=1"]
    monkeypatch.setenv("SOUNDMILL_COMMAND", "plan")
    assert interactive.as_command(["seed=1"]) == "soundmill plan karaoke seed=1"


@pytest.mark.parametrize("words", [["extract_features.py"], ["plan.py", "speech"]])
def test_without_a_terminal_it_says_so_in_a_line(repo, words):
    command = [sys.executable, f"jobs/{words[0]}", *words[1:], "--interactive"]
    done = subprocess.run(
        command, cwd=repo, capture_output=True, text=True, timeout=DEADLINE_S, env=environment(),
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    [said] = [line for line in done.stderr.splitlines() if not line.endswith("loading packages")]
    assert said.startswith("error: --interactive asks on a terminal, and there is none: type ")
    assert said.endswith(" ".join([f"jobs/{words[0]}", *words[1:], "source.uri=FOLDER output.uri=FOLDER"]))


def test_of_several_values_nobody_is_asked(modules, monkeypatch, capsys):
    interactive, compose, _ = modules
    monkeypatch.setattr(interactive, "require_terminal", lambda: None)
    monkeypatch.setattr(sys, "argv", ["jobs/prepare_speech.py", "--multirun", "seed=1,2"])
    with pytest.raises(SystemExit) as left:
        compose.run_job(lambda: pytest.fail("the job ran"), asks=True)
    assert left.value.code == 2
    assert "--interactive does not go with --multirun" in capsys.readouterr().err


def test_the_service_has_no_such_option(repo):
    done = subprocess.run(
        [sys.executable, "jobs/karaoke_service.py", "--interactive"], cwd=repo, capture_output=True, text=True,
        timeout=DEADLINE_S, env=environment(), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 2
    assert "unrecognized arguments: --interactive" in done.stderr


def environment() -> dict[str, str]:
    """Of a checkout, on a terminal that has no escape sequences."""
    return {k: v for k, v in os.environ.items() if k != "SOUNDMILL_COMMAND"} | {"TERM": "dumb"}


def _of_this_terminal() -> None:
    """The terminal that a command belongs to is what sends it SIGINT for Ctrl-C; what runs in the background of a
    script, as tests may, passes on that it is to be ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A command on a pseudo-terminal, and what was shown there."""

    def __init__(self, command: list[str], folder) -> None:
        self._own, other = pty.openpty()
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=other, stdout=other, stderr=other, env=environment(), start_new_session=True,
            preexec_fn=_of_this_terminal,
        )  # fmt: skip
        os.close(other)
        self.shown = ""

    def until(self, words: str) -> None:
        """Wait for what is shown to end so."""
        deadline = time.monotonic() + DEADLINE_S
        while not self.shown.endswith(words) and time.monotonic() < deadline:
            if not self._read():
                break
        assert self.shown.endswith(words), self.shown

    def answer(self, prompt: str, words: str) -> None:
        """Type a line, or a control character, once the prompt is there and is waited at: the interpreter does not look
        at a signal that comes between the two before the next key."""
        self.until(prompt)
        deadline = time.monotonic() + DEADLINE_S
        while psutil.Process(self.process.pid).status() != psutil.STATUS_SLEEPING:
            assert time.monotonic() < deadline, "it does not wait"
            time.sleep(0.01)
        os.write(self._own, words.encode())

    def end(self) -> int:
        """The exit code, and all that was shown until then."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline and self._read():
            pass
        os.close(self._own)
        return self.process.wait(DEADLINE_S)

    def _read(self) -> bool:
        """Whether there may be more."""
        if not select.select([self._own], [], [], 1)[0]:
            return self.process.poll() is None
        try:
            more = os.read(self._own, 65536)
        except OSError:  # nobody has the other end any more
            return False
        self.shown += more.decode().replace("\r\n", "\n")
        return bool(more)


@pytest.fixture
def terminal():
    """Begin a command on a terminal of its own; it is ended with the test."""
    begun = []

    def begin(command: list[str], folder) -> Terminal:
        begun.append(Terminal(command, folder))
        return begun[-1]

    yield begin
    for each in begun:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


@pytest.mark.timeout(600)
def test_the_job_asks_on_a_terminal_and_prints_a_command_that_is_the_same(repo, tmp_path, terminal):
    shown = terminal(
        [sys.executable, "jobs/prepare_speech.py", "--interactive", "diarize.num_speakers=2"], repo
    )
    shown.answer("source.uri: ", "my calls\n")
    shown.answer("output.uri: ", f"{tmp_path}/out\n")
    shown.answer("clips]: ", "vad, diarise\n")
    shown.answer("clips]: ", "vad, diarize\n")
    shown.answer("[Y/n] ", "n\n")
    assert shown.end() == 0, shown.shown
    assert "error: speech.steps=diarise is not one of" in shown.shown
    [line] = [each for each in shown.shown.splitlines() if "jobs/prepare_speech.py" in each]
    command = shlex.split(line)
    assert command[1:] == [
        "jobs/prepare_speech.py",
        "diarize.num_speakers=2",
        "source.uri=my calls",
        f"output.uri={tmp_path}/out",
        "speech.steps=[vad,diarize]",
    ]
    assert not (tmp_path / "out").exists()
    done = subprocess.run(
        [*command, "--cfg", "job"], cwd=repo, capture_output=True, text=True, timeout=DEADLINE_S, env=environment()
    )  # fmt: skip
    assert "uri: my calls\n" in done.stdout


@pytest.mark.timeout(600)
@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["Ctrl-C", "Ctrl-D"])
def test_leaving_on_a_terminal(repo, tmp_path, terminal, key):
    run = [sys.executable, "jobs/plan.py", "--interactive", "karaoke", f"output.uri={tmp_path}/out"]
    shown = terminal(run, repo)
    shown.answer("source.uri: ", key)
    assert shown.end() == 130, shown.shown
    assert "stopped before anything was computed" in shown.shown
    assert not (tmp_path / "out").exists()
