"""cluster.yaml against the schema that Ray's launcher itself validates with."""

import json
from pathlib import Path

import jsonschema
import ray.autoscaler
import yaml


def test_the_cluster_file_fits_rays_schema(repo):
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    config = yaml.safe_load((repo / "cluster.yaml").read_text())
    jsonschema.validate(config, schema)
    assert config["head_node_type"] in config["available_node_types"]
    for local in config["file_mounts"].values():
        assert (repo / local).exists(), local
