"""The command lines of verify and failures: exit codes, help, mistakes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.small_output import build, mel_path

from pipeline.dataset.output import Output


@pytest.fixture(scope="module")
def jobs():
    """The two jobs as modules, in this process: starting each takes seconds."""
    folder = str(Path(__file__).resolve().parents[2] / "jobs")
    sys.path.insert(0, folder)
    try:
        import failures
        import verify

        yield {"verify": verify, "failures": failures}
    finally:
        sys.path.remove(folder)
        for name in ("failures", "verify", "keyvalue"):
            sys.modules.pop(name, None)


@pytest.fixture
def output(tmp_path) -> Output:
    return build(Output(str(tmp_path / "out")))


def run(job, capsys, *arguments: str) -> tuple[int, str, str]:
    code = job.main(list(arguments))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_clean_output_exits_with_0(jobs, capsys, output):
    assert run(jobs["verify"], capsys, f"output.uri={output.uri}") == (0, "5 tracks: clean\n", "")
    assert not list(Path(output.uri).glob("runs/verify-*")), "written by repair or on request only"


def test_problems_exit_with_1_and_repair_with_0(jobs, capsys, output, tmp_path):
    output.discard(mel_path("a.wav"))
    code, out, _ = run(jobs["verify"], capsys, f"output.uri={output.uri}", f"report={tmp_path / 'r.json'}")
    assert code == 1
    assert "missing_blob" in out
    assert "type repair=true" in out
    assert json.loads((tmp_path / "r.json").read_text())["remaining"] == {"missing_blob": 1}
    code, out, _ = run(jobs["verify"], capsys, f"output.uri={output.uri}", "repair=true")
    assert code == 0
    assert "all of it mended" in out
    [report] = Path(output.uri).glob("runs/verify-*.json")
    assert json.loads(report.read_text())["mended"] == {"missing_blob": 1}
    assert run(jobs["verify"], capsys, f"output.uri={output.uri}")[0] == 0


@pytest.mark.parametrize(
    ("job", "arguments", "said"),
    [
        ("verify", [], "output.uri is not set: type output.uri=FOLDER"),
        ("verify", ["output.ur=x"], "output.ur is not a key of this job; did you mean output.uri?"),
        ("verify", ["output.uri=x", "repare=true"], "did you mean repair?"),
        ("verify", ["output.uri=x", "repair=maybe"], "repair=maybe must be true or false"),
        ("verify", ["repair"], "repair has no value: type repair=…"),
        ("verify", ["output.uri=/a", "output.uri=/b"], "output.uri is given twice"),
        ("verify", ["output.uri=/no/such/folder"], "output.uri=/no/such/folder does not exist"),
        ("verify", ["output.uri=x", "output.storage_options=SECRET"], "must read {name: value"),
        ("failures", ["output.uri=/no/such/folder"], "output.uri=/no/such/folder does not exist"),
        ("failures", ["output.uri=x", "limit=many"], "limit=many must be a whole number"),
        ("failures", ["output.uri=x", "limit=-1"], "limit=-1 must not be negative"),
        ("failures", ["output.uri=x", "when=1"], "did you mean where?"),
    ],
)
def test_a_wrong_command_is_one_line_and_exits_with_2(jobs, capsys, job, arguments, said):
    code, out, err = run(jobs[job], capsys, *arguments)
    assert (code, out) == (2, "")
    [line] = err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert "SECRET" not in line


@pytest.mark.parametrize("job", ["verify", "failures"])
def test_help_names_every_key_and_shows_examples(jobs, capsys, job):
    with pytest.raises(SystemExit) as left:
        jobs[job].main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "output.uri" in text
    assert f"python jobs/{job}.py output.uri=" in text
    assert "Exit codes: 0" in text


def test_failures_are_shown(jobs, capsys, output):
    code, out, err = run(
        jobs["failures"], capsys, f"output.uri={output.uri}", "where=stage = 'decode'", "limit=1"
    )
    assert (code, err) == (0, "")
    assert "UnrecognizedFormat" in out
    assert "/audio/bad.mp3" in out


def test_a_mistaken_condition_exits_with_2(jobs, capsys, output):
    code, _, err = run(jobs["failures"], capsys, f"output.uri={output.uri}", "where=stag = 1")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "the columns are" in err


def test_a_retry_asks_for_the_secrets_that_no_run_keeps(jobs, capsys, output):
    code, _, err = run(jobs["failures"], capsys, f"output.uri={output.uri}", "retry=true")
    assert code == 2
    assert "source.storage_options={…} again" in err


@pytest.mark.parametrize("text", ["{endpoint: 'http://h:1', key: k}", "{endpoint:'http://h:1', key: k}"])
def test_storage_options_read_as_for_the_main_job(jobs, text):
    import keyvalue

    options = keyvalue.parse(
        jobs["verify"].Options, ["output.uri=s3://b/t", f"output.storage_options={text}"], "", ""
    )
    assert options.storage_options["key"] == "k"
    single = ["output.uri=s3://b/t", "output.storage_options.key=a=b"]
    assert keyvalue.parse(jobs["verify"].Options, single, "", "").storage_options == {"key": "a=b"}


def test_the_job_runs_as_a_program(repo, output):
    command = [sys.executable, "jobs/verify.py", f"output.uri={output.uri}"]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "5 tracks: clean\n", "")
