"""What vLLM would be given; vLLM itself needs a GPU and is not there."""

import pytest
from runs import STRENGTHS, make_run, small_experiment

from ialign_ray.config.load import serve_settings
from ialign_ray.errors import ConfigError
from ialign_ray.serving.deployment import application
from ialign_ray.serving.model_sources import bases, locate
from ialign_ray.serving.vllm import llm_config
from ialign_ray.workflows.predict import answer


def test_adapters_are_merged_once_and_bases_are_named_as_they_are(tmp_path, tiny_model_folder, monkeypatch):
    monkeypatch.setenv("IALIGN_CACHE", str(tmp_path / "cache"))
    run = make_run(small_experiment(tmp_path, tiny_model_folder), "best", STRENGTHS["best"], 2, evaluated=False)
    found = locate(str(run), str(tmp_path / "runs"))
    settings = serve_settings(data={"max_batch": 7, "replicas": [1, 3]})
    config = llm_config(found, settings)
    assert config["model_loading_config"]["model_id"] == "best"
    assert config["deployment_config"]["autoscaling_config"] == {"min_replicas": 1, "max_replicas": 3}
    assert config["engine_kwargs"]["max_num_seqs"] == 7
    merged = config["model_loading_config"]["model_source"]
    assert answer("The cat", None, merged, 24, 0.0) == answer("The cat", run, None, 24, 0.0)
    assert llm_config(found, settings) == config
    (base,) = bases([found])
    assert llm_config(base, settings)["model_loading_config"] == {
        "model_id": "base",
        "model_source": str(tiny_model_folder),
    }


def test_it_is_not_deployed_where_it_would_ignore_the_keys(tmp_path, monkeypatch):
    keys = f"keys: [{{name: alice, sha256: '{'0' * 64}'}}]"
    (tmp_path / "keys.yaml").write_text(keys)
    monkeypatch.delenv("IALIGN_API_KEYS", raising=False)
    with pytest.raises(ConfigError, match="vllm does not check them"):
        application(serve_settings(data={"engine": "vllm", "keys": str(tmp_path / "keys.yaml")}), str(tmp_path))
    monkeypatch.setenv("IALIGN_API_KEYS", keys)
    with pytest.raises(ConfigError, match="vllm does not check them"):
        application(serve_settings(data={"engine": "vllm"}), str(tmp_path))
