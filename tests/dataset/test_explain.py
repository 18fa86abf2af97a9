"""What an error of a file system means, by the place that it is of."""

import errno

import pytest

from pipeline.dataset.sources.explain import explain


def named(name: str, text: str) -> Exception:
    return type(name, (Exception,), {})(text)


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("source.uri", "source.storage_options"),
        ("source.manifest", "source.storage_options"),
        ("output.uri", "output.storage_options"),
        ("cache.uri", "cache.storage_options"),
    ],
)
@pytest.mark.parametrize(
    "error",
    [
        PermissionError("An error occurred (SignatureDoesNotMatch) when calling the PutObject operation"),
        OSError("InvalidAccessKeyId"),
        named("NoCredentialsError", "Unable to locate credentials"),
        named("EndpointConnectionError", "Could not connect to the endpoint URL"),
        FileNotFoundError("bucket/x"),
        ValueError("Invalid endpoint: localhost:8333"),
    ],
)
def test_the_options_that_are_named_are_those_of_the_place(key, options, error):
    said = explain(f"{key}=s3://bucket/x", error)
    assert said.what.startswith(f"{key}=s3://bucket/x: ")
    assert f"{options}={{" in said.do
    others = {"source", "output", "cache"} - {key.split(".")[0]}
    assert not any(f"{other}.storage_options" in said.do for other in others)


def test_a_bucket_that_cannot_be():
    error = named(
        "ParamValidationError", 'Parameter validation failed: Invalid bucket name "a b": Bucket name must'
    )
    said = explain("source.uri=s3://a b/x", error)
    assert said.what == "source.uri=s3://a b/x: no bucket can be called a b"


def test_a_folder_that_may_not_be_written_names_the_one_whose_rights_count(tmp_path):
    error = PermissionError(errno.EACCES, "Permission denied", f"{tmp_path}/new/out")
    said = explain(f"output.uri={tmp_path}/new/out", error)
    assert said.do == f"ls -ld {tmp_path}, to see whose it is, or another path", "new is not there yet"


@pytest.mark.parametrize("uri", ["gs://bucket/x", "sftp://host/x", "abfs://c@a.dfs.core.windows.net/x"])
def test_another_store_is_not_told_of_s3s_options(uri):
    for error in (FileNotFoundError(uri), PermissionError("denied"), named("ConnectionError", "refused")):
        said = explain(f"source.uri={uri}", error)
        assert "endpoint" not in str(said)
        assert "bucket/x" not in said.why or uri.startswith("gs")


def test_no_credentials_are_repeated():
    said = explain("source.uri=https://user:pass@host/a.wav?X-Signature=abc", FileNotFoundError("x"))
    assert "pass" not in str(said)
    assert "abc" not in str(said)


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "access denied"), (403, "access denied"), (404, "has nothing there"), (410, "has nothing there"),
     (503, "answers 503")],
)  # fmt: skip
def test_what_a_web_server_answers(status, says):
    error = named("ClientResponseError", f"{status}, message='x'")
    error.status = status
    assert says in explain("source.uri=https://host/a.wav", error).what
