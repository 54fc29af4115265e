"""Every cluster file by the schemas of those who read it: Ray, clouds, Kubernetes; shell by shellcheck and by runs."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import venv
from importlib.resources import files
from pathlib import Path

import jsonschema
import kuberay
import kubernetes_validate
import pytest
import yaml

CLUSTERS = Path(__file__).resolve().parents[2] / "clusters"
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


def set_up(home: Path, *, source: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess:
    defaults = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "IALIGN_VENV": str(Path(sys.executable).parent.parent),
        "IALIGN_SHARED": str(home / "shared"),
    }
    script = [str(CLUSTERS / "setup.sh"), str(source)]
    return subprocess.run(
        script, capture_output=True, text=True, env=defaults | {"PYTHONPATH": str(REPOSITORY)} | environment
    )


def test_setting_up_a_host_twice_is_setting_it_up_once(tmp_path):
    profiles = []
    for _ in range(2):
        done = set_up(tmp_path)
        assert done.returncode == 0, done.stderr
        profiles.append((tmp_path / ".bashrc").read_text())
    assert profiles[0] == profiles[1] == (tmp_path / ".profile").read_text()
    shell = [
        "bash",
        "-c",
        f". {shlex.quote(str(tmp_path / '.bashrc'))}; echo $RAY_AUTH_MODE $IALIGN_CACHE; which ialign",
    ]
    said = subprocess.run(shell, capture_output=True, text=True).stdout.split()
    assert said == ["token", str(tmp_path / "shared" / "cache"), str(Path(sys.executable).parent / "ialign")]
    assert list((tmp_path / "shared").iterdir()) == []


PIP = """
import pathlib, sys
here = pathlib.Path(__file__).parents[1]
with open(here / "installed", "a") as file:
    print(*sys.argv[1:], file=file)
if pathlib.Path(sys.argv[-1], "broken").exists():
    sys.exit("pip failed")
for package in ("ialign_ray", "ray"):
    (here / package).mkdir(exist_ok=True)
"""


def test_a_changed_source_is_installed_again_and_nothing_else(tmp_path):
    """A venv of its own, whose pip is a stand-in: the real one would need an index."""
    venv.create(tmp_path / "venv", with_pip=False)
    [packages] = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "pip").mkdir()
    (packages / "pip" / "__main__.py").write_text(PIP)
    source = tmp_path / "source"
    (source / "ialign_ray").mkdir(parents=True)
    (source / "pyproject.toml").write_text("[project]\n")

    def installed() -> int:
        done = set_up(tmp_path, source=source, IALIGN_VENV=str(tmp_path / "venv"), PYTHONPATH="")
        assert (done.returncode == 0) != (source / "broken").exists(), done.stderr
        lines = (packages / "installed").read_text().splitlines() if (packages / "installed").exists() else []
        assert set(lines) <= {f"install --quiet {source}"}
        return len(lines)

    (packages / "ialign_ray").mkdir()
    (packages / "ray").mkdir()
    assert installed() == 0  # an image's own, which this script did not install
    (packages / "ray").rmdir()
    assert [installed(), installed()] == [1, 1]
    (source / "pyproject.toml").write_text("[project]\ndependencies = ['ray']\n")
    assert [installed(), installed()] == [2, 2]
    (source / "ialign_ray" / "cli.py").write_text("")
    (source / "broken").touch()
    assert [installed(), installed()] == [3, 4]  # what failed is tried again
    (source / "broken").unlink()
    assert [installed(), installed()] == [5, 5]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"IALIGN_SHARED": "/proc/nowhere"}, "/proc/nowhere cannot be written here; mount the shared storage"),
        ({"IALIGN_SHARED": ""}, "set IALIGN_SHARED to the folder that all hosts share"),
        ({"IALIGN_PYTHON": "false"}, "false is older than 3.11; name a newer one in IALIGN_PYTHON"),
    ],
)
def test_a_host_that_will_not_do_says_why(tmp_path, change, sentence):
    done = set_up(tmp_path, **change)
    assert done.returncode == 1
    assert sentence in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / ".bashrc").exists()


def test_a_host_without_the_source_says_so(tmp_path):
    done = set_up(tmp_path, source=tmp_path)
    assert done.returncode == 1
    assert "holds no pyproject.toml; check file_mounts" in done.stderr


SRUN = """#!/bin/bash
# runs the command here, as Slurm would on the node named
while [[ "$1" == --* ]]; do shift; done
if [ "$1" = hostname ]; then echo 127.0.0.1; exit; fi
exec "$@"
"""
RAY = """#!/bin/bash
echo "ray $*" >> "$SAID"
case "$1" in
  start)
    token=$RAY_AUTH_TOKEN_PATH
    echo "$RAY_AUTH_MODE $(wc -c < "$token") $(stat -c %a "$token")" >> "$SAID"
    exec sleep 60;;
  health-check) exit 0;;
esac
"""
IALIGN = """#!/bin/bash
trap 'sleep 0.5; kill $slept; exit ${CODE:-143}' TERM
while [ "$(grep -c token "$SAID")" -lt 2 ]; do sleep 0.05; done
echo "ialign $* at $RAY_ADDRESS" >> "$SAID"
if [ "$1" = long ]; then sleep 30 & slept=$!; wait $slept; fi
exit 7
"""


@pytest.fixture
def slurm(tmp_path):
    """clusters/slurm.sh with stand-ins for Slurm, Ray and ialign, which write down how they were called."""
    binaries = tmp_path / "venv" / "bin"
    binaries.mkdir(parents=True)
    stand_ins = {"srun": SRUN, "scontrol": "#!/bin/bash\nprintf 'a\\nb\\nc\\n'\n", "ray": RAY, "ialign": IALIGN}
    for command, text in stand_ins.items():
        (binaries / command).write_text(text)
        (binaries / command).chmod(0o755)
    (binaries / "python").symlink_to(sys.executable)
    environment = {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "IALIGN_VENV": str(tmp_path / "venv"),
        "SAID": str(tmp_path / "said"),
        "SLURM_JOB_NODELIST": "a,b,c",
        "SLURM_JOB_ID": "20005",
        "SLURM_CPUS_ON_NODE": "16",
        "SLURM_GPUS_ON_NODE": "4",
    }

    def start(*arguments: str, **more: str) -> subprocess.Popen:
        command = ["bash", str(CLUSTERS / "slurm.sh"), *arguments]
        return subprocess.Popen(command, env=environment | more, stderr=subprocess.PIPE, text=True)

    return start


def test_slurm_starts_a_head_and_workers_and_ends_with_the_commands_code(slurm, tmp_path):
    process = slurm("align", "my.yaml")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 7, errors
    said = (tmp_path / "said").read_text().splitlines()
    assert [line for line in said if "--head" in line and "--num-gpus=4" in line and "--port=20005" in line]
    assert [line for line in said if line.startswith("ray start --address=127.0.0.1:20005 --num-cpus=16")]
    assert said[-1] == "ialign align my.yaml at 127.0.0.1:20005"
    assert said.count("token 64 600") == 2  # the token's length, and a file for its owner alone
    assert not list(tmp_path.glob(".ialign-job-*"))


def slow(tmp_path: Path, command: str) -> str:
    """What every bash reads at its start: the script waits a second before one of its commands, as on a loaded host."""
    path = tmp_path / "slow"
    path.write_text(f"slow() {{ if [ \"$BASH_COMMAND\" = '{command}' ]; then sleep 1; fi; }}\ntrap slow DEBUG\n")
    return str(path)


def test_a_command_that_ends_before_it_is_waited_for_keeps_its_code(slurm, tmp_path):
    process = slurm("align", BASH_ENV=slow(tmp_path, "driver=$!"))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 7, errors


def signalled(process: subprocess.Popen, said: Path) -> int:
    """The code of a script that gets Slurm's signal while its command runs."""
    until = time.monotonic() + 30
    while "ialign long" not in (said.read_text() if said.exists() else ""):
        assert time.monotonic() < until
        time.sleep(0.05)
    process.terminate()
    process.communicate(timeout=30)
    return process.returncode


def test_slurms_signal_reaches_the_driver_which_saves_and_ends(slurm, tmp_path):
    assert signalled(slurm("long"), tmp_path / "said") == 143
    assert not list(tmp_path.glob(".ialign-job-*"))


def test_the_drivers_code_counts_where_it_ends_beside_the_signal(slurm, tmp_path):
    assert signalled(slurm("long", CODE="9", BASH_ENV=slow(tmp_path, "code=$?")), tmp_path / "said") == 9


def test_slurm_without_an_environment_or_a_command_says_so(slurm, tmp_path):
    process = slurm()
    assert process.communicate(timeout=30)[1].startswith("slurm.sh: name an ialign command")
    shutil.rmtree(tmp_path / "venv")
    process = slurm("align")
    assert "holds no ialign; set IALIGN_VENV" in process.communicate(timeout=30)[1]
    assert process.returncode == 2
