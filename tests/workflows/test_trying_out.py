"""What the service tells those to type who try it out, and which songs it takes then."""

import shlex
from pathlib import Path

import pytest

from pipeline.commands import BY_NAME
from pipeline.workflows.service_config import ServiceConfig
from pipeline.workflows.trying_out import roots_of, what_to_type


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    return tmp_path


def lines(kafka: str, service: ServiceConfig) -> list[list[str]]:
    """The words of the two commands."""
    return [shlex.split(line) for line in what_to_type(kafka, service).splitlines() if line.startswith("  ")]


def test_the_working_folder_is_a_root_where_none_is_given(here):
    assert roots_of(ServiceConfig()) == [str(here), "/shared/audio"]
    assert roots_of(ServiceConfig(roots=["/music"])) == ["/music"]


def test_the_first_song_of_the_folder_and_not_a_result_is_asked_for(here):
    service = ServiceConfig(roots=[str(here)])
    assert lines("127.0.0.1:9092", service)[0][-2:] == ["send", "SONG.mp3"]
    for name in ("b's song.mp3", "a.txt", "vocals_removed.mp3", "zebra.flac"):
        (here / name).touch()
    service.file_name = "a.mp3"
    (here / "a.mp3").touch()
    send, answers = lines("127.0.0.1:9092", service)
    assert send[-2:] == ["send", "b's song.mp3"]
    assert answers[-1] == "answers"
    assert Path(send[1]).is_file()


def test_a_root_elsewhere_is_named_in_full(here):
    assert lines("127.0.0.1:9092", ServiceConfig(roots=["/no/such"]))[0][-1] == "/no/such/SONG.mp3"
    assert lines("127.0.0.1:9092", ServiceConfig(roots=["s3://b/x/"]))[0][-1] == "s3://b/x/SONG.mp3"


def test_the_broker_is_named_where_the_other_terminal_would_take_another(here, monkeypatch):
    service = ServiceConfig()
    assert "--kafka" not in lines("127.0.0.1:9092", service)[1]
    assert lines("127.0.0.1:9999", service)[1][-3:] == ["--kafka", "127.0.0.1:9999", "answers"]
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "kafka:9092")
    assert "--kafka" in lines("127.0.0.1:9092", service)[1]


def test_installed_it_is_a_subcommand(here, monkeypatch):
    monkeypatch.setenv(BY_NAME, "karaoke-service")
    assert lines("127.0.0.1:9092", ServiceConfig())[1] == ["soundmill", "karaoke-request", "answers"]
