"""`ialign serve` before anything is started: what is wrong is said in one sentence."""

import signal
import socket
from contextlib import suppress

import pytest
import yaml
from refusals import refused
from runs import GOOD

from ialign_ray.cli.serve import _stopping
from ialign_ray.config.load import serve_settings
from ialign_ray.errors import ClusterError, ConfigError
from ialign_ray.registry.promotion import promote
from ialign_ray.serving.deployment import application, build, free_port, options, reason_of, url_of
from ialign_ray.serving.examples import requests_of, try_requests
from ialign_ray.serving.keys import KeyRing, digest_of
from ialign_ray.serving.model_sources import locate


@pytest.fixture
def ialign(ialign, monkeypatch, tmp_path):
    """Runs the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("IALIGN_API_KEYS", raising=False)
    return ialign


def test_without_a_registry_the_cure_is_told(ialign):
    refused(ialign("serve"), "runs/mlflow.db does not exist, so there is no registry; `ialign register` a run first")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--model", "champion"],
            "model 'mine' has no alias 'champion' (it has: none yet); `ialign promote` a version first",
        ),
        (["--model", "mine/9"], "model 'mine' has no version 9"),
        (["--model", "other@champion"], "has no model 'other'"),
        (["--model", "mine/1", "--set", "serve.port=99999"], "serve.port is 99999, but input should be less than"),
        (["--model", "mine/1", "--set", "serve.ports=1"], "unknown key serve.ports; did you mean 'port'?"),
        (["--set", "serve.models=[]"], "serve.models is [], but list should have at least 1 item"),
        (["--model", "mine/1", "--set", "train.steps=1"], "only serve.* can be set without an experiment file"),
        (["nowhere.yaml"], "nowhere.yaml does not exist; name an experiment file"),
        (["--model", "mine/1", "--set", "serve.keys=none.yaml"], "key file none.yaml cannot be read"),
        (["--model", "mine/1", "--set", "serve.engine=vllm"], "serve.engine is vllm, which is not installed"),
        (["--model", "mine/1", "--host", "0.0.0.0"], "serve.host is 0.0.0.0, which others can reach, and there are no"),
    ],
)
def test_what_is_wrong_is_one_sentence(ialign, registry, arguments, said):
    code, out, err = ialign("serve", *arguments)
    assert (code, len(err.splitlines())) == (2, 1), (out, err)
    assert err.startswith("ialign: ")
    assert said in err


def test_a_port_in_use_is_told_before_ray_starts(ialign, registry):
    promote(registry, "mine", GOOD)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = ialign("serve", "--port", port)
    assert (code, len(err.splitlines())) == (2, 1)
    assert f"serve.port is {port} on 127.0.0.1, which cannot be used (Address already in use)" in err
    assert "--port (0 picks a free one)" in err


def test_a_key_is_shown_once_and_its_hash_is_kept(ialign, tmp_path):
    code, out, _ = ialign("serve", "keys", "alice", "--model", "champion", "--requests-per-minute", "60")
    secret = out.splitlines()[0]
    assert code == 0
    kept = (tmp_path / "keys.yaml").read_text()
    assert secret not in kept
    assert yaml.safe_load(kept)["keys"][0]["models"] == ["champion"]
    assert KeyRing.read(tmp_path / "keys.yaml").find(digest_of(secret)).requests_per_minute == 60
    assert ialign("serve", "keys", "bob")[0] == 0
    refused(ialign("serve", "keys", "alice"), "already has a key 'alice'")


def test_the_application_files_are_what_the_application_takes(registry, monkeypatch, tmp_path):
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IALIGN_API_KEYS", raising=False)
    for name in ("local", "gpu"):
        file = yaml.safe_load((Path(__file__).parents[3] / "serve" / f"{name}.yaml").read_text())
        assert file["http_options"]["host"] == "127.0.0.1"
        (application,) = file["applications"]
        module, _, function = application["import_path"].partition(":")
        assert (module, function) == (build.__module__, build.__name__)
        build(application["args"])
        with pytest.raises(ConfigError, match="no API keys"):
            build(application["args"] | {"host": "0.0.0.0"})
        with pytest.raises(ConfigError, match=r"unknown key serve.follow_ms; did you mean 'follow_s'\?"):
            build(application["args"] | {"follow_ms": 1})


def test_replicas_scale_between_their_bounds_and_refuse_what_waits_too_long():
    fixed, scaled = (options(serve_settings(data={"replicas": r, "drain_s": 7})) for r in ([2, 2], [1, 4]))
    assert fixed["num_replicas"] == 2
    assert scaled["autoscaling_config"] == {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 32}
    assert fixed["backpressure_config"]["status_code"] == 429
    assert fixed["graceful_shutdown_timeout_s"] > 7


def test_paths_mean_the_same_wherever_a_replica_works(monkeypatch, tmp_path):
    """A replica stands where Ray was started, not where `ialign serve` was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IALIGN_API_KEYS", raising=False)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    deployed = application(serve_settings(data={"models": ["runs/mine", "champion", "org/name"]}), "runs")
    settings, registry = deployed._bound_deployment.init_args
    assert settings["models"] == [str(tmp_path / "runs" / "mine"), "champion", "org/name"]
    assert registry == f"sqlite:///{tmp_path}/runs/mlflow.db"


@pytest.mark.parametrize(("host", "url"), [("127.0.0.1", "http://127.0.0.1:8000"), ("::1", "http://[::1]:8000")])
def test_an_address_is_what_a_client_takes(host, url):
    assert url_of(host, 8000) == url


def test_a_server_that_is_gone_is_one_sentence(registry):
    port = free_port("127.0.0.1", 0)
    with pytest.raises(ClusterError, match="/v1/models does not answer .*Connection refused"):
        list(try_requests(f"http://127.0.0.1:{port}", [locate("mine/1", registry.uri).info()]))


def test_handlers_are_put_back_when_a_trial_fails():
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with suppress(ClusterError), _stopping():
        assert signal.getsignal(signal.SIGTERM) != before[1]
        raise ClusterError("no answer")
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_why_a_deployment_failed_is_found_in_what_the_replica_left():
    left = (
        "The deployment failed to start 3 times in a row. See controller logs for details. Error:\n"
        "ray::ServeReplica:ialign:models.initialize_and_get_metadata() (pid=7, ip=127.0.0.1)\n"
        "    raise ModelError(\nialign_ray.errors.ModelError: adapter x does not fit the base: layer q is 2 x 2.\n"
    )
    assert reason_of(left) == "adapter x does not fit the base: layer q is 2 x 2."
    assert reason_of("out\nof memory") == "the deployment failed: out of memory"


def test_examples_ask_in_the_languages_of_the_model(registry):
    promote(registry, "mine", GOOD)
    kinds = {kind: body for kind, _, body in requests_of([locate("champion", registry.uri).info()])}
    assert (kinds["translation"]["source"], kinds["translation"]["target"]) == ("eng", "ind")
    assert kinds["chat"]["model"] == "champion"
