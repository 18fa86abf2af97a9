"""The config: what is refused, and in which words."""

import dataclasses
import subprocess
import sys

import pytest

from pipeline.errors import UserError
from pipeline.features import REGISTRY
from pipeline.stages.clap.spec import clap_stage
from pipeline.stages.separation.spec import separation_stage
from pipeline.workflows.config import ExtractConfig, config_from
from pipeline.workflows.hardware import resolve_hardware
from pipeline.workflows.run_config import redacted

BASE = ["source.uri=in", "output.uri=out"]
ON_CARDS = [clap_stage("checkpoint", "key", None), separation_stage(["auto"], "key")]


@pytest.fixture(scope="module")
def compose(repo):
    sys.path.insert(0, str(repo / "jobs"))
    try:
        import compose

        compose.register()
        yield compose
    finally:
        sys.path.remove(str(repo / "jobs"))


def test_defaults_compose_and_pass(compose):
    config = compose.load(BASE)
    assert config.clap.window_seconds == 10
    assert config.hardware.name == "cpu"
    assert config.features.enabled == sorted(set(REGISTRY) - {"fingerprint"})
    assert {e.name for e in config.extractors()} == set(config.features.enabled)


def test_every_registered_extractor_can_be_configured(compose):
    config = compose.load([*BASE, "features.mel.n_mels=64", "features.enabled=[mel]"])
    [mel] = config.extractors()
    assert mel.n_mels == 64


@pytest.mark.parametrize("hardware", ["cpu", "gpu_small", "gpu_large", "low", "mid", "high"])
def test_hardware_profiles_share_one_card(compose, hardware):
    config = compose.load([*BASE, f"hardware={hardware}"])
    shares = [config.hardware.actors[s] / n for s, n in config.hardware.gpu_shares.items() if n]
    assert sum(shares) <= 1
    assert bool(shares) == (hardware not in ("cpu", "low"))


@pytest.mark.parametrize(
    ("profile", "gib"), [("gpu_small", 16), ("gpu_large", 80), ("mid", 12), ("high", 24)]
)
def test_a_profile_says_what_auto_takes_on_such_a_card(compose, profile, gib):
    """And a card reports a little less memory than it is sold with."""
    fixed = compose.load([*BASE, f"hardware={profile}"]).hardware
    auto = compose.load([*BASE, "hardware=auto"]).hardware
    for size in (gib << 30, int(0.95 * (gib << 30))):
        found, _ = resolve_hardware(auto, ON_CARDS, ([size], ""))
        assert dataclasses.replace(found, name=profile) == fixed


def test_auto_leaves_everything_to_be_worked_out(compose):
    hardware = compose.load([*BASE, "hardware=auto", "hardware.vram_bytes.clap=3000000000"]).hardware
    assert (hardware.name, hardware.block_audio_seconds, hardware.max_files_per_block) == ("auto", 0, 0)
    assert hardware.vram_bytes == {"clap": 3_000_000_000, "separation": 0}
    assert not any(hardware.gpu_shares.values())


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("clap.hop_secs=5", "clap.hop_secs is not a config key; did you mean clap.hop_seconds?"),
        ("souce.uri=x", "did you mean source.uri?"),
        (
            "clap.aggregate=meen",
            "clap.aggregate=meen is not one of mean, weighted, robust; did you mean mean?",
        ),
        ("clap.hop_seconds=0", "clap.hop_seconds=0 must be greater than 0"),
        ("clap.hop_seconds=abc", "clap.hop_seconds"),
        ("clap.hop_seconds=20", "audio between windows would be skipped"),
        ("clap.window_seconds=30", "exceeds the 10 s"),
        ("clap.max_batch_audio_seconds=5", "below one window"),
        ("clap.on_unavailable=ignore", "skip, fail"),
        ("source.audio_stream=second", "source.audio_stream=second is neither default nor a number"),
        ("source.audio_stream=-1", "nor language:xx, nor all"),
        ("source.audio_stream=language:german", "source.audio_stream"),
        ("features.enabled=[mell]", "did you mean mel?"),
        ("hardware.decode_timeout_s=0", "hardware.decode_timeout_s=0 must be greater than 0"),
        ("hardware.decode_memory_bytes=1000", "must be 0 (worked out) or at least 536870912"),
        ("hardware.decode_memory_bytes=-1", "must be 0 (worked out) or at least 536870912"),
        ("features.sample_rate=1", "4000..192000"),
        ("features.mel.n_mels=0", "features.mel.n_mels"),
        ("separation.backends=[spleter]", "did you mean spleeter?"),
        ("separation.backends=[]", "separation.enabled=false"),
        ("separation.backends=[auto,spleeter]", "name it alone"),
        ("separation.amp=yes", "separation.amp=yes is not one of auto, true, false"),
        ("separation.auto_cpu_seconds=-1", "must not be negative"),
        ("blobs.names=[mfcc]", "blobs.names"),
        ("hardware=gpu_smal", "did you mean gpu_small?"),
        ("hardware.gpu_memory_fraction=0", "hardware.gpu_memory_fraction"),
        ("hardware.gpu_memory_fraction=1.5", "within 0..1"),
        ("hardware.vram_bytes.clapp=1", "did you mean clap?"),
        ("hardware.vram_bytes.clap=-1", "hardware.vram_bytes.clap=-1"),
        ("hardware.vram_bytes.features=1000000000", "the descriptors do not run on a GPU"),
        ("hardware.gpu_shares.features=4", "the descriptors do not run on a GPU"),
        ("hardware.gpu_shares.feature=4", "is not one of clap, separation"),
        ("hardware.batch_items.clap=-1", "must be 0 (automatic)"),
        ("hardware.batch_items.clip=8", "did you mean clap?"),
        ("hardware.block_audio_seconds=0", "hardware.block_audio_seconds=0 must be greater than 0"),
        ("max_failure_rate=2", "within 0..1"),
        ("perf.threads=0", "at least 1"),
        ("perf.threads=two", "perf.threads"),
        ("source.limit=0", "source.limit"),
        ("cache.ttl_hours=0", "cache.ttl_hours=0 must be greater than 0"),
        ("cache.max_bytes=0", "cache.max_bytes=0 must be greater than 0"),
        ("cache.max_byte=1", "did you mean cache.max_bytes?"),
        ("features.enabled=[mel,mel]", "twice"),
        ("output.uri=memory://x", "one process only"),
        ("output.uri=s3://k:s@bucket/x", "storage_options"),
        ("ray.address=auto", "is relative"),
        ("clap.window_seconds=1e-6", "below 0.01 s"),
        ("output.overwrite=maybe", "output.overwrite"),
        ("source.uri=null", "source.uri is not set"),
        ("=x", ""),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(compose, override, says):
    with pytest.raises(UserError) as caught:
        compose.load([*BASE, override])
    message = str(caught.value)
    assert says in message
    assert message.strip()
    assert "\n" not in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("cache.uri=memory://x", "one process only"),
        ("cache.uri=s3://k:s@bucket/x", "put them into cache.storage_options"),
    ],
)
def test_where_the_cache_cannot_be_is_said_once_it_is_wanted(compose, override, says):
    compose.load([*BASE, override])
    with pytest.raises(UserError, match=says):
        compose.load([*BASE, override, "cache.enabled=true"])
    with pytest.raises(UserError, match="cache.uri=here is relative"):
        compose.load(
            ["source.uri=/a", "output.uri=/b", "ray.address=auto", "cache.enabled=true", "cache.uri=here"]
        )


def test_the_cache_has_a_place_of_its_own_and_its_secrets_stay_there(compose, monkeypatch):
    assert compose.load([*BASE, "cache.enabled=true"]).cache.location() == "~/.cache/soundmill/results"
    monkeypatch.setenv("CACHE_DIR", "/big/cache")
    config = compose.load([*BASE, "cache.enabled=true", "cache.storage_options={key: K, secret: hush}"])
    assert config.cache.location() == "/big/cache"
    assert "hush" not in str(redacted(config))


def test_shares_are_not_fixed_where_auto_works_them_out(compose):
    with pytest.raises(UserError, match="does not go with hardware=auto"):
        compose.load([*BASE, "hardware=auto", "hardware.gpu_shares.clap=4"])


@pytest.mark.parametrize("profile", ["cpu", "gpu_small", "auto"])
def test_descriptors_that_are_told_to_stay_on_the_cpu_do(compose, profile):
    zeros = ["hardware.gpu_shares.features=0", "hardware.vram_bytes.features=0"]
    assert not compose.load([*BASE, f"hardware={profile}", *zeros]).hardware.gpu_shares.get("features")


def test_the_config_of_a_run_that_had_descriptors_on_a_gpu_is_taken_over_without_that():
    recorded = {
        "gpu_shares": {"features": 4, "clap": 4, "separation": 2},
        "vram_bytes": {"features": 2 << 30},
    }
    recorded |= {"name": "gpu_small", "actors": {"decode": 0, "features": 1, "clap": 1, "separation": 1}}
    places = {"source": {"uri": "in"}, "output": {"uri": "out"}}
    config = config_from({**places, "hardware": recorded})
    config.check()
    assert config.hardware.gpu_shares == {"clap": 4, "separation": 2}
    assert config.hardware.vram_bytes == {}
    assert config.hardware.actors["features"] == 1
    assert config.hardware.batch_items == {"clap": 0, "separation": 0}


def test_the_files_of_conf_say_what_the_classes_say(compose):
    """A default that reads the environment stands in ``conf/``, too; it is the same one."""
    composed, plain = compose.load(BASE), ExtractConfig()
    plain.source.uri, plain.output.uri = composed.source.uri, composed.output.uri
    assert dataclasses.asdict(composed) == dataclasses.asdict(plain)


def test_what_auto_worked_out_for_one_run_is_worked_out_anew_for_the_next(compose):
    config = compose.load([*BASE, "hardware=auto"])
    config.hardware, _ = resolve_hardware(config.hardware, ON_CARDS, ([16 << 30], ""))
    again = config_from(dataclasses.asdict(config))
    again.check()
    larger, _ = resolve_hardware(again.hardware, ON_CARDS, ([80 << 30], ""))
    assert larger.batch_items == {"clap": 64, "separation": 32}
    without, _ = resolve_hardware(again.hardware, ON_CARDS, ([], "no card"))
    assert not any(without.gpu_shares.values())
    assert not any(without.batch_items.values())


def test_environment_variables_that_users_know_are_read_and_checked(compose, monkeypatch):
    monkeypatch.setenv("SEGMENT_HOP_SECONDS", "2.5")
    monkeypatch.setenv("CLAP_ENABLE_AMP", "true")
    monkeypatch.setenv("AUDIO_TARGET_SR", "16000")
    monkeypatch.setenv("PERF_THREADS", "3")
    config = compose.load(BASE)
    assert config.clap.hop_seconds == 2.5
    assert config.clap.amp == "true"
    assert config.features.sample_rate == 16000
    assert config.perf.threads == 3
    monkeypatch.setenv("SEGMENT_HOP_SECONDS", "soon")
    with pytest.raises(UserError, match="soon"):
        compose.load(BASE)


def test_storage_options_are_free_form_and_the_output_shares_them(compose):
    config = compose.load([*BASE, "source.storage_options={endpoint: 'http://h:1', key: K, secret: S}"])
    assert config.output_options() == {"endpoint": "http://h:1", "key": "K", "secret": "S"}
    config = compose.load([*BASE, "source.storage_options.key=a", "output.storage_options={key: b}"])
    assert config.source.storage_options == {"key": "a"}
    assert config.output_options() == {"key": "b"}


@pytest.mark.parametrize(
    "folder",
    [
        "/data/ü",
        "~/music",
        "it's",
        "a#b",
        "R&B!",
        "a=b",
        "Live (1999)",
        "Simon, G",
        "My [Album]",
        'say "hi"',
        "c:d",
    ],
)
def test_names_of_ordinary_music_folders_need_no_quoting(compose, folder):
    assert compose.load([f"source.uri={folder}", "output.uri=out"]).source.uri == folder
    quoted = '"' + folder.replace('"', '\\"') + '"'
    assert compose.load([f"source.uri={quoted}", "output.uri=out"]).source.uri == folder


def test_a_numeric_secret_stays_text_and_is_not_repeated_in_errors(compose):
    config = compose.load([*BASE, "source.storage_options.secret=1e5"])
    assert config.source.storage_options["secret"] == "1e5"
    with pytest.raises(UserError) as caught:
        compose.load([*BASE, "source.storage_options.sas=abc=hush{"])
    assert "hush" not in str(caught.value)


def test_storage_options_are_redacted_unless_known_as_harmless():
    config = ExtractConfig()
    config.source.storage_options = {
        "key": "AKIA", "secret": "xyz", "auth": ["u", "p"], "headers": {"Authorization": "Bearer t"},
        "client_kwargs": {"aws_session_token": "t", "region_name": "r"}, "endpoint": "http://h", "anon": False,
    }  # fmt: skip
    config.source.manifest = "https://user:pass@h/list.csv?sig=abc"
    saved = redacted(config)["source"]
    assert saved["storage_options"] == {
        "key": "***", "secret": "***", "auth": "***", "headers": {"Authorization": "***"},
        "client_kwargs": {"aws_session_token": "***", "region_name": "r"}, "endpoint": "http://h", "anon": False,
    }  # fmt: skip
    assert saved["manifest"] == "https://h/list.csv"


def test_every_series_of_every_extractor_can_be_named(compose):
    config = compose.load(BASE)
    assert {"mel", "chroma"} <= set(config.blobs.names)


def job(repo, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "jobs/extract_features.py", *arguments]
    return subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=120)


def test_the_command_line_refuses_in_one_line_with_exit_code_2(repo, tmp_path):
    done = job(repo, "source.uri=/nowhere", f"output.uri={tmp_path}/out", "clap.agregate=mean")
    assert done.returncode == 2
    loading, *said = done.stderr.splitlines()
    assert loading.endswith(" loading packages")
    assert said == [
        "error: clap.agregate is not a config key; did you mean clap.aggregate?",
        "type:  python jobs/extract_features.py --cfg job, for all keys and their values",
    ]
    done = job(repo, f"source.uri={tmp_path}/nowhere", f"output.uri={tmp_path}/out")
    assert done.returncode == 2
    _, listing, *said = done.stderr.splitlines()
    assert listing.endswith(f" listing {tmp_path}/nowhere")
    assert said == [
        f"error: source.uri={tmp_path}/nowhere: does not exist",
        f"why:   {tmp_path} has nothing called nowhere",
        "type:  the path of a folder that is there",
    ]
    assert not (tmp_path / "out").exists()


def test_help_and_cfg_job_read_well(repo):
    done = job(repo, "--help")
    assert done.returncode == 0
    for word in (
        "Examples",
        "source.uri=",
        "hardware: auto, cpu, gpu_large, gpu_small, high, low, mid",
        "Exit codes",
        "n_mels",
    ):
        assert word in done.stdout
    assert "\nlistening: " not in done.stdout, "a group of keys of another job"
    for looks in (["--help"], ["--cfg", "job"]):
        done = job(repo, *looks, "hardware=gpu")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: hardware=gpu is not one of")
    done = job(repo, "--cfg", "job", "source.uri=x")
    assert done.returncode == 0
    assert "uri: x" in done.stdout
    assert "n_mels: 128" in done.stdout


@pytest.mark.parametrize(
    "line", ["extract_features.py --help", "extract_features.py --cfg job", "columns.py"]
)
def test_what_only_prints_ends_quietly_with_its_reader(repo, line):
    command = f"{sys.executable} jobs/{line} | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=repo, capture_output=True, text=True, timeout=120)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_options_may_stand_anywhere(repo):
    done = job(repo, "source.uri=x", "--cfg", "job", "perf.threads=7")
    assert done.returncode == 0, done.stderr
    assert "uri: x" in done.stdout
    assert "threads: 7" in done.stdout
    done = job(repo, "source.uri=x", "--confg", "job")
    assert done.returncode == 2
    assert "unrecognized arguments: --confg" in done.stderr
