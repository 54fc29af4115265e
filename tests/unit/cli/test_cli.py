import json
import re
import subprocess
import sys

import pytest
from refusals import refused

import ialign_ray
from ialign_ray.cli.main import app, main
from ialign_ray.cluster.resources import check_resources
from ialign_ray.config import ScalingConfig
from ialign_ray.errors import ClusterError

COMMANDS = ["validate", "align", "evaluate", "compare", "ablate", "tune", "predict", "report", "export", "schema"]
COMMANDS += ["suites", "register", "promote", "rollback", "models", "submit", "jobs", "stop", "doctor", "survey", "icl"]


def test_a_missing_file(ialign, tmp_path):
    for command in ("validate", "align", "compare"):
        refused(ialign(command, tmp_path / "none.yaml"), "none.yaml does not exist")


def test_a_missing_corpus(ialign, write_yaml, experiment_data, tmp_path):
    (tmp_path / "second.jsonl").unlink()
    refused(ialign("validate", write_yaml(experiment_data)), str(tmp_path / "second.jsonl"), "does not exist")


def test_a_wrong_column(ialign, write_yaml, experiment_data):
    experiment_data["corpora"][0]["columns"]["jav"] = "javanese"
    refused(ialign("validate", write_yaml(experiment_data)), "first.csv", "'javanese'", "sid, eng, ind, jav")


def test_a_wrong_column_of_a_suite(ialign, write_yaml, experiment_data):
    experiment_data["evaluate"]["suites"][0]["label"] = "mood"
    refused(ialign("validate", write_yaml(experiment_data)), "suite.parquet", "no column 'mood'", "label, split")


def test_an_unknown_language(ialign, write_yaml, experiment_data):
    experiment_data["corpora"][0]["columns"]["xyz"] = "jav"
    refused(ialign("validate", write_yaml(experiment_data)), "corpora.first", "'xyz'", "languages.l1")
    experiment_data["languages"]["l2"].append("qqq")
    experiment_data["corpora"][0]["columns"] = {"eng": "eng", "qqq": "jav"}
    refused(ialign("validate", write_yaml(experiment_data)), "'qqq'", "languages.names.qqq")


@pytest.mark.parametrize("command", ["validate", "align"])
@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("replay.ratio=2", "replay.ratio is 2"),
        ("model.lora.rank=0", "model.lora.rank is 0"),
        ("train.stepz=2", "did you mean 'steps'?"),
    ],
)
def test_wrong_values(ialign, write_yaml, experiment_data, command, change, part):
    refused(ialign(command, write_yaml(experiment_data), "--set", change), part)


def test_a_rank_too_large(ialign, write_yaml, experiment_data):
    result = ialign("validate", write_yaml(experiment_data), "-s", "model.lora.rank=33")
    refused(result, "model.lora.rank is 33", "q_proj", "at most 32")


def test_a_model_that_cannot_be_loaded(ialign, write_yaml, experiment_data, tmp_path):
    experiment_data["model"]["id"] = str(tmp_path / "no-model")
    refused(ialign("validate", write_yaml(experiment_data)), "no-model", "cannot be loaded")


def test_an_unfinished_run(ialign, write_yaml, experiment_data, tmp_path):
    (tmp_path / "run").mkdir()
    result = ialign("evaluate", write_yaml(experiment_data), "--adapter", tmp_path / "run")
    refused(result, str(tmp_path / "run"), "no finished model")


def test_an_interruption_is_told_in_one_line(ialign, write_yaml, experiment_data, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ialign_ray.workflows.validate.validate", interrupted)
    refused(ialign("validate", write_yaml(experiment_data)), "interrupted", "--resume")


def test_a_bug_keeps_its_traceback(write_yaml, experiment_data, monkeypatch):
    def buggy(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("ialign_ray.workflows.validate.validate", buggy)
    monkeypatch.setattr(sys, "argv", ["ialign", "validate", str(write_yaml(experiment_data))])
    with pytest.raises(ZeroDivisionError):
        main()


def test_wrong_usage_exits_with_2(ialign):
    code, _, err = ialign("validate", "x.yaml", "--nonsense")
    assert code == 2
    assert "--nonsense" in err
    assert "Traceback" not in err
    assert ialign("nonsense")[0] == 2


def test_validate_prints_counts_and_one_example_per_task(ialign, write_yaml, experiment_data, tmp_path):
    rows = (tmp_path / "second.jsonl").read_text(encoding="utf-8").replace("ing omah 16.", "[/bold] [0] omah 16.")
    (tmp_path / "second.jsonl").write_text(rows, encoding="utf-8")
    experiment_data["corpora"] = [experiment_data["corpora"][1]]
    code, out, err = ialign("validate", write_yaml(experiment_data), "--set", "train.steps=50")
    assert (code, err) == (0, "")
    assert re.search(r"second +12 +0 +0 +0 +0 +12 +48 +0", out)
    assert "30 of 30" in out
    assert re.search(r"replay +50 +25\.0%", out)
    for task in ("mlm", "tlm", "mt", "xss"):
        assert len(re.findall(rf"─ {task} \((?:eng|ind)/{task}-\d+\) ─", out)) == 1
    assert len(re.findall("─ replay ", out)) == 1
    assert "[/bold] [0] omah 16." in out
    assert out.strip().endswith("tiny: valid")
    # the corpus is built, for `align` to find; no run is begun
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"corpora"}


def test_schema_is_json(ialign):
    code, out, _ = ialign("schema")
    schema = json.loads(out)
    assert code == 0
    assert {"name", "model", "corpora"} <= set(schema["required"])
    assert "train" in schema["properties"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(ialign, command):
    code, out, _ = ialign(command, "--help")
    assert code == 0
    assert re.search(rf"Example: +ialign {command}", out)


def test_help_lists_every_command(ialign):
    code, out, _ = ialign("--help")
    assert code == 0
    assert [c for c in COMMANDS if not re.search(rf"│ {c} ", out)] == []
    assert {c.callback.__name__ for c in app.registered_commands} == set(COMMANDS)


@pytest.mark.parametrize(
    ("scaling", "resources", "part"),
    [
        ({"workers": 3}, {"CPU": 2.0}, "scaling.workers is 3, but the cluster has 2 CPUs"),
        ({"workers": 2, "cpus_per_worker": 1}, {"CPU": 2.0}, "leave no CPU of 2"),
        ({"workers": 2, "gpu": True}, {"CPU": 8.0, "GPU": 1.0}, "cluster has 1 GPUs"),
        ({"gpu": True}, {"CPU": 8.0}, "cluster has 0 GPUs"),
    ],
)
def test_a_cluster_that_is_too_small(scaling, resources, part):
    with pytest.raises(ClusterError, match=part):
        check_resources(ScalingConfig(**scaling), resources, [(1, resources)])


@pytest.mark.parametrize(
    ("scaling", "resources", "gpu"),
    [
        ({"workers": 2}, {"CPU": 2.0}, False),
        ({"workers": 2}, {"CPU": 8.0, "GPU": 2.0}, True),
        ({"workers": 2}, {"CPU": 8.0, "GPU": 1.0}, False),
        ({"workers": 2, "gpu": False}, {"CPU": 8.0, "GPU": 2.0}, False),
    ],
)
def test_gpus_are_used_where_there_are_enough(scaling, resources, gpu):
    assert check_resources(ScalingConfig(**scaling), resources, [(1, resources)]) is gpu


def test_the_public_surface():
    assert set(ialign_ray.__all__) == {
        "CheckpointError",
        "ClusterError",
        "ConfigError",
        "DataError",
        "Experiment",
        "IalignError",
        "ModelError",
        "RegistryError",
        "StoppedError",
        "__version__",
        "align",
        "compare",
        "evaluate",
        "load_experiment",
        "promote",
        "register",
        "tune",
    }
    for name in ialign_ray.__all__:
        assert getattr(ialign_ray, name) is not None
    with pytest.raises(AttributeError, match="aline"):
        _ = ialign_ray.aline


def test_importing_the_package_loads_neither_torch_nor_ray():
    code = "import sys, ialign_ray; sys.exit(any(name in sys.modules for name in ('torch', 'ray', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_validate_warns_of_a_language_that_the_tokenizer_covers_badly(ialign, write_yaml, experiment_data, tmp_path):
    rows = [json.loads(line) for line in (tmp_path / "second.jsonl").read_text(encoding="utf-8").splitlines()]
    experiment_data["corpora"] = [experiment_data["corpora"][1]]
    assert "warning" not in ialign("validate", write_yaml(experiment_data))[1]
    for k, row in enumerate(rows):
        row["jav"] = f"Qzxvwqj xkcdfvz {k} wvvzqpx bzzxqw."
    (tmp_path / "second.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    out = ialign("validate", write_yaml(experiment_data))[1]
    assert re.search(r"warning: jav: \d\.\d tokens per word against \d\.\d for eng", out)


def test_bundled_suites_are_listed_with_kind_languages_and_licence(ialign):
    code, out, _ = ialign("suites")
    assert code == 0
    (line,) = (line.split() for line in out.splitlines() if line.startswith("belebele"))
    assert line[1:3] == ["choice", "122"]
    assert {"BY-SA", "translated"} <= set(line)
