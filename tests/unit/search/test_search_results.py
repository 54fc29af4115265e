import json
import math
import re
import subprocess
import sys

import pandas as pd
import pytest
from rich.console import Console

from ialign_ray.config import Domain, SearchConfig, build_experiment, override
from ialign_ray.errors import CheckpointError, ConfigError, ModelError
from ialign_ray.search import estimate as plan
from ialign_ray.search.driver import DECIDE, begin, by_stored_rule
from ialign_ray.search.estimate import Speed, estimate, print_estimate, reaching
from ialign_ray.search.page import importances, render_page, write_page
from ialign_ray.search.progress import Progress
from ialign_ray.search.results import is_chosen, trials_table, write_results
from ialign_ray.search.trial_context import (
    confirmations,
    control_folder,
    control_point,
    own_control_folder,
    own_control_point,
    search_folder,
)
from ialign_ray.storage import alone, json_hash, read_json, write_json
from ialign_ray.workflows import tune as workflow
from ialign_ray.workflows.tune import record_test_access, tune

SPACE = {"replay.ratio": Domain(choice=[0, 0.25, 0.5, 0.75]), "tasks.mix": Domain(choice=["pair", {"mt": 1.0}])}
SETTINGS = SearchConfig(space=SPACE, tolerance=0.1)


def outcome(gain, forgetting, budget=9, last=True):
    around = {f"{n}_{side}": v + d for n, v in (("gain", gain), ("forgetting", forgetting))
              for side, d in (("low", -0.05), ("high", 0.05))}  # fmt: skip
    return {
        "budget": budget, "step": budget, "tokens": 100 * budget, "gain": gain, "forgetting": forgetting, **around,
        "gain_n": 20, "forgetting_n": 30, "violation": forgetting + 0.05 - 0.1,
        "feasible": forgetting + 0.05 <= 0.1, "last": last, "score": gain, "failed": "", "units": budget / 3,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    def trial(name, point, outcomes, **files):
        write_json(tmp_path / "trials" / name / "point.json", point)
        if outcomes:
            write_json(tmp_path / "trials" / name / "outcomes.json", outcomes)
        for file, content in files.items():
            write_json(tmp_path / "trials" / name / f"{file}.json", content)

    early = outcome(0.1, 0.2, 3, last=False)
    trial("t0", {"replay.ratio": 0, "tasks.mix": "pair"}, [early, outcome(3.0, 0.9)])
    trial("t1", {"replay.ratio": 0.5, "tasks.mix": "pair"}, [early, outcome(2.0, 0.04)])
    trial("t2", {"replay.ratio": 0.75, "tasks.mix": {"mt": 1.0}}, [early, outcome(1.0, 0.02)])
    trial("t3", {"replay.ratio": 0.25, "tasks.mix": "pair"}, [outcome(9.0, 0.0, 3, last=False)], stopped={"budget": 3})
    trial("t4", {"replay.ratio": 0.25, "tasks.mix": {"mt": 1.0}}, [], failed={"message": "step 0: the loss is <nan>"})
    for k in range(5, 9):
        trial(f"t{k}", {"replay.ratio": 0.5, "tasks.mix": {"mt": 1.0}}, [outcome(1.0 + k / 100, 0.09)])
    return tmp_path


def test_the_winner_is_finished_feasible_and_says_why(folder):
    found = write_results(folder, SETTINGS)
    assert found == read_json(folder / "winner.json")
    assert found["trial"] == "t1"  # t0 gained more and forgot, t3 was stopped early
    assert found["point"] == {"replay.ratio": 0.5, "tasks.mix": "pair"}
    assert found["feasible"]
    assert found["retention_shown"]
    assert found["rule"] == "shown"
    assert "2.000 [1.950, 2.050] nats per token (n=20)" in found["why"]
    assert "among the 2 of 7 finished trials" in found["why"]
    assert [r["point"]["replay.ratio"] for r in read_json(folder / "front.json")] == [0, 0.5, 0.75]
    table = pd.read_parquet(folder / "trials.parquet")
    assert len(table) == 3 * 2 + 1 + 1 + 4
    assert set(table["trial"]) == {f"t{k}" for k in range(9)}
    assert table.loc[table["trial"] == "t3", "stopped"].all()


def test_where_none_is_feasible_the_nearest_is_named_as_such(folder):
    found = write_results(folder, SETTINGS.model_copy(update={"tolerance": 0.0}))
    for path in (folder / "trials").glob("*/outcomes.json"):
        rows = read_json(path)
        write_json(path, [r | {"violation": r["forgetting"], "feasible": False} for r in rows])
    found = write_results(folder, SETTINGS.model_copy(update={"tolerance": 0.0}))
    assert found["trial"] == "t2"
    assert not found["feasible"]
    assert found["why"].startswith("no trial of 7 kept the old instructions")


def test_a_search_without_a_finished_trial_has_no_winner_and_a_page(tmp_path):
    (tmp_path / "trials").mkdir()
    assert write_results(tmp_path, SETTINGS) is None
    page = write_page(tmp_path, SETTINGS, tmp_path / "search.html").read_text()
    assert "there is no winner" in page
    assert not (tmp_path / "winner.json").exists()


def test_the_page_needs_nothing_else_and_escapes_what_it_is_told(folder):
    page = render_page(trials_table(folder), SETTINGS, "a<b")
    assert "a&lt;b: search" in page
    assert page.count('<figure class="chart" data-chart>') == 3
    assert not re.search(r"(src|href)=\"?http", page.partition("<script>")[0])
    assert "the loss is &lt;nan&gt;" in page
    assert ">ratio 0.5, mix pair</td>" in page
    assert "tolerance 0.1" in page


def test_what_matters_is_told_with_enough_trials_alone():
    points = [{"replay.ratio": r, "tasks.mix": m} for r in (0, 0.25, 0.5, 0.75) for m in ("pair", {"mt": 1.0})]
    table = pd.DataFrame(
        [{"trial": str(k), "point": json.dumps(p), **outcome(p["replay.ratio"], 0.0)} for k, p in enumerate(points)]
    )
    found = importances(table, SETTINGS, "gain")
    assert found["replay.ratio"] > 0.9
    assert sum(found.values()) == pytest.approx(1)
    assert importances(table, SETTINGS, "forgetting") == {}  # the same everywhere: nothing to explain
    assert importances(table[:5], SETTINGS, "gain") == {}


def test_a_second_access_to_the_test_rows_is_recorded_and_warned_of(tmp_path):
    console = Console(record=True, width=300, quiet=False, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    record_test_access(tmp_path, {"trial": "t1"}, console)
    record_test_access(tmp_path, {"trial": "t1"}, console)
    assert "warning" not in console.export_text(clear=False)
    record_test_access(tmp_path, {"trial": "t2"}, console)
    assert "used the test rows before, for t1" in console.export_text()
    assert [r["trial"] for r in read_json(tmp_path / "test-looks.json")] == ["t1", "t2"]


def test_two_searches_never_share_a_folder(experiment_data, tmp_path):
    space = {"replay.ratio": {"choice": [0, 0.5]}}
    experiment = build_experiment(experiment_data | {"search": {"space": space}}, "x")
    begin(experiment, tmp_path / "s", False)
    with pytest.raises(ConfigError, match="--resume"):
        begin(experiment, tmp_path / "s", False)
    begin(experiment, tmp_path / "s", True)
    begin(override(experiment, {"search.concurrent": 1, "scaling.cpus_per_worker": 0.25}), tmp_path / "s", True)
    with pytest.raises(CheckpointError, match=r"search\.feasible"):
        begin(override(experiment, {"search.feasible": "estimate"}), tmp_path / "s", True)
    other = build_experiment(experiment_data | {"search": {"space": space, "tolerance": 0.2}}, "x")
    with pytest.raises(CheckpointError, match="other settings"):
        begin(other, tmp_path / "s", True)


def test_a_stored_search_of_before_keeps_the_estimate(experiment_data, tmp_path):
    space = {"replay.ratio": {"choice": [0, 0.5]}}
    experiment = build_experiment(experiment_data | {"search": {"space": space}}, "x")
    assert by_stored_rule(experiment, tmp_path) == experiment
    begin(experiment, tmp_path, False)
    assert by_stored_rule(experiment, tmp_path) == experiment
    known = read_json(tmp_path / "search.json")
    # what was written before the rule had a name: its hash has no `feasible` either
    decides = experiment.model_dump(mode="json", include=set(DECIDE))
    for name in ("concurrent", "cpus_per_trial", "gpus_per_trial", "feasible", "confirm_seeds"):
        decides["search"].pop(name)
    assert known["settings"] == json_hash(decides)
    write_json(tmp_path / "search.json", {"settings": known["settings"], "finished": True})
    write_json(tmp_path / "winner.json", {"trial": "t1", "feasible": True})
    old = by_stored_rule(experiment, tmp_path)
    assert old.search.feasible == "estimate"
    assert begin(old, tmp_path, True)
    assert read_json(tmp_path / "winner.json")["rule"] == "estimate"


def test_the_control_of_a_winner_has_its_settings_but_for_the_pairs(experiment_data):
    experiment = build_experiment(experiment_data | {"search": {"space": {"replay.ratio": {"choice": [0]}}}}, "x")
    same = {"replay.ratio": 0.5, "model.lora.rank": 4, "tasks.mix": "mt", "replay.pool_size": 9}
    assert own_control_point(experiment, same) is None  # the default control has all of it
    assert own_control_folder(experiment, same) == control_folder(experiment, 0)
    other = same | {"train.learning_rate": 0.5, "train.steps": 3, "train.seed": 7}
    own = own_control_point(experiment, other)
    assert own == {"replay.ratio": 1.0, "model.lora.rank": 4, "train.learning_rate": 0.5, "train.steps": 3,
                   "train.seed": 7}  # fmt: skip
    assert own_control_folder(experiment, other).parent == search_folder(experiment)
    assert own_control_folder(experiment, other) != control_folder(experiment, 7)


@pytest.mark.parametrize(("rule", "judged"), [("shown", False), ("estimate", True)])
def test_a_nearest_trial_is_judged_by_the_estimate_alone(folder, rule, judged):
    for path in (folder / "trials").glob("*/outcomes.json"):
        write_json(path, [r | {"violation": r["forgetting"], "feasible": False} for r in read_json(path)])
    found = write_results(folder, SETTINGS.model_copy(update={"feasible": rule}))
    assert found["feasible"] is False
    assert is_chosen(found) is judged


def test_winner_and_control_are_confirmed_with_other_seeds(experiment_data):
    search = {"space": {"replay.ratio": {"choice": [0]}}, "confirm_seeds": [0, 1, 2, 1]}  # 0 is the trial's own
    experiment = build_experiment(experiment_data | {"search": search}, "x")
    point = {"replay.ratio": 0.25, "train.learning_rate": 0.5}
    every = confirmations(experiment, point)
    assert [(p["train.seed"], p["replay.ratio"], p["train.learning_rate"]) for p in every.values()] == [
        (1, 1.0, 0.5), (1, 0.25, 0.5), (2, 1.0, 0.5), (2, 0.25, 0.5),
    ]  # fmt: skip
    assert len({folder.name for folder in every}) == 4
    assert confirmations(experiment, {"replay.ratio": 0.25})[control_folder(experiment, 2)] == control_point(2)
    assert (
        confirmations(build_experiment(experiment_data | {"search": search | {"confirm_seeds": []}}, "x"), point) == {}
    )


def test_where_none_is_shown_feasible_the_table_is_printed_and_nothing_is_judged(folder, experiment_data, monkeypatch):
    for path in (folder / "trials").glob("*/outcomes.json"):
        write_json(path, [r | {"violation": r["forgetting"], "feasible": False} for r in read_json(path)])
    experiment = build_experiment(experiment_data | {"search": {"space": {"replay.ratio": {"choice": [0]}}}}, "x")
    begin(experiment, folder, False)
    write_results(folder, experiment.search)
    judged = []
    monkeypatch.setattr(workflow, "search", lambda *_, **__: folder)
    monkeypatch.setattr(workflow, "ensure_model", lambda *_: None)
    monkeypatch.setattr(workflow, "judge_winner", lambda *a: judged.append(a))
    console = Console(record=True, width=300, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    with pytest.raises(ModelError, match=r"nearest t2.*search\.tolerance 0\.1"):
        tune(experiment, console=console)
    assert "Pareto front" in console.export_text()
    assert not judged
    assert not (folder / "test-looks.json").exists()
    assert read_json(folder / "winner.json")["feasible"] is False
    assert (folder / "search.html").exists()


def test_a_dry_run_counts_the_winners_own_control(experiment_data, monkeypatch):
    experiment_data["train"] |= {"steps": 9, "validation": {"pairs": 24, "instructions": 3}}
    monkeypatch.setattr(plan, "measure", lambda shared: Speed(1.0, 0.0, 0.0))
    tokens = {}
    for rank in (4, 8):  # 4 is the experiment's own
        space = {"model.lora.rank": {"choice": [rank]}}
        search = {"space": space, "searcher": "grid", "scheduler": "none"}
        found = print_estimate(build_experiment(experiment_data | {"search": search}, "x"), Console(quiet=True))
        tokens[rank] = found.tokens
    assert tokens[8] == pytest.approx(tokens[4] * 3 / 2)  # trial and two controls, against trial and one
    again = build_experiment(experiment_data | {"search": search | {"confirm_seeds": [1, 2]}}, "x")
    assert print_estimate(again, Console(quiet=True)).tokens == pytest.approx(tokens[8] * 7 / 3)


def test_the_estimate_counts_stopped_trials_as_shorter():
    search = SETTINGS.model_copy(update={"trials": 8, "scheduler": "asha", "reduction": 3})
    assert reaching(search, [6, 18, 54]) == [8, 3, 1]
    found = estimate(search, [6, 18, 54], 10, 1, Speed(0.01, 2.0, 1.0), 2)
    steps = 8 * 6 + 3 * 12 + 1 * 36 + 54
    assert found.tokens == steps * 10
    assert found.most_tokens == 9 * 54 * 10
    assert found.seconds == pytest.approx((steps * 10 * 0.01 + (12 + 4) * 2 + 9) / 2)
    none = estimate(search.model_copy(update={"scheduler": "none"}), [54], 10, 1, None, 2)
    assert none.tokens == none.most_tokens
    assert math.isnan(none.seconds)


def test_a_dry_run_tells_trials_tokens_and_time_and_leaves_nothing(experiment_data, tmp_path):
    experiment_data["train"] |= {"steps": 9, "validation": {"pairs": 24, "instructions": 3}}
    experiment = build_experiment(
        experiment_data | {"search": {"space": {"replay.ratio": {"choice": [0, 0.5]}}, "cpus_per_trial": 0.5}}, "x"
    )
    console = Console(record=True, width=120, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    found = print_estimate(experiment, console)
    text = console.export_text()
    assert "2 trials (tpe, asha) of 2 settings" in text
    assert re.search(r"Tokens: about [\d,]+ expected, [\d,]+ if no trial were stopped", text)
    assert re.search(r"Time:   about \d+ seconds", text)
    assert found.tokens < found.most_tokens
    assert not (tmp_path / "runs" / "tiny").exists()


def test_progress_shows_the_front_and_what_is_left():
    progress = Progress(4, 9, Console(width=200))
    progress.result("t1", {"replay.ratio": 0.5}, outcome(2.0, 0.04))
    progress.result("t2", {"replay.ratio": 0.0}, outcome(3.0, 0.9, 3, last=False))
    progress.result("t3", {"replay.ratio": 0.1}, {"failed": "no", "budget": 3, "feasible": False})
    progress.end("t1")
    assert [r["gain"] for r in progress.rows()] == [3.0, 2.0]
    assert progress.eta() >= 0
    assert "1 of 4 trials ended" in progress.line()
    assert "best ratio 0.5: gain 2.000" in progress.line()
    assert len(progress.table().rows) == 2


def test_points_are_told_in_json(folder):
    table = trials_table(folder)
    row = table[table["trial"] == "t2"].iloc[0]
    assert json.loads(row["point"]) == {"replay.ratio": 0.75, "tasks.mix": {"mt": 1.0}}
    assert row["tasks.mix"] == '{"mt": 1.0}'


HOLD = """
import sys, pathlib, ialign_ray.storage
with ialign_ray.storage.alone(pathlib.Path(sys.argv[1]), "search"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_searches_in_one_folder_are_refused_until_the_first_is_gone(experiment_data):
    experiment = build_experiment(experiment_data | {"search": {"space": {"train.seed": {"choice": [1, 2]}}}}, "test")
    folder = search_folder(experiment)
    first = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="/search is in use by another `ialign tune`; wait for it or stop it"):
            tune(experiment, resume=True, console=Console(quiet=True))
        assert not folder.exists()
    finally:
        first.kill()
        first.communicate()
    with alone(folder, "search"):
        pass
