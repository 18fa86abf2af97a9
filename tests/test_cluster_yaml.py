"""cluster.yaml, deploy/kuberay.yaml and the Dockerfile: against the schemas of those who read them, and each other."""

import copy
import json
import re
import shlex

import jsonschema
import pytest
import yaml
from helpers.dockerfile import pip_install, stages
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config


@pytest.fixture(scope="module")
def cluster(repo) -> dict:
    return yaml.safe_load((repo / "cluster.yaml").read_text())


@pytest.fixture(scope="module")
def rayjob(repo) -> dict:
    return yaml.safe_load((repo / "deploy" / "kuberay.yaml").read_text())


@pytest.fixture(scope="module")
def rayjob_schema(repo) -> jsonschema.Draft202012Validator:
    """What a RayJob may hold; the file says where that is from."""
    schema = json.loads((repo / "tests" / "data" / "rayjob_schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture(scope="module")
def dockerfile(repo) -> list[tuple[str, str]]:
    """(instruction, arguments) of the image that is built where no target is named."""
    first, *others = stages(repo / "Dockerfile")
    assert others[-1] == [("FROM", "soundmill")], "the last one is built, and is the first"
    return first


def test_the_cluster_file_is_what_rays_launcher_takes(repo, cluster):
    """With the launcher's own defaults filled in, which its validation asks for."""
    filled = prepare_config(copy.deepcopy(cluster))
    validate_config(filled)
    head = filled["available_node_types"][cluster["head_node_type"]]
    assert (head["resources"], head["max_workers"]) == ({"CPU": 0}, 0)
    for local in cluster["file_mounts"].values():
        assert local.startswith("~/.ray/") or (repo / local).exists(), local
    # A default that is not ours would install Ray's nightly wheel, or a boto3 beside the lock.
    for line in filled["head_setup_commands"] + filled["worker_setup_commands"]:
        assert "pip install" not in line or pip_install(line)[:2] == ["-c", "constraints.txt"]


@pytest.mark.parametrize(
    ("path", "key"), [([], "up_scaling_speed"), (["docker"], "images"), (["auth"], "ssh_usr")]
)
def test_a_misspelt_key_of_the_cluster_file_is_refused(cluster, path, key):
    wrong = prepare_config(copy.deepcopy(cluster))
    place = wrong
    for name in path:
        place = place[name]
    place[key] = 2
    with pytest.raises(jsonschema.ValidationError, match=key):
        validate_config(wrong)


def test_no_worker_starts_without_the_token(cluster):
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    started = [line for line in starts if "ray start" in line]
    assert len(started) == 2
    assert all(line.startswith("export RAY_AUTH_MODE=token;") for line in started)
    assert "--dashboard-host=127.0.0.1" in started[0]


def test_the_kubernetes_job_fits_the_schema(rayjob, rayjob_schema):
    rayjob_schema.validate(rayjob)


def worker(manifest: dict) -> dict:
    return manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["spec"].update(shutdownAfterJobFinish=True), "shutdownAfterJobFinish"),
        (lambda m: m["spec"].update(ttlSecondsAfterFinished="600"), "not of type 'integer'"),
        (lambda m: m["spec"]["rayClusterSpec"].update(autoscaling={}), "autoscaling"),
        (lambda m: m["spec"]["rayClusterSpec"]["authOptions"].update(mode="tokens"), "tokens"),
        (lambda m: worker(m).pop("maxReplicas"), "maxReplicas"),
        (lambda m: worker(m)["rayStartParams"].update({"num-cpus": 0}), "0 is not of type 'string'"),
        (lambda m: worker(m)["template"]["spec"].update(toleration=[]), "toleration"),
        (lambda m: worker(m)["template"]["spec"]["containers"][0].update(envfrom=[]), "envfrom"),
        (
            lambda m: worker(m)["template"]["spec"]["containers"][0]["resources"]["limits"].update(
                memory="32GB"
            ),
            "32GB",
        ),
    ],
)
def test_what_kubernetes_would_refuse_is_refused(rayjob, rayjob_schema, change, message):
    wrong = copy.deepcopy(rayjob)
    change(wrong)
    errors = [error.message for error in rayjob_schema.iter_errors(wrong)]
    assert any(message in error for error in errors), errors


def test_rays_own_autoscaler_reads_the_groups_as_they_are_meant(rayjob):
    """Ray's half of KubeRay makes node types of the manifest and validates them with the launcher's schema."""
    custom_resource = {
        "metadata": {"name": "soundmill", "namespace": "default"},
        "spec": rayjob["spec"]["rayClusterSpec"],
    }
    types = _derive_autoscaling_config_from_ray_cr(custom_resource)["available_node_types"]
    assert {name: t["resources"].get("CPU") for name, t in types.items()} == {
        "headgroup": 0,
        "cpu-workers": 8,
        "gpu-workers": 8,
    }
    assert types["gpu-workers"]["resources"]["GPU"] == 1
    assert all("GPU" not in types[name]["resources"] for name in ("headgroup", "cpu-workers"))
    assert (types["cpu-workers"]["min_workers"], types["cpu-workers"]["max_workers"]) == (2, 8)


def test_the_runtime_environment_is_yaml_without_secrets(rayjob):
    runtime_env = yaml.safe_load(rayjob["spec"]["runtimeEnvYAML"])
    assert all(isinstance(value, str) for value in runtime_env["env_vars"].values())
    told = rayjob["spec"]["entrypoint"] + rayjob["spec"]["runtimeEnvYAML"]
    assert not re.search(r"key|secret|token|password", told, re.IGNORECASE)
    groups = [
        rayjob["spec"]["rayClusterSpec"]["headGroupSpec"],
        *rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"],
    ]
    for group in groups:
        [container] = group["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "soundmill-s3"}}]


def test_the_manifest_names_the_ray_of_the_lock(repo, rayjob):
    locked = re.search(r"^ray==(\S+)", (repo / "constraints.txt").read_text(), re.MULTILINE)
    assert rayjob["spec"]["rayClusterSpec"]["rayVersion"] == locked[1]


def test_image_cluster_and_make_install_the_same(repo, cluster, dockerfile):
    makefile = (repo / "Makefile").read_text().replace("\\\n", "")
    lines = dict(
        line.split("=", 1) for line in makefile.splitlines() if line.startswith(("PIP :=", "install ="))
    )
    assert "\t@$(call install,.)\n" in makefile
    install = lines["install "].replace("$(PIP)", lines["PIP :"]).replace("$(1)", ".")
    uv, pip = install.split("&&")[1].split("||")
    made = pip_install(pip)
    assert made == ["-c", "constraints.txt", "-e", "."]
    assert "uv pip install" in uv
    assert "-c constraints.txt -e ." in uv
    [image] = [pip_install(run) for name, run in dockerfile if name == "RUN" and "pip install" in run]
    assert image == made
    assert pip_install(cluster["setup_commands"][0]) == made


def test_the_image_copies_what_is_there_and_runs_what_it_copied(repo, dockerfile):
    copied = [word for name, line in dockerfile if name == "COPY" for word in line.split()[:-1]]
    ignore = (repo / ".dockerignore").read_text().splitlines()
    for source in copied:
        assert (repo / source).exists(), source
        assert f"!{source}" in ignore, source
    # The lock alone decides whether the layer with the 5 GB is built again.
    first = next(i for i, (_, line) in enumerate(dockerfile) if "pip install" in line)
    assert [line for name, line in dockerfile[:first] if name == "COPY"] == [
        "pyproject.toml constraints.txt ./"
    ]
    [command] = [json.loads(line) for name, line in dockerfile if name == "CMD"]
    job = command[1].removeprefix("/opt/soundmill/")
    assert job.split("/")[0] in copied
    assert (repo / job).is_file()


def test_the_image_does_not_run_as_root_and_starts_what_it_is_told(dockerfile):
    names = [name for name, _ in dockerfile]
    assert [line for name, line in dockerfile if name == "USER"] == ["1000"]
    assert "ENTRYPOINT" not in names, "the cluster launcher's `bash` would be its argument"
    [(_, base)] = [i for i in dockerfile if i[0] == "FROM"]
    assert base == "python:3.11-slim AS soundmill"


@pytest.fixture
def compose(repo, monkeypatch):
    monkeypatch.syspath_prepend(str(repo / "jobs"))
    import compose

    compose.register()
    return compose


def overrides(command: str) -> list[str]:
    """The keys of a command line of the main job."""
    return shlex.split(command.partition("jobs/extract_features.py")[2])


def test_the_job_of_the_manifest_is_one_that_the_config_takes(rayjob, compose, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # as Ray sets it for a submitted job
    config = compose.load(overrides(rayjob["spec"]["entrypoint"]))
    assert (config.hardware.name, config.ray.address) == ("auto", "10.0.0.1:6379")


def test_the_commands_of_the_guide_are_ones_that_the_config_takes(repo, compose, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    text = (repo / "docs" / "cluster.md").read_text().replace("$PWD", "/home/me").replace("☁", "")
    commands = [line for line in re.sub(r"\\\n", " ", text).splitlines() if "extract_features.py " in line]
    assert len(commands) >= 4
    for command in commands:
        assert compose.load(overrides(command)).output.uri, command
    for path in re.findall(r"(?:jobs|benchmarks|deploy)/[\w.]+\w", text):
        assert (repo / path).exists(), path
