"""Reading the failures: counts, conditions that can do nothing but select, and what to run again."""

import builtins

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.small_output import LATER, RUN, asset, build, part_name

from pipeline.dataset.output import Output
from pipeline.dataset.tables import failures
from pipeline.dataset.tables.failures import retry_request, select_failures, summarise
from pipeline.dataset.tables.schemas import FAILURES
from pipeline.errors import UserError
from pipeline.workflows.retry import show


def failure(name: str, stage: str, error_class: str = "ValueError", died: bool = False) -> dict:
    return {
        "asset_id": asset(name), "uri": f"/audio/{name}", "stage": stage, "error_class": error_class,
        "message": f"{name} broke", "attempts": 1, "worker_died": died, "run_id": RUN,
    }  # fmt: skip


@pytest.fixture
def output(tmp_path) -> Output:
    """Bad.mp3 (decode, as built), and a, b, c with failures of other stages."""
    found = build(Output(str(tmp_path / "out")))
    rows = [
        failure("a.wav", "clap"),
        failure("a.wav", "separation", "OutOfMemory", True),
        failure("b.wav", "clap"),
    ]
    old = pq.read_table(found.path(f"failures/{part_name(0)}")).to_pylist()
    found.write_table(f"failures/{part_name(0)}", pa.Table.from_pylist(old + rows, schema=FAILURES))
    more = pa.Table.from_pylist([failure("c.wav", "clap")], schema=FAILURES)
    found.write_table(f"failures/{part_name(3)}", more)
    return found


def test_failures_are_counted_by_stage_and_class(output):
    found = summarise(output, limit=2)
    assert (found.tracks, found.files_failed, found.rows, found.worker_died) == (5, 1, 5, 1)
    counts = {key: c.rows for key, c in found.classes.items()}
    assert counts == {
        ("decode", "UnrecognizedFormat"): 1,
        ("clap", "ValueError"): 3,
        ("separation", "OutOfMemory"): 1,
    }
    clap = found.classes["clap", "ValueError"]
    assert clap.examples == [("/audio/a.wav", "a.wav broke"), ("/audio/b.wav", "b.wav broke")]


def test_parts_of_interrupted_runs_do_not_count(output):
    output.write(f"failures/{part_name(9)}", output.read(f"failures/{part_name(0)}"))
    assert summarise(output).rows == 5


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("stage = 'decode'", ["bad.mp3"]),
        ("worker_died", ["a.wav"]),
        ("uri LIKE '%c.wav' OR error_class = 'OutOfMemory'", ["a.wav", "c.wav"]),
        ("message = 'it''s; not -- there'", []),
        ("first_seen < TIMESTAMP '2030-01-01'", ["bad.mp3"]),
    ],
)
def test_a_condition_selects(output, where, names):
    assert list(select_failures(output, where)) == [f"/audio/{name}" for name in names]


@pytest.mark.parametrize(
    "where",
    [
        "stag = 'decode'",
        "stage =",
        "",
        "true; DROP TABLE x",
        "true) OR (true",
        "uri",
        "uri IN (SELECT content FROM read_text('/etc/hostname'))",
        "uri IN (SELECT content FROM '/etc/hostname')",
        "EXISTS (SELECT * FROM glob('/*'))",
    ],
)
def test_a_mistake_in_a_condition_is_one_line_with_the_columns(output, where):
    with pytest.raises(UserError) as error:
        select_failures(output, where)
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("where: ")
    assert "asset_id, uri, stage, error_class" in text


def test_a_mistake_is_told_where_there_is_no_failure(tmp_path):
    output = build(Output(str(tmp_path / "out")))
    output.discard(f"failures/{part_name(0)}")
    with pytest.raises(UserError, match="where: "):
        summarise(output, "nothing = 1")


def test_a_condition_cannot_change_settings_or_see_our_variables(output):
    secret = pa.table({"uri": ["/audio/a.wav"]})
    assert secret.num_rows == 1
    with pytest.raises(UserError, match="where: "):
        select_failures(output, "uri IN (SELECT uri FROM secret)")


def test_an_endless_condition_ends(output, monkeypatch):
    monkeypatch.setattr(failures, "WHERE_SECONDS", 0.3)
    endless = (
        "(SELECT count(*) FROM range(100000000) a, range(100000000) b WHERE a.range + b.range > attempts) > 0"
    )
    with pytest.raises(UserError, match="took longer than 0.3 s"):
        select_failures(output, endless)


def test_without_duckdb_one_line_says_what_to_type(output, monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name == "duckdb":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert summarise(output).rows == 5, "not needed without a condition"
    with pytest.raises(UserError, match="pip install 'duckdb"):
        summarise(output, "true")


def test_a_retry_names_files_stages_and_the_newest_config(output):
    request = retry_request(output, "stage IN ('clap', 'separation')")
    assert request.uris == ("/audio/a.wav", "/audio/b.wav", "/audio/c.wav")
    assert request.stages["/audio/a.wav"] == ("clap", "separation")
    assert request.run_id == RUN
    assert request.redacted == ("source.storage_options.key",)
    output.write(f"runs/{LATER}/config.yaml", b"source: {uri: /other}\n")
    later = retry_request(output)
    assert (later.run_id, later.config) == (LATER, {"source": {"uri": "/other"}})


def test_a_retry_without_a_config_says_so(output):
    output.discard(f"runs/{RUN}/config.yaml")
    with pytest.raises(UserError, match=r"config\.yaml"):
        retry_request(output)


def test_a_damaged_part_names_the_command_that_looks_at_it(output):
    output.write(f"failures/{part_name(3)}", b"no parquet")
    with pytest.raises(UserError, match=r"jobs/verify\.py"):
        summarise(output)


def test_the_table_is_aligned_and_shows_no_escape_codes(output):
    bad = [failure("\x1b[31mred\n.mp3", "decode")]
    output.write_table(f"failures/{part_name(3)}", pa.Table.from_pylist(bad, schema=FAILURES))
    lines = show(output).splitlines()
    assert lines[0] == "5 files: 1 failed (20.0%), 0 partial (0.0%)"
    assert "\x1b" not in "".join(lines)
    [head] = [line for line in lines if line.startswith("failures  ")]
    [clap] = [line for line in lines if "clap " in line and "ValueError" in line]
    assert head.index("stage") == clap.index("clap")
    assert head.index("error class") == clap.index("ValueError")


def test_no_failures_is_said(output):
    assert show(output, "false").endswith("no failures where false")
