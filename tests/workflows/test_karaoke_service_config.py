"""What can be typed after ``jobs/karaoke_service.py``."""

from __future__ import annotations

import pytest
from helpers.service_config import service_configs


@pytest.fixture
def load():
    """What loads a command line's config, told which job it is."""
    with service_configs() as load:
        yield load


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kafka", "one:9092,two:9092,three:9092"),
        ("search_url", "http://one:9200,http://two:9200"),
        ("search_password", "it's a, {secret} = \\ ü"),
        ("search_password", "back\\slash\\' and \\"),
        ("state_dir", "/a folder/with, commas"),
    ],
)
def test_brokers_passwords_and_folders_are_taken_as_they_are_typed(load, key, value):
    assert getattr(load([f"service.{key}={value}"]).service, key) == value


def test_a_broker_given_to_the_group_of_keys_is_told_the_key(load):
    with pytest.raises(Exception, match=r"service\.kafka=") as refused:
        load(["service=one:9092"])
    assert refused.type.__name__ == "UserError"
