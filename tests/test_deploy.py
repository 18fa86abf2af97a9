"""The karaoke service's image, compose file and Kubernetes manifest: what they name is there, and what they type is
accepted by the service's own config. No daemon and no cluster runs them here."""

from __future__ import annotations

import copy
import json
import re

import jsonschema
import pytest
import yaml
from helpers.dockerfile import pip_install, stages
from helpers.service_config import service_configs

from pipeline.service.health import CHECK_TIMEOUT_S, ServiceState, application
from pipeline.service.kafka import Topics
from pipeline.service.metrics import Metrics
from pipeline.workflows.service_config import ServiceConfig

CLOSING_S = 20.0
"""Beyond ``service.drain_s``: `Crew.close` and `Announcer.close` take 10 s each, at most."""


@pytest.fixture(scope="module")
def compose(repo) -> dict:
    return yaml.safe_load((repo / "deploy" / "karaoke-compose.yaml").read_text())


@pytest.fixture(scope="module")
def manifest(repo) -> dict[str, dict]:
    """Kind → object."""
    found = list(yaml.safe_load_all((repo / "deploy" / "karaoke-kubernetes.yaml").read_text()))
    assert len({each["kind"] for each in found}) == len(found) == 4
    return {each["kind"]: each for each in found}


@pytest.fixture(scope="module")
def pod(manifest) -> dict:
    return manifest["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod) -> dict:
    [found] = pod["containers"]
    return found


@pytest.fixture(scope="module")
def image(repo) -> dict[str, str]:
    """Instruction → arguments of the target, each but ``RUN`` and ``ENV`` the last of its name."""
    [found] = [stage for stage in stages(repo / "Dockerfile") if stage[0][1].endswith(" AS karaoke-service")]
    assert found[0] == ("FROM", "soundmill AS karaoke-service")
    return dict(found)


@pytest.fixture(scope="module")
def variables(repo) -> set[str]:
    """Environment variables that a config of the project reads."""
    texts = [path.read_text() for path in (repo / "conf").rglob("*.yaml")]
    return {name for text in texts for name in re.findall(r"\$\{oc\.env:(\w+)", text)}


@pytest.fixture(scope="module")
def pages() -> set[str]:
    return {route.path for route in application(ServiceState(), Metrics()).routes}


@pytest.fixture
def load(monkeypatch):
    """The service's config of a command line and an environment, as the job composes and checks it."""

    def found(arguments: list[str], environment: dict[str, str]) -> ServiceConfig:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return load_config(arguments).service

    with service_configs() as load_config:
        yield found


def environment(container: dict) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container["env"]}


def test_the_image_adds_what_the_service_needs_and_does_not_run_as_root(repo, image):
    assert pip_install(image["RUN"]) == ["-c", "constraints.txt", "-e", "'.[opensearch]'"]
    assert 'opensearch = ["soundmill[service]", ' in (repo / "pyproject.toml").read_text()
    assert image["USER"] == "1000"
    assert f"chown 1000 {image['VOLUME']}" in image["RUN"]
    assert image["ENV"] == f"SERVICE_STATE_DIR={image['VOLUME']}"


def test_the_process_of_the_image_gets_the_signal_and_is_asked_where_it_listens(repo, image, load, pages):
    entry, more = (
        json.loads(image["ENTRYPOINT"]),
        json.loads(image["CMD"]),
    )  # no shell, which would keep the signal
    assert entry[:3] == ["tini", "--", "python"]
    assert (repo / entry[3].removeprefix("/opt/soundmill/")).is_file()
    service = load(more, {"SERVICE_STATE_DIR": image["VOLUME"]})
    assert (service.health_host, service.workers, service.state_dir) == ("0.0.0.0", "inline", "/state")  # noqa: S104
    assert image["EXPOSE"] == str(service.health_port)
    asked = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", image["HEALTHCHECK"])
    assert (int(asked[1]), asked[2]) == (service.health_port, "/healthz")
    assert asked[2] in pages


def test_the_command_of_the_compose_file_is_one_that_the_config_takes(compose, load, image, variables):
    told = compose["services"]["service"]
    assert told["build"] == {"context": "..", "target": "karaoke-service"}
    assert set(told["environment"]) <= variables
    service = load(told["command"], told["environment"])
    assert (service.kafka, service.search_url) == ("kafka:19092", "http://elasticsearch:9200")
    assert service.health_host == "0.0.0.0", "its port is published"  # noqa: S104
    assert told["ports"] == [f"127.0.0.1:{service.health_port}:{service.health_port}"]
    assert int(told["stop_grace_period"].removesuffix("s")) > service.drain_s + CLOSING_S
    assert int(told["mem_limit"].removesuffix("g")) > service.parallel * service.worker_memory_gb
    mounts = dict(reversed(each.rsplit(":", 1)) for each in told["volumes"])
    assert [*mounts] == [*service.roots, image["VOLUME"]]
    assert mounts[image["VOLUME"]] in compose["volumes"]


def test_the_servers_of_the_compose_file_are_pinned_healthy_and_heard_here_only(compose):
    services = compose["services"]
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert name == "service" or re.search(r":\d+\.\d+\.\d+$", service["image"]), name
        assert name in ("service", "topics") or service["healthcheck"]["test"][0] == "CMD", name
        for needed in service.get("depends_on", ()):
            assert needed in services
        for volume in service.get("volumes", ()):
            assert volume.startswith("${SONGS") or volume.partition(":")[0] in compose["volumes"]
    told = services["kafka"]["environment"]
    for name in ("OFFSETS_TOPIC", "TRANSACTION_STATE_LOG", "SHARE_COORDINATOR_STATE_TOPIC", "DEFAULT"):
        assert told[f"KAFKA_{name}_REPLICATION_FACTOR"] == 1, name
    assert told["KAFKA_TRANSACTION_STATE_LOG_MIN_ISR"] == 1
    names = {each.partition(":")[0] for each in told["KAFKA_LISTENERS"].split(",")}
    assert {
        each.partition(":")[0] for each in told["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    } == names
    assert {each.partition(":")[0] for each in told["KAFKA_ADVERTISED_LISTENERS"].split(",")} == names - {
        told["KAFKA_CONTROLLER_LISTENER_NAMES"]
    }
    assert len(told["CLUSTER_ID"]) == 22, "16 bytes in base64"


def test_the_topics_of_the_compose_file_are_those_of_the_service(compose):
    told = compose["services"]["topics"]
    assert told["image"] == compose["services"]["kafka"]["image"]
    named = re.search(r"for topic in (.*?);", told["command"][-1])[1].split()
    assert tuple(named) == Topics().all


def test_the_arguments_of_the_manifest_are_ones_that_the_config_takes(container, load, variables, image, pod):
    assert set(environment(container)) <= variables
    service = load(container["args"], environment(container))
    assert (service.kafka, service.search_url) == ("KAFKA:9092", "https://SEARCH:9200")
    assert service.state_dir == image["VOLUME"]
    assert service.health_host == "0.0.0.0", "the kubelet asks from outside"  # noqa: S104
    assert [port["containerPort"] for port in container["ports"]] == [service.health_port]
    assert pod["terminationGracePeriodSeconds"] > service.drain_s + CLOSING_S
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Gi"))
    assert limit > service.parallel * service.worker_memory_gb
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert [mounts["songs"]] == service.roots
    assert mounts["state"] == service.state_dir
    assert {each["name"] for each in pod["volumes"]} == set(mounts)


def test_the_settings_for_a_kafka_with_a_password_are_ones_that_the_config_takes(repo, container, load):
    text = (repo / "deploy" / "karaoke-kubernetes.yaml").read_text()
    [commented] = re.findall(r"# - '(service\.kafka_options=.*?)'", text, re.DOTALL)
    argument = " ".join(commented.replace("#", " ").split())
    secrets = {"KAFKA_USERNAME": "me", "KAFKA_PASSWORD": "s, {e}"}
    service = load([*container["args"], argument], environment(container) | secrets)
    assert service.kafka_options == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "me",
        "sasl.password": "s, {e}",
    }
    [key] = re.findall(r"--from-literal=(\w+)=", text)
    assert load(container["args"], environment(container) | {key: "k"}).search_api_key == "k"


def test_the_probes_ask_for_pages_that_are_there(container, pages):
    ports = {port["name"] for port in container["ports"]}
    probes = {name: container[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["httpGet"]["path"] for name, probe in probes.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    for probe in probes.values():
        assert probe["httpGet"]["path"] in pages
        assert probe["httpGet"]["port"] in ports
    assert probes["readiness"]["timeoutSeconds"] > CHECK_TIMEOUT_S


def test_the_objects_of_the_manifest_name_each_other(manifest, pod, container, pages):
    spec = manifest["Deployment"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    for selector in (spec["selector"], manifest["PodDisruptionBudget"]["spec"]["selector"]):
        assert selector["matchLabels"].items() <= labels.items()
    assert manifest["Service"]["spec"]["selector"].items() <= labels.items()
    [port] = manifest["Service"]["spec"]["ports"]
    assert port["targetPort"] in {each["name"] for each in container["ports"]}
    told = manifest["Service"]["metadata"]["annotations"]
    assert told["prometheus.io/port"] == str(port["port"])
    assert told["prometheus.io/path"] in pages
    [songs] = [each for each in pod["volumes"] if each["name"] == "songs"]
    claim = manifest["PersistentVolumeClaim"]
    assert songs["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert spec["replicas"] > 1, "or the budget would let nothing be drained"


@pytest.fixture(scope="module")
def pod_schema(repo) -> jsonschema.Draft202012Validator:
    """Kubernetes' own definition of a pod template, see tests/data/rayjob_schema.json."""
    whole = json.loads((repo / "tests" / "data" / "rayjob_schema.json").read_text())
    return jsonschema.Draft202012Validator({"$ref": "#/$defs/PodTemplateSpec", "$defs": whole["$defs"]})


def test_the_pods_fit_the_schema_of_kubernetes(manifest, pod_schema):
    template = manifest["Deployment"]["spec"]["template"]
    pod_schema.validate(template)
    wrong = copy.deepcopy(template)
    wrong["spec"]["containers"][0]["readinessProbe"]["httpGet"]["url"] = "/readyz"
    with pytest.raises(jsonschema.ValidationError, match="url"):
        pod_schema.validate(wrong)


def test_no_secret_is_written_down(compose, container):
    assert container["envFrom"] == [{"secretRef": {"name": "soundmill-karaoke"}}]
    service = compose["services"]["service"]
    named = [*container["args"], *environment(container), *service["command"], *service["environment"]]
    assert not [name for name in named if re.search(r"(?i)password|secret|key|token", name)]
