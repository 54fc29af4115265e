"""Every cluster file by the schemas of those who read it: Ray, clouds, Kubernetes; shell by shellcheck and by runs."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import jsonschema
import kuberay
import kubernetes_validate
import pytest
import yaml

CLUSTERS = Path(__file__).resolve().parents[3] / "clusters"
REPOSITORY = CLUSTERS.parent
LAUNCHED = sorted(CLUSTERS.glob("*.yaml"))
CLOUDS = [f for f in LAUNCHED if f.name != "local.yaml"]
KUBERNETES = sorted((CLUSTERS / "kubernetes").glob("*.yaml"))
RAY_FILES = [f for f in KUBERNETES if f.name != "storage.yaml"]
KUBERNETES_VERSION = "1.37"


def name(path: Path) -> str:
    return path.name


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def prepared(config: dict) -> dict:
    """As `ray up` reads it, up to where it would ask the cloud."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    ready = prepare_config(copy.deepcopy(config))
    validate_config(ready)
    return ready


@pytest.mark.parametrize("path", LAUNCHED, ids=name)
def test_ray_up_would_take_it(path):
    config = read(path)
    ready = prepared(config)
    for kind in ("head", "worker"):
        assert any("setup.sh" in c for c in ready[f"{kind}_setup_commands"])
        assert any("ulimit" in c and "ray start" in c for c in ready[f"{kind}_start_ray_commands"])
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in ready["head_start_ray_commands"][-1]


def test_ray_up_would_refuse_a_misspelt_field():
    config = read(CLUSTERS / "aws.yaml")
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        prepared(config | {"max_worker": 3})


@pytest.mark.parametrize("path", LAUNCHED, ids=name)
def test_what_is_mounted_is_here_and_enough_to_install(path):
    mounts = read(path)["file_mounts"]
    for remote, local in mounts.items():
        assert remote.startswith("~/")
        assert local.startswith("~") or (REPOSITORY / local).exists()
    assert {"pyproject.toml", "README.md", "LICENSE", "ialign_ray", "clusters/setup.sh"} <= set(mounts.values())


@pytest.mark.parametrize("path", LAUNCHED, ids=name)
def test_the_head_asks_for_a_token_and_its_dashboard_is_reached_through_ssh_alone(path):
    config = read(path)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert "RAY_AUTH_MODE=token" in (CLUSTERS / "setup.sh").read_text()


@pytest.mark.parametrize("path", [*LAUNCHED, *KUBERNETES, CLUSTERS / "slurm.sh"], ids=name)
def test_nothing_secret_is_inside_and_what_to_fill_in_is_marked(path):
    text = path.read_text()
    assert "FILL" in text
    assert not re.search(
        r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|[0-9a-f]{40}|password\s*[:=]|token:\s*[\"']?\w{16}", text
    )


@pytest.mark.parametrize("path", LAUNCHED, ids=name)
def test_every_placeholder_is_marked(path):
    """An address or id of nobody stands within three lines of the word FILL."""
    lines = path.read_text().splitlines()
    nobody = re.compile(r"192\.0\.2\.|0123456789abcdef0|my-project-id|myaccount|00000000-0000|10\.10\.16\.")
    for number, line in enumerate(lines):
        if nobody.search(line) and not line.lstrip().startswith("#"):
            assert any("FILL" in near for near in lines[max(0, number - 9) : number + 1]), line


@pytest.mark.parametrize("path", CLOUDS, ids=name)
def test_clouds_start_at_nothing_with_spot_workers_and_a_head_that_stays(path):
    config = read(path)
    head, worker = (config["available_node_types"][k] for k in ("head", "gpu_worker"))
    assert config["head_node_type"] == "head"
    assert worker["min_workers"] == 0 < worker["max_workers"] <= config["max_workers"]
    spot = re.compile("spot|preemptible", re.IGNORECASE)
    assert spot.search(json.dumps(worker))
    assert not spot.search(json.dumps(head))
    versions = {re.search(r":([\d.]+)-py", config["docker"][k])[1] for k in ("image", "head_image", "worker_image")}
    assert len(versions) == 1


def test_ec2_would_take_the_hosts():
    """The service model that boto3 sends by: names, types and required fields of RunInstances."""
    from botocore.loaders import Loader
    from botocore.model import ServiceModel
    from botocore.validate import ParamValidator

    shape = ServiceModel(Loader().load_service_model("ec2", "service-2")).operation_model("RunInstances").input_shape

    def refusals(node: dict) -> str:
        sent = {k: v for k, v in node.items() if k != "SubnetIds"}  # Ray's word: it sends one, as SubnetId
        sent |= {"SubnetId": node["SubnetIds"][0], "MinCount": 1, "MaxCount": 1}
        return ParamValidator().validate(sent, shape).generate_report()

    for kind in read(CLUSTERS / "aws.yaml")["available_node_types"].values():
        assert refusals(kind["node_config"]) == ""
        assert kind["node_config"]["SecurityGroupIds"]  # Ray's own group lets ssh in from everywhere
    assert "InstanceTyp" in refusals(kind["node_config"] | {"InstanceTyp": "m6i"})


def closed(described: dict) -> dict:
    """JSON Schema of what a discovery document says, refusing the fields that it does not know."""
    if "$ref" in described:
        return {"$ref": f"#/$defs/{described['$ref']}"}
    kept = {k: described[k] for k in ("type", "enum") if k in described and described[k] != "any"}
    if described.get("format") in {"int64", "uint64"}:
        kept["type"] = ["string", "integer"]  # JSON has no 64-bit integers; the service takes both
    if "items" in described:
        kept["items"] = closed(described["items"])
    if described.get("type") == "object":
        known = described.get("properties", {})
        other = described.get("additionalProperties")
        kept["properties"] = {k: closed(v) for k, v in known.items()}
        kept["additionalProperties"] = closed(other) if other else not known
    return kept


def test_compute_engine_would_take_the_hosts():
    """Google's description of its API, as its client ships it."""
    described = files("googleapiclient.discovery_cache").joinpath("documents/compute.v1.json").read_text()
    schemas = {k: closed(v) for k, v in json.loads(described)["schemas"].items()}
    instance = jsonschema.Draft202012Validator({"$defs": schemas, "$ref": "#/$defs/Instance"})
    for kind in read(CLUSTERS / "gcp.yaml")["available_node_types"].values():
        instance.validate(kind["node_config"])
        assert "subnetwork" in kind["node_config"]["networkInterfaces"][0]  # the default network is open to all for ssh
    with pytest.raises(jsonschema.ValidationError):
        instance.validate(kind["node_config"] | {"scheduling": {"preemptable": True}})


def test_rays_azure_template_would_take_the_hosts():
    template = json.loads(files("ray.autoscaler._private._azure").joinpath("azure-vm-template.json").read_text())
    types = {"string": str, "object": dict, "int": int, "bool": bool, "array": list}
    config = read(CLUSTERS / "azure.yaml")
    for kind in config["available_node_types"].values():
        for key, value in kind["node_config"]["azure_arm_parameters"].items():
            assert isinstance(value, types[template["parameters"][key]["type"]]), key
    assert config["provider"]["use_internal_ips"] is True  # Ray's rule lets ssh in from everywhere


def test_the_local_head_runs_autoscaler_v1_whatever_ray_up_says(tmp_path):
    """v2 leaves out one local worker, and every lost one (tests/cluster); `ray up` asks for it before our command."""
    from ray.autoscaler._private.util import with_envs

    [sent] = with_envs(
        [read(CLUSTERS / "local.yaml")["head_start_ray_commands"][-1]], {"RAY_enable_autoscaler_v2": "1"}
    )
    told = "autoscaler $RAY_enable_autoscaler_v2 waits $AUTOSCALER_NODE_START_WAIT_S"
    (tmp_path / "ray").write_text(f"#!/bin/bash\necho {told} $*\n")
    (tmp_path / "ray").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    said = subprocess.run(["bash", "-c", sent], capture_output=True, text=True, env=path).stdout
    assert said.startswith("autoscaler 0 waits 2592000 start --head --port=6379")


@pytest.mark.parametrize("path", RAY_FILES, ids=name)
def test_kuberay_would_take_it(path):
    found = read(path)
    jsonschema.validate(found, kuberay.resource(found["kind"]))
    cluster = kuberay.cluster_of(found)
    assert cluster["authOptions"]["mode"] == "token"
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES_VERSION, strict=True)
        [container] = pod["spec"]["containers"]
        assert {m["name"] for m in container["volumeMounts"]} <= {v["name"] for v in pod["spec"]["volumes"]}
        assert any(m["mountPath"] == "/srv/ialign" for m in container["volumeMounts"])
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    images = {c["image"] for g in groups for c in g["template"]["spec"]["containers"]}
    assert len(images) == 1


@pytest.mark.parametrize("path", RAY_FILES, ids=name)
def test_rays_autoscaler_understands_the_groups(path):
    """The code that KubeRay's autoscaler runs on the resource: what a pod of a group brings."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    cluster = kuberay.cluster_of(read(path))
    custom = {"metadata": {"name": "ialign", "namespace": "default"}, "spec": cluster}
    derived = _derive_autoscaling_config_from_ray_cr(custom)
    kinds = derived["available_node_types"]
    assert kinds["gpu"]["resources"]["GPU"] == 1
    assert kinds["gpu"]["max_workers"] == 4
    assert "GPU" not in kinds[derived["head_node_type"]]["resources"]
    assert derived["idle_timeout_minutes"] == 10


def test_kuberay_would_refuse_what_is_misspelt():
    found = read(CLUSTERS / "kubernetes" / "raycluster.yaml")
    found["spec"]["workerGroupSpecs"][0]["minReplica"] = 0
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        jsonschema.validate(found, kuberay.resource("RayCluster"))
    spec = read(CLUSTERS / "kubernetes" / "raycluster.yaml")["spec"]["headGroupSpec"]["template"]["spec"]
    spec["containers"][0]["volumeMount"] = []
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, KUBERNETES_VERSION, strict=True)


def test_kubernetes_would_take_the_storage_and_it_is_what_the_pods_claim():
    [claim, policy] = yaml.safe_load_all((CLUSTERS / "kubernetes" / "storage.yaml").read_text())
    for found in (claim, policy):
        kubernetes_validate.validate(found, KUBERNETES_VERSION, strict=True)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for path in RAY_FILES:
        assert f"claimName: {claim['metadata']['name']}" in path.read_text()


def test_the_service_deploys_what_serve_deploys():
    from ialign_ray.config.load import serve_settings

    [ours] = yaml.safe_load(read(CLUSTERS / "kubernetes" / "rayservice.yaml")["spec"]["serveConfigV2"])["applications"]
    for path in (REPOSITORY / "serve").glob("*.yaml"):
        [theirs] = read(path)["applications"]
        assert ours["import_path"] == theirs["import_path"]
    settings = serve_settings(data={k: v for k, v in ours["args"].items() if k != "registry"})
    assert settings.keys
    keys = next(v["secret"] for v in volumes("rayservice.yaml") if v["name"] == "keys")
    assert settings.keys == "/etc/ialign/keys.yaml"
    assert keys == {"secretName": "ialign-api-keys"}


def volumes(file: str) -> list[dict]:
    cluster = kuberay.cluster_of(read(CLUSTERS / "kubernetes" / file))
    return cluster["headGroupSpec"]["template"]["spec"]["volumes"]


@pytest.mark.parametrize("script", sorted(CLUSTERS.glob("*.sh")), ids=name)
def test_shellcheck_finds_nothing(script):
    done = subprocess.run([Path(sys.executable).parent / "shellcheck", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", LAUNCHED, ids=name)
def test_shellcheck_finds_nothing_in_the_commands(path, tmp_path):
    config = read(path)
    keys = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    script = tmp_path / "commands.sh"
    commands = [c for k in keys for c in config.get(f"{k}_commands", [])]
    script.write_text("#!/bin/bash\nRAY_HEAD_IP=$1\n" + "\n".join(commands) + "\n")
    done = subprocess.run(
        [Path(sys.executable).parent / "shellcheck", "--exclude=SC2086", script], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
