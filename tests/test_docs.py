"""Commands in the documents: their keys exist, their files are there. Integration tests run them all."""

import itertools
import json
import re
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from helpers.documents import DOCUMENTS, all_commands
from helpers.service_config import service_configs

from pipeline.service import kafka, messages
from pipeline.service.metrics import Metrics
from pipeline.service.search import success_document

REPO = Path(__file__).resolve().parents[1]
JOB = re.compile(r"(?:^|[ /])(jobs|benchmarks)/(\w+)\.py$")


def commands() -> list[tuple[str, str]]:
    """(document, command) of every command that names a job or a benchmark."""
    return [(c.document, c.line) for c in all_commands() if re.search(r"(jobs|benchmarks)/\w+\.py", c.line)]


def arguments(line: str) -> tuple[str, str, list[str]]:
    """Folder and name of the script, and what it is given."""
    words = shlex.split(line.removesuffix("; done"))
    at = next(number for number, word in enumerate(words) if JOB.search(word))
    folder, name = JOB.search(words[at]).groups()
    return folder, name, [word for word in words[at + 1 :] if word not in ("…", "[key=value", "...]")]


@pytest.fixture(scope="module")
def compose():
    sys.path.insert(0, str(REPO / "jobs"))
    import compose

    compose.register()
    return compose


@pytest.mark.parametrize(("document", "line"), sorted(set(commands())))
def test_a_command_of_the_documents_is_accepted_by_its_job(compose, document, line):
    folder, name, given = arguments(line)
    assert (REPO / folder / f"{name}.py").exists(), line
    given = [word.replace("$n", "000").replace("=…", "=here") for word in given]
    if folder == "jobs" and name in ("extract_features", "plan"):
        sweep = "--multirun" in given
        overrides = [word for word in given if "=" in word]
        compose.check_keys(overrides, sweep)
        if not sweep:
            here = [] if any("source." in word for word in overrides) else ["source.uri=here"]
            compose.load(
                [*here, "output.uri=out", *overrides] if "output.uri" not in line else [*here, *overrides]
            )
    elif folder == "jobs" and name in ("failures", "verify"):
        import keyvalue

        module = __import__(name)
        keyvalue.parse(module.Options, given, "", "")
    elif folder == "jobs" and name == "karaoke_service" and "--help" not in given:
        with service_configs() as load:
            load(given)
    elif folder == "jobs" and name == "karaoke_request":
        import karaoke_request

        karaoke_request.parser().parse_args(given)


SERVICE = (REPO / "docs" / "karaoke_service.md").read_text()


def table(first: str) -> list[list[str]]:
    """The rows of the table of docs/karaoke_service.md whose first column is called so; cells without backquotes."""
    lines = SERVICE.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in rows]


def test_the_error_codes_of_the_service_are_those_of_the_document():
    found = {code: (text, again == "yes", dead == "yes") for code, text, again, dead in table("code")}
    again, dead = messages.RETRIED, messages.DEAD_LETTERS | messages.RETRIED
    assert found == {code: (text, code in again, code in dead) for code, text in messages.CODES.items()}


def test_the_topics_and_headers_of_the_service_are_those_of_the_document():
    assert {key: topic for topic, key, _ in table("topic")} == vars(kafka.Topics())
    named = {name for names, *_ in table("header") for name in names.split(", ")}
    assert named == {kafka.ATTEMPT, kafka.NOT_BEFORE, kafka.REASON, kafka.CODE, kafka.CUT}


def test_the_numbers_of_the_service_are_those_of_the_document():
    metrics = Metrics()
    for gauge in ("free_disk_bytes", "spooled_updates", "worker_memory_bytes"):
        metrics.ask(gauge, lambda: 1.0)
    metrics.song_done("done", "midside", 1.0)
    metrics.stage("work", 1.0)
    metrics.error("DISK_FULL")
    metrics.retried("hash")
    metrics.lag("requests", 0, 1)
    text = metrics.exposition()[0].decode()
    series = {
        name for name in re.findall(r"^# TYPE (soundmill_\w+) ", text, re.M) if not name.endswith("_created")
    }
    labels = {
        name: set(re.findall(r"(\w+)=", given)) - {"le"}
        for name, given in re.findall(r"^(soundmill_\w+?)(?:_bucket)?\{(.*)\}", text, re.M)
        if not name.endswith(("_created", "_sum", "_count"))
    }
    found = {name: set(filter(None, given.split(", "))) for name, given, _ in table("series")}
    assert found == {name: labels.get(name, set()) for name in series}


def test_the_limits_of_the_service_are_those_of_the_document():
    with service_configs() as load:
        service = load([]).service
    told = dict(re.fullmatch(r"service\.(\w+) \((\d+)\)", key).groups() for _, key, _ in table("what"))
    assert len(told) == 5
    assert {name: float(value) for name, value in told.items()} == {
        name: getattr(service, name) for name in told
    }


def test_the_variables_of_the_service_are_those_of_the_document():
    read = re.findall(r"\$\{oc\.env:(\w+)", (REPO / "conf" / "service" / "default.yaml").read_text())
    listed = re.search(r"a file `\.env` in the working folder:\n(.*?)\.\s", SERVICE, re.DOTALL)[1]
    assert sorted(re.findall(r"`(\w+)`", listed)) == sorted(set(read) - {"NAME"})


def test_the_examples_of_the_service_are_json_that_it_takes_and_writes():
    names, at = messages.Names(), datetime(2026, 11, 28, 6, 18, 53, 789_000, tzinfo=timezone.utc)
    request, done, failed, document = (
        json.loads(text) for text in re.findall(r"```json\n(.*?)```", SERVICE, re.DOTALL)
    )
    asked = messages.parsed(json.dumps(request).encode(), names)
    result = messages.Result(
        done["vocals_removed_path"], done["processing_time"], done["quality_score"], done["method_used"]
    )
    assert json.loads(messages.done_message(asked, result, names)) == done
    refused = messages.Refused(failed["error"]["code"], failed["error"]["message"])
    assert json.loads(messages.failed_message(asked.video_id, refused, names, {}, at)) == failed
    assert success_document(result.path, result.score, result.seconds, result.method, at) == document


def test_there_are_commands_to_look_at():
    assert len(commands()) > 10


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_links_to_is_there(document):
    for target in re.findall(r"\]\(([^)#][^)]*)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target.partition("#")[0]).exists(), target
