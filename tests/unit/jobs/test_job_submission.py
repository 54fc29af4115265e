"""A submission is checked here, before anything is sent: what it reads and writes, its name, its environment."""

import shlex
from pathlib import Path

import pytest
import yaml

from ialign_ray.errors import ConfigError
from ialign_ray.jobs.environment import OWN, SUBMITTED_WITH, differing, job_environment
from ialign_ray.jobs.submission import Attempt, next_attempt, prepare

SECRETS = {"AWS_ACCESS_KEY_ID": "AKIA1", "AWS_SECRET_ACCESS_KEY": "hidden-1", "HF_TOKEN": "hidden-2"}


@pytest.fixture
def file(tmp_path, write_yaml, experiment_data, monkeypatch):
    """A working directory with an experiment and its data, runs elsewhere."""
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    experiment_data["storage"] = {"data": ".", "runs": "/shared/runs"}
    monkeypatch.chdir(tmp_path)
    return write_yaml(experiment_data)


def test_the_command_is_the_experiments_with_its_overrides(file, tmp_path):
    made = prepare(file, "align", overrides=["train.steps=5"], arguments=["--run", "first"])
    assert shlex.split(made.entrypoint) == [
        *("python", "-m", "ialign_ray.jobs", "align", "experiment.yaml"),
        *("--set", "train.steps=5", "--run", "first"),
    ]
    assert made.name == "tiny-align-first"
    assert made.metadata == {"ialign_job": "align", "experiment": "tiny", "ialign_name": "tiny-align-first"}
    assert "first.csv" in made.package.files
    trial = prepare(file, "evaluate", arguments=["--run", "/shared/runs/tiny/search/trials/t1"])
    assert trial.name == "tiny-evaluate-t1"


def test_a_value_with_spaces_reaches_the_job_as_it_is(file):
    made = prepare(file, "align", overrides=["evaluate.suites.mood.labels.bad={eng: so so; 'bad'}"])
    assert shlex.split(made.entrypoint)[6] == "evaluate.suites.mood.labels.bad={eng: so so; 'bad'}"


def test_credentials_go_by_name_into_the_environment_alone(file, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UNRELATED", "stays")
    made = prepare(file, "align")
    assert {k: made.environment[k] for k in SECRETS} == SECRETS
    assert "UNRELATED" not in made.environment
    told = made.entrypoint + str(made.metadata) + str(made.package.files)
    assert "hidden" not in told


def test_settings_of_ray_and_time_to_stop():
    made = job_environment({"MINE": "1"}, ["MINE"])
    assert made.items() >= {**OWN, "MINE": "1"}.items()
    assert int(made["RAY_JOB_STOP_WAIT_TIME_S"]) > 60
    assert yaml.safe_load((Path(__file__).parents[3] / "jobs" / "runtime-env.yaml").read_text()) == {"env_vars": OWN}


def test_variables_that_are_not_there_or_that_ray_would_change():
    with pytest.raises(ConfigError, match="--env MINE is not set here"):
        job_environment({}, ["MINE"])
    with pytest.raises(ConfigError, match="HF_TOKEN holds a \\$") as caught:
        job_environment({"HF_TOKEN": "a${b}c"})
    assert "${b}" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "goes"),
    [
        ("https://mlflow.example.org", True),
        ("http://head:5000", True),
        ("sqlite:///runs/mlflow.db", False),
        ("", False),
    ],
)
def test_the_tracking_server_goes_along_and_a_file_of_the_sender_does_not(uri, goes):
    made = job_environment({"MLFLOW_TRACKING_URI": uri})
    assert made.get("MLFLOW_TRACKING_URI") == (uri if goes else None)


def test_another_python_or_ray_is_told():
    here = job_environment({})[SUBMITTED_WITH]
    python, ray = here.split()
    assert differing(here, python, ray) is None
    assert differing(None, python, ray) is None
    assert differing(here, "3.12.1", ray).startswith(
        f"submitted from Python {python} with Ray {ray}, run by Python 3.12.1"
    )
    assert differing(here, python, "2.99.0")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"runs": "runs"}, ("storage.runs is 'runs'", "storage.runs=/shared/runs")),
        ({"data": ".."}, ("first.csv (in storage.data '..')", "s3://")),
    ],
)
def test_what_the_job_would_not_find_or_would_lose(file, tmp_path, change, parts):
    if "data" in change:
        (tmp_path / "first.csv").unlink()  # next to the experiment it would be found, and sent
    overrides = [f"storage.{k}={v}" for k, v in change.items()]
    with pytest.raises(ConfigError) as caught:
        prepare(file, "align", overrides=overrides)
    for part in parts:
        assert part in str(caught.value)


def test_data_that_is_not_here_is_refused_by_name(file, tmp_path):
    (tmp_path / "old.jsonl").rename(tmp_path / "older.jsonl")
    with pytest.raises(ConfigError, match="^old.jsonl .* is not uploaded with the job"):
        prepare(file, "align")
    prepare(file, "align", overrides=["replay.sources.0.path=/shared/old.jsonl"])
    prepare(file, "align", overrides=["storage.data=s3://bucket/data"])


def test_patterns_and_folders_of_data(file, tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "eng.dev").write_text("x\n")
    made = prepare(file, "align", overrides=["corpora.0.path=dev/{language}.dev", "corpora.1.path=sec*.jsonl"])
    assert {"dev/eng.dev", "second.jsonl"} <= set(made.package.files)
    (tmp_path / "dev").rename(tmp_path / "other")
    with pytest.raises(ConfigError, match="dev.* is not uploaded with the job"):
        prepare(file, "align", overrides=["corpora.0.path=dev/{language}.dev"])


def test_only_what_the_experiment_names_is_sent(file, tmp_path, experiment_data, write_yaml):
    for name in (".git-credentials", "notes.md", "out/tiny/metrics.jsonl", "words/own.yaml", "suites/mine.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    made = prepare(file, "align", overrides=[f"storage.runs={tmp_path}/out"])
    named = {"experiment.yaml", "first.csv", "second.jsonl", "third.parquet", "old.jsonl"}
    assert named <= set(made.package.files)
    assert all((tmp_path / name).suffix in {".yaml", ".csv", ".jsonl", ".parquet"} for name in made.package.files)
    assert not {"notes.md", ".git-credentials", "suites/mine.yaml"} & set(made.package.files)
    suite = experiment_data["evaluate"]["suites"][0]
    (tmp_path / "suites" / "mine.yaml").write_text(yaml.safe_dump(suite))
    experiment_data["evaluate"]["suites"][0] = "suites/mine.yaml"
    used = prepare(write_yaml(experiment_data), "align", include=["notes.md", "out"])
    assert {"suites/mine.yaml", "notes.md", "out/tiny/metrics.jsonl"} <= set(used.package.files)
    (tmp_path / "suites" / "other.yaml").write_text(yaml.safe_dump(suite))
    overridden = prepare(tmp_path / "experiment.yaml", "align", overrides=["evaluate.suites=[suites/other.yaml]"])
    assert "suites/other.yaml" in overridden.package.files
    assert "suites/mine.yaml" not in overridden.package.files


def test_an_experiment_elsewhere(file, tmp_path):
    (tmp_path / "sub").mkdir()
    with pytest.raises(ConfigError, match="outside the working directory .*sub.*--working-dir"):
        prepare(file, "align", working_dir=tmp_path / "sub")


def test_a_secret_in_the_experiment_or_its_data_stops_the_submission(file, tmp_path):
    text = file.read_text()
    file.write_text(f"{text}# https://me:hunter2hunter2@host/repo\n")
    with pytest.raises(ConfigError, match=r"experiment.yaml \(Basic Auth Credentials, line \d+\)"):
        prepare(file, "align")
    prepare(file, "align", include=["experiment.yaml"])


def test_a_job_or_name_that_is_none(file):
    with pytest.raises(ConfigError, match="--job 'train' .*use one of build_data, align"):
        prepare(file, "train")
    with pytest.raises(ConfigError, match="--name 'a/b' .*use letters"):
        prepare(file, "align", name="a/b")


def attempts(**names):
    """Known ids (with _ for -) by the name of their job; all have ended."""
    return {i.replace("_", "-"): Attempt(name, True) for i, name in names.items()}


def test_attempts_are_numbered_and_one_at_a_time():
    assert next_attempt("tiny-align", {}) == "tiny-align"
    known = attempts(tiny_align="tiny-align", tiny="tiny") | {"tiny-align-first": Attempt("tiny-align-first", False)}
    assert next_attempt("tiny-align", known) == "tiny-align-2"
    known |= attempts(tiny_align_2="tiny-align", tiny_align_10="tiny-align")
    assert next_attempt("tiny-align", known) == "tiny-align-11"
    with pytest.raises(ConfigError, match="tiny-align-11 is still running; follow it with `ialign jobs --follow"):
        next_attempt("tiny-align", known | {"tiny-align-11": Attempt("tiny-align", False)})


def test_a_job_that_is_called_like_an_attempt_of_another_is_another():
    going = {"x-2": Attempt("x-2", False)}
    assert next_attempt("x", going) == "x"
    assert next_attempt("x", going | attempts(x="x")) == "x-3"
    assert next_attempt("x-2", attempts(x="x", x_2="x", x_3="x")) == "x-2-2"  # the id is taken, the name is not
    assert next_attempt("x-2", {"x": Attempt("x", True), "x-2": Attempt("x", False)}) == "x-2-2"
