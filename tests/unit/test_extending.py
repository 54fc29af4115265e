"""`docs/extending.md` is `tests/plugin`, and that package, installed, adds one of each."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_corpus import sentences

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "tests" / "plugin"
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")

USE = """
import json, sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ialign_ray.config import load_experiment
from ialign_ray.evaluation.metrics.registry import METRICS
from ialign_ray.evaluation.scoring.suite_kinds import SUITES, suite_units
from ialign_ray.evaluation.subjects import open_scorer
from ialign_ray.modeling.load import add_adapter, load_base
from ialign_ray.streaming.examples import ExampleSource, local_stream
from ialign_ray.training.checkpoint import Checkpoints
from ialign_ray.training.loop import Loop, run_loop
from ialign_ray.training.objective import OBJECTIVES
from ialign_ray.training.prepare import prepare, save_data
from ialign_ray.training.run_log import RunLog, records

experiment = load_experiment(sys.argv[1])
run = Path(experiment.storage.runs) / "run"
prepared = prepare(experiment)
save_data(run / "data", prepared.plan, prepared.encoder)
model = add_adapter(load_base(experiment.model), experiment.model.lora, 0)
source = ExampleSource(str(run / "data"), experiment.train.batch_size, experiment.train.steps)
run_loop(model, Loop(
    settings=experiment.train, stream=lambda start: local_stream(source, start),
    checkpoints=Checkpoints(run / "checkpoints", "f"), run_log=RunLog(run), pad=1, device=torch.device("cpu"),
    objective=OBJECTIVES.find(experiment.train.objective, "train.objective"),
))
mood, endings = suite_units(experiment)
scorer = open_scorer(experiment, None)
found = {}
for kind, unit in (("classification", mood), ("completion", endings)):
    frame = unit.finish(unit.predict(scorer, unit.rows))
    one = frame[frame["language"] == frame["language"].iloc[0]].reset_index(drop=True)
    ids = np.arange(len(one))
    drawn = SUITES[kind].draw(one, ids, np.ones((len(one), 1)), ["error_rate"] if kind == "classification" else [])
    found[kind] = {metric: float(draws[0]) for (scorer_name, metric), draws in drawn.items()}
tasks = {prepared.plan.draw(i).example.task for i in range(200)}
prompts = [prepared.plan.draw(i).example.prompt for i in range(200)]
print(json.dumps({
    "pairs": prepared.plan.pairs.num_rows, "tasks": sorted(tasks), "found": found,
    "worded": sum("With which word" in p or "Dengan kata apa" in p for p in prompts),
    "counted": ["short_targets" in r for r in records(run)],
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package, installed by pip into a folder of its own, without network."""
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "plugin"
    subprocess.run(["cp", "-r", PLUGIN, source], check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run([*pip, "--target", folder, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def experiment(experiment_data, write_yaml, tmp_path):
    lines = [f"{row['eng']} = {row['jav']}" for row in sentences(40, first=100)]
    (tmp_path / "words.lexicon").write_text("\n".join(lines), encoding="utf-8")
    experiment_data["corpora"] = [
        {"name": "words", "path": "words.lexicon", "columns": {"eng": "word", "jav": "translation"}}
    ]
    experiment_data["tasks"]["mix"] = {"mt": 0.5, "first-word": 0.5}
    experiment_data["train"]["objective"] = "per_example"
    columns = {"eng": "eng", "jav": "jav"}
    suite = {"kind": "completion", "name": "endings", "path": "suite.parquet", "columns": columns, "shown": 0.3}
    experiment_data["evaluate"]["suites"].append(suite)
    return write_yaml(experiment_data)


def python(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_the_package_adds_one_of_each(installed, experiment):
    done = python(installed, "-c", USE, experiment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["pairs"] == 80
    assert found["tasks"] == ["first-word", "mt", "replay"]
    assert found["worded"] > 30
    assert all(found["counted"])
    assert len(found["counted"]) == 6
    scores = found["found"]
    assert scores["classification"]["error_rate"] == pytest.approx(1 - scores["classification"]["accuracy"])
    assert scores["completion"]["bits_per_byte"] > 0


@pytest.mark.slow
def test_without_the_package_each_name_is_refused_in_one_sentence(experiment, tmp_path):
    code = "from ialign_ray.cli.main import main; main()"
    done = python(tmp_path, "-c", code, "validate", experiment)
    assert done.returncode == 2
    assert "completion" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("module", ["formats", "tasks", "metrics", "suites", "objectives"])
def test_the_page_is_the_package(module):
    code = (PLUGIN / "ialign_lexicon" / f"{module}.py").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if block.strip() in code]
    assert blocks, f"docs/extending.md shows nothing of {module}.py as it is"


def test_every_block_of_the_page_is_in_the_package():
    code = "".join(path.read_text(encoding="utf-8") for path in (PLUGIN / "ialign_lexicon").glob("*.py"))
    project = (PLUGIN / "pyproject.toml").read_text(encoding="utf-8")
    assert [b for b in re.findall(r"```python\n(.*?)```", PAGE, re.S) if b.strip() not in code] == []
    assert [b for b in re.findall(r"```toml\n(.*?)```", PAGE, re.S) if b.strip() not in project] == []
