"""The notebooks and docs/reading.md, executed on the output of a real run; their numbers against pyarrow's."""

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from nbclient import NotebookClient

import pipeline.dataset
from pipeline.dataset.output import Output

pytestmark = pytest.mark.timeout(600)
REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / "notebooks"
NAMES = ("duckdb", "pandas", "similarity", "spark")
PICTURES = {"duckdb": 1, "pandas": 4, "similarity": 2, "spark": 1}
MOST_BYTES = 1_500_000
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="no Java on the PATH, which Spark needs")


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(notebook) -> str:
    """All text that the cells put out."""
    outputs = [out for cell in code_cells(notebook) for out in cell.outputs]
    return "\n".join(out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs)


def pictures_of(notebook) -> list[bytes]:
    outputs = [out for cell in code_cells(notebook) for out in cell.outputs]
    found = [out["data"]["image/png"] for out in outputs if "image/png" in out.get("data", {})]
    return [base64.b64decode(data) for data in found]


@pytest.fixture(scope="module")
def run_notebook(tmp_path_factory):
    """Execute a notebook of ours on an output; a cell that raises fails the test."""
    home = tmp_path_factory.mktemp("kernel")

    def run(name: str, output: Path, more: tuple[str, ...] = ()):
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        for cell in code_cells(notebook):
            cell.outputs = []
        notebook.cells[-1:-1] = [nbformat.v4.new_code_cell(code) for code in more]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SOUNDMILL_OUTPUT", str(output))
            patch.setenv("PYTHONPATH", str(REPO))
            # Little is computed, much is started: the second compiler and parallel garbage collection only cost.
            patch.setenv("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
            for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR", "HF_HOME"):
                patch.setenv(variable, str(home / variable))
            client = NotebookClient(
                notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
            )
            client.execute()
        assert len(pictures_of(notebook)) == PICTURES[name]
        return notebook

    return run


@pytest.fixture(scope="module")
def numbers(local_run) -> dict[str, str]:
    """What several notebooks say of the output, computed with pyarrow alone."""
    tracks = pq.read_table(local_run.output / "tracks").to_pylist()
    work = sum(pq.read_table(local_run.output / "timings")["compute_s"].to_pylist())
    ok = sum(row["status"] == "ok" for row in tracks)
    seconds = sum(row["duration_s"] or 0 for row in tracks)
    return {
        "ok": f"{len(tracks)} files, {ok} ok, {seconds:.1f} s of audio",
        "files": f"{len(tracks)} files, {seconds:.1f} s of audio",
        "work": f"{work:.2f} s of work",
        "failures": f"{pq.read_table(local_run.output / 'failures').num_rows} failures",
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_with_its_results_and_nothing_of_a_machine(name):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), (
        "run from top to bottom"
    )
    assert len(pictures_of(notebook)) == PICTURES[name]
    outputs = [out for cell in cells for out in cell.outputs]
    assert {out.output_type for out in outputs} <= {"stream", "display_data", "execute_result"}
    assert {out.name for out in outputs if out.output_type == "stream"} <= {"stdout"}
    for out in outputs:
        for kind, text in {**out.get("data", {}), "text": out.get("text", "")}.items():
            if not kind.startswith("image/"):
                plain = re.sub(r"<[^>]*>", " ", text)
                assert not re.search(r"(?<![\w.])/(?:[\w.-]+/)+[\w.-]+", plain), "an absolute path"


def test_the_notebooks_are_small_and_all_of_them_are_tested():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < MOST_BYTES
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)
    readme = (FOLDER / "README.md").read_text()
    assert all(f"({name}.ipynb)" in readme for name in NAMES)


def test_pandas(run_notebook, local_run, numbers):
    text = text_of(run_notebook("pandas", local_run.output))
    for name in ("ok", "work", "failures"):
        assert numbers[name] in text
    longest = max(
        pq.read_table(local_run.output / "tracks").to_pylist(), key=lambda row: row["duration_s"] or 0
    )
    assert f"mel {tuple(longest['mel_shape'])} float16" in text
    assert "UnrecognizedFormat" in text


def test_duckdb(run_notebook, local_run, numbers):
    text = text_of(run_notebook("duckdb", local_run.output))
    assert numbers["files"] in text
    table = pq.read_table(local_run.output / "tracks")
    peak = np.nanmax(table["loudness_true_peak_dbtp"].to_numpy())
    assert f"largest true peak: {peak:.1f} dBTP" in text
    first = sorted(
        (uri.rsplit("/", 1)[-1], lufs)
        for uri, lufs, status in zip(
            *(table[c].to_pylist() for c in ("uri", "loudness_integrated_lufs", "status")), strict=True
        )
        if status == "ok"
    )[0]
    [[name, lufs]] = re.findall(r"^file,lufs,dbtp\n([^,]+),([^,]+),", text, re.MULTILINE)
    assert (name, float(lufs)) == (first[0], pytest.approx(first[1]))


def test_similarity_of_embeddings(run_notebook, local_run):
    text = text_of(run_notebook("similarity", local_run.output))
    good = ds.field("clap_embedding").is_valid() & (ds.field("status") == "ok")
    tables = pipeline.dataset.open(str(local_run.output))
    rows = tables.tracks.to_table(columns=["uri", "clap_embedding", "clap_model"], filter=good).to_pylist()
    assert f"clap_embedding of {len(rows)} tracks, space {rows[0]['clap_model']}" in text
    vectors = {row["uri"].rsplit("/", 1)[-1]: np.array(row["clap_embedding"]) for row in rows}
    query = vectors.pop("song_a_major_96.flac")
    nearest = max(vectors, key=lambda name: vectors[name] @ query)
    assert re.search(rf"^{re.escape(nearest)} +{vectors[nearest] @ query:.3f}$", text, re.MULTILINE)
    heard = tables.segments.count_rows(filter=ds.field("clap_embedding").is_valid())
    assert f"{heard} windows with an embedding" in text


def test_similarity_without_a_clap_checkpoint(run_notebook, local_run, tmp_path):
    """As in the demo: it says so, and takes descriptors."""
    output = Output(str(tmp_path / "out"))
    for table in ("tracks", "segments"):
        for part in (local_run.output / table).glob("*.parquet"):
            rows = pq.read_table(part)
            if table == "segments":
                rows = rows.slice(0, 0)
            else:
                rows = rows.drop_columns([name for name in rows.column_names if name.startswith("clap_")])
            output.write_table(f"{table}/{part.name}", rows)
    text = text_of(run_notebook("similarity", tmp_path / "out"))
    assert re.search(r"no clap_embedding here: \d\d+ standardised descriptors of \d+ tracks instead", text)
    assert "0 windows with an embedding" in text
    rows = pq.read_table(tmp_path / "out" / "tracks")
    good = len(rows) - rows["mfcc_mean"].null_count
    size = len(rows["mfcc_mean"].drop_null()[0])
    assert f"{len(rows)} rows, {good} with MFCC, as one array {(good, size)}" in text, "Hugging Face datasets"


@needs_java
def test_spark(run_notebook, local_run, numbers):
    """And the example of docs/reading.md in the same session: a JVM takes seconds to start."""
    [example] = [code for code in blocks(local_run.output) if "pyspark" in code]
    text = text_of(run_notebook("spark", local_run.output, (example,)))
    assert numbers["files"] in text
    assert numbers["work"] in text
    tracks = pq.read_table(local_run.output / "tracks").to_pylist()
    [key] = {dict(row["extractor_keys"])["mel"] for row in tracks if row["status"] == "ok"}
    good = sum(row["status"] == "ok" for row in tracks)
    assert re.search(rf"\| *mel *\| *{key} *\| *{good} *\|", text)
    segments = pq.read_table(local_run.output / "segments").num_rows
    assert f"{segments} segments" in text
    assert re.search(r"\| +uri\|.*mel_key\|beat\|.*time_s\|", text), "the example's own table"


def blocks(output: Path) -> list[str]:
    """The Python of docs/reading.md, on ``output`` instead of the demo's."""
    text = (REPO / "docs" / "reading.md").read_text()
    found = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return [code.replace("out/demo/tables", str(output)) for code in found]


EXECUTE = """
import json, sys
reached = []

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        reached.append(str(arguments[1:] if event == "socket.connect" else arguments))

sys.addaudithook(watch)
names = {}
for code in json.load(sys.stdin):
    exec(compile(code, "docs/reading.md", "exec"), names)
values = {name: len(names[name]) for name in ("loud", "fast", "keys", "mel_keys", "dataset")}
print("\\n" + json.dumps({**values, "mel": list(names["mel"].shape), "network": reached}))
"""


def test_the_examples_of_the_documentation_run_and_reach_for_no_network(local_run, tmp_path):
    code = [code for code in blocks(local_run.output) if "pyspark" not in code]
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE],
        input=json.dumps(code), cwd=REPO, capture_output=True, text=True, timeout=200,
        env={"PATH": "", "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    tracks = pq.read_table(local_run.output / "tracks").to_pylist()
    assert found["network"] == []
    assert found["loud"] == sum((row["loudness_true_peak_dbtp"] or -99) > -1 for row in tracks)
    assert found["fast"] == sum((row["tempo_bpm"] or 0) > 120 for row in tracks)
    assert found["keys"] == found["mel_keys"] == found["dataset"] == len(tracks)
    assert found["mel"][0] == 128
    assert "features.chroma" in done.stdout, "DuckDB's table of costs"
