"""Every script of `jobs/`: arguments, one sentence and code 2, a record of what came of it, and no step done twice."""

import os
import runpy
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from refusals import refused
from rich.console import Console

from ialign_ray.config import build_experiment, override
from ialign_ray.errors import ClusterError, DetachedError, RegistryError, StoppedError
from ialign_ray.jobs.catalog import STEPS, Options
from ialign_ray.jobs.entry import ARGUMENTS, JOBS, forget_script_folder, stoppable, title_of
from ialign_ray.jobs.pipeline import pipeline
from ialign_ray.jobs.record import exit_code_of, finished_before, record_path, recorded
from ialign_ray.storage import read_json

SCRIPTS = Path(__file__).parents[3] / "jobs"
QUIET = Console(quiet=True)


@pytest.fixture
def job(monkeypatch, capsys):
    """Runs a script of `jobs/` in this process: (exit code, stdout, stderr)."""
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)

    def run(name, *arguments):
        path = SCRIPTS / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(path), run_name="__main__")
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return run


def test_there_is_a_short_script_for_every_job():
    scripts = {p.stem for p in SCRIPTS.glob("*.py")} - {"small_base", "miniature_instructions"}
    assert scripts == set(JOBS)
    for name in JOBS:
        text = (SCRIPTS / f"{name}.py").read_text()
        assert len(text.splitlines()) < 80
        assert f"python jobs/{name}.py" in text


@pytest.mark.parametrize("name", JOBS)
def test_each_script_tells_its_arguments_and_refuses_a_missing_file(job, name, tmp_path):
    code, out, _ = job(name, "--help")
    assert code == 0
    assert JOBS[name].about in " ".join(out.split())
    for field in JOBS[name].takes:
        assert f"--{field}" in out
    refused(job(name, tmp_path / "none.yaml"), "none.yaml does not exist")
    assert str(SCRIPTS) not in sys.path  # or `import evaluate` would find a script of ours


def test_a_package_of_a_scripts_name_is_found(monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS / "evaluate.py")])
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), "", "/elsewhere"])
    forget_script_folder()
    assert sys.path == ["", "/elsewhere"]


def test_runs_that_a_job_would_lose_are_refused(job, write_yaml, experiment_data, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    refused(job("align", write_yaml(experiment_data), "--set", "storage.runs=runs"), "storage.runs is 'runs'", "lose")


def test_a_failed_job_leaves_a_record(job, write_yaml, experiment_data):
    code, out, err = job("promote", write_yaml(experiment_data))
    assert code == 2
    assert out.startswith("job promote of tiny: Python 3")
    assert "has no finished model; run `ialign align ... --resume` first" in err
    assert "Traceback" not in err
    found = read_json(record_path(build_experiment(experiment_data, "test"), "promote"))
    assert found["status"] == "failed"
    assert found["exit_code"] == 2
    assert "no finished model" in found["error"]
    assert found["attempt"] == 1
    assert found["arguments"] == {"run": "align", "control": None, "alias": "champion", "force": None}
    job("promote", write_yaml(experiment_data))
    assert read_json(record_path(build_experiment(experiment_data, "test"), "promote"))["attempt"] == 2


def test_a_corpus_is_built_by_its_job(job, write_yaml, experiment_data, monkeypatch):
    monkeypatch.setenv("IALIGN_SUBMISSION", "tiny-build_data-3")
    code, out, err = job("build_data", write_yaml(experiment_data))
    assert code == 0, err
    assert "\r" not in out
    found = read_json(record_path(build_experiment(experiment_data, "test"), "build_data"))
    assert found["status"] == "succeeded"
    assert found["submission"] == "tiny-build_data-3"
    assert (Path(found["result"]["corpus"]) / "README.md").exists()
    assert "job build_data: done in " in out


def test_exit_codes():
    assert exit_code_of(ClusterError("x")) == 2
    assert exit_code_of(StoppedError("x")) == 143
    assert exit_code_of(DetachedError("x")) == 130
    assert exit_code_of(KeyboardInterrupt()) == 130
    assert exit_code_of(ZeroDivisionError()) == 1


def test_sigterm_is_told_in_the_record_and_the_handler_of_before_comes_back(experiment_data):
    experiment = build_experiment(experiment_data, "test")
    before = signal.getsignal(signal.SIGTERM)

    def work():
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("SIGTERM came to nothing")

    with pytest.raises(StoppedError), stoppable():
        recorded(experiment, "align", {}, work)
    assert signal.getsignal(signal.SIGTERM) == before
    found = read_json(record_path(experiment, "align"))
    assert (found["status"], found["exit_code"]) == ("stopped", 143)


def test_a_full_disk_does_not_hide_what_ended_the_job(experiment_data, monkeypatch):
    experiment = build_experiment(experiment_data, "test")

    def work():
        def no_room(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("ialign_ray.jobs.record.write_json", no_room)
        raise ClusterError("the reason")

    with pytest.raises(ClusterError, match="the reason"):
        recorded(experiment, "align", {}, work)


def test_a_finished_step_counts_while_its_settings_and_outputs_are_the_same(experiment_data, tmp_path):
    experiment = build_experiment(experiment_data, "test")
    made = tmp_path / "made"
    made.mkdir()
    result = recorded(experiment, "align", {"run": "a"}, lambda: {"outputs": [str(made)], "n": 1})
    assert finished_before(experiment, "align", {"run": "a"}) == result
    assert finished_before(override(experiment, {"scaling.workers": 2}), "align", {"run": "a"}) == result
    assert finished_before(override(experiment, {"train.steps": 7}), "align", {"run": "a"}) is None
    elsewhere = override(experiment, {"tracking.mlflow_uri": "http://other:5000"})
    assert finished_before(elsewhere, "align", {"run": "a"}) is None  # nothing is registered there yet
    assert finished_before(experiment, "align", {"run": "b"}) is None
    made.rmdir()
    assert finished_before(experiment, "align", {"run": "a"}) is None
    record_path(experiment, "align").write_text("{torn")
    assert finished_before(experiment, "align", {"run": "a"}) is None


def test_titles_of_runs():
    assert title_of("align", Options()) == "align"
    assert title_of("align", Options(run="first")) == "align-first"
    assert title_of("tune", Options(run="first")) == "tune"
    assert title_of("promote", Options(run="/shared/runs/mine/search/trials/t1")) == "promote-t1"


@pytest.fixture
def taken(monkeypatch, tmp_path):
    """Steps of the pipeline that were done, with stand-ins for the work alone: (step, run, replay ratio, control)."""
    done = []

    def step(name, result):
        def work(experiment, options, console):
            done.append((name, options.run, experiment.replay.ratio, options.control))
            if name in failing:
                raise RegistryError(f"{name} failed")
            return {"outputs": [str(tmp_path)], **result(options)}

        return replace(STEPS[name], work=work)

    failing: set[str] = set()
    run = {"run": str(tmp_path / "winner"), "control": str(tmp_path / "control-s0")}
    monkeypatch.setitem(STEPS, "build_data", step("build_data", lambda o: {}))
    monkeypatch.setitem(STEPS, "align", step("align", lambda o: {"run": str(tmp_path / o.run)}))
    monkeypatch.setitem(STEPS, "tune", step("tune", lambda o: run))
    monkeypatch.setitem(STEPS, "evaluate", step("evaluate", lambda o: {}))

    monkeypatch.setitem(STEPS, "promote", step("promote", lambda o: {}))
    return done, failing


def test_the_pipeline_goes_on_with_the_step_that_failed(taken, experiment_data):
    done, failing = taken
    experiment = build_experiment(experiment_data, "test")
    failing.add("evaluate")
    with pytest.raises(RegistryError, match="evaluate failed"):
        pipeline(experiment, Options(), QUIET)
    first = [
        ("build_data", "align", 0.25, None),
        ("align", "control-s0", 1.0, None),
        ("align", "align", 0.25, None),
        ("evaluate", "align", 0.25, "control-s0"),
    ]
    assert done == first
    failing.clear()
    found = pipeline(experiment, Options(), QUIET)
    assert done[4:] == [first[3], ("promote", "align", 0.25, "control-s0")]
    assert list(found["steps"]) == ["build_data", "align-control-s0", "align", "evaluate", "promote"]
    pipeline(experiment, Options(), QUIET)
    assert len(done) == 6  # nothing was done again
    pipeline(experiment, Options(alias="staging"), QUIET)
    assert [name for name, *_ in done[6:]] == ["promote"]


def test_the_pipeline_searches_where_there_is_a_search(taken, experiment_data, tmp_path):
    done, _ = taken
    experiment_data["train"]["validation"] = {"pairs": 24, "instructions": 3}
    experiment_data["search"] = {"space": {"replay.ratio": {"choice": [0, 0.25]}}, "trials": 2, "tolerance": 0.5}
    pipeline(build_experiment(experiment_data, "test"), Options(), QUIET)
    assert [name for name, *_ in done] == ["build_data", "tune", "promote"]
    assert done[2][1::2] == (str(tmp_path / "winner"), str(tmp_path / "control-s0"))


def test_the_pipeline_without_suites_or_replay_only_trains(taken, experiment_data):
    done, _ = taken
    experiment_data["evaluate"]["suites"] = []
    experiment_data["replay"] = {"ratio": 0.0}
    pipeline(build_experiment(experiment_data, "test"), Options(run="first"), QUIET)
    assert [(name, run) for name, run, *_ in done] == [("build_data", "align"), ("align", "first")]


def test_a_named_run_of_the_pipeline_leaves_the_records_of_another_alone(taken, experiment_data):
    done, _ = taken
    experiment = build_experiment(experiment_data, "test")
    for run in ("align", "first"):
        pipeline(experiment, Options(run=run), QUIET)
    kept = {p.stem: read_json(p)["arguments"]["run"] for p in record_path(experiment, "align").parent.iterdir()}
    assert kept == {
        "build_data": "align", "align-control-s0": "control-s0",
        "align": "align", "evaluate": "align", "promote": "align",
        "align-first": "first", "evaluate-first": "first", "promote-first": "first",
    }  # fmt: skip
    assert len(done) == 8  # corpus and control were there
    pipeline(experiment, Options(), QUIET)
    assert len(done) == 8


def test_every_job_names_what_it_takes():
    assert set(ARGUMENTS) == {field for job in JOBS.values() for field in job.takes}
