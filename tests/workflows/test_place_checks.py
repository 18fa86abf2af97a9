"""Places and storage options that cannot be are refused before anybody is asked."""

import pytest

from pipeline.errors import UserError
from pipeline.workflows.config import ExtractConfig


def config(source_uri: str = "/in", output_uri: str = "/out", **options) -> ExtractConfig:
    made = ExtractConfig()
    made.source.uri, made.output.uri = source_uri, output_uri
    for name, value in options.items():
        getattr(made, name).storage_options = value
    return made


def refused(made: ExtractConfig) -> UserError:
    with pytest.raises(UserError) as caught:
        made.check_places()
    assert caught.value.why
    assert caught.value.do
    return caught.value


@pytest.mark.parametrize(
    "source",
    [
        "/in", "/in/a@b", "s3://my.bucket-1/a@b", "zip://a@b.wav::/x@y.zip", "github://org:repo@main/x", "https://h/x/",
        "abfs://container@account.dfs.core.windows.net/x", "s3://UPPER_case/x", "simplecache::s3://bucket/x",
        "s3://arn:aws:s3:eu-west-1:123:accesspoint/x/y",
    ],
)  # fmt: skip
def test_places_that_can_be(source):
    config(source).check_places()


@pytest.mark.parametrize(
    "source", ["s3://k:s@bucket/x", "https://u:p@host/x", "zip://::https://u:p@host/x.zip"]
)
def test_credentials_in_a_chain_are_found_and_not_repeated(source):
    error = refused(config(source))
    assert error.what == "source.uri carries credentials"
    assert "u:p" not in str(error)
    assert "k:s" not in str(error)


@pytest.mark.parametrize("uri", ["memory://x", "zip://::memory://x.zip", "simplecache::memory://x"])
def test_memory_is_seen_by_one_process_only(uri):
    assert "memory" in refused(config(uri)).what


@pytest.mark.parametrize("uri", ["zip://::/x.zip", "simplecache::s3://bucket/x", "https://host/x"])
def test_an_output_that_is_for_reading_only(uri):
    assert "nothing can be written" in refused(config(output_uri=uri)).what


@pytest.mark.parametrize("uri", ["s3://a b/x", "s3://ab!/x", "s3:///x", "s3://x/y", "zip://::s3://b_/x.zip"])
def test_a_bucket_name_that_cannot_be(uri):
    assert "no bucket can be called" in refused(config(uri)).what


@pytest.mark.parametrize(
    ("given", "instead"),
    [
        ({"access_key": "hush", "secret_key": "hush"}, "{key: K, secret: S}"),
        (
            {"endpoint": "http://h:1", "aws_access_key_id": "hush", "secret": "hush"},
            "{endpoint: http://HOST:PORT, key: K, secret: S}",
        ),
        ({"anon": True, "region_name": "x"}, "{anon: true, region: R}"),
    ],
)
@pytest.mark.parametrize("side", ["source", "output"])
def test_options_that_other_clients_know(given, instead, side):
    error = refused(config("s3://bucket/x", "s3://bucket/y", **{side: given}))
    assert error.what.startswith(f"{side}.storage_options: ")
    assert error.do == f"'{side}.storage_options={instead}'"
    assert "hush" not in str(error)


@pytest.mark.parametrize("name", ["endpoint", "endpoint_url"])
def test_an_endpoint_without_its_scheme(name):
    error = refused(config("s3://bucket/x", source={name: "localhost:8333"}))
    assert error.do.startswith(f"source.storage_options.{name}=http://localhost:8333")
    config("s3://bucket/x", source={name: "http://localhost:8333"}).check_places()
    config("/in", source={name: "localhost:8333"}).check_places()  # nobody reads it
