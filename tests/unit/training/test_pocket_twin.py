"""What the pocket's champion shows is planted in its data: a twin with shuffled translations shows none of it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from ialign_ray.config import Experiment, load_experiment
from ialign_ray.evaluation.results.summary import summarise
from ialign_ray.evaluation.scoring.scorer import Scorer
from ialign_ray.evaluation.scoring.suite_kinds import suite_units
from ialign_ray.modeling.load import load_base
from ialign_ray.pocket import pocket_file
from ialign_ray.training.pocket import ensure_base, train_here
from ialign_ray.training.prepare import prepare

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
POCKET = Path(__file__).parents[3] / "jobs" / "experiments" / "pocket.yaml"


def aligned(folder: Path, pairs: pd.DataFrame) -> tuple[Experiment, dict[str, pd.DataFrame]]:
    """The pocket experiment's predictions after 300 steps on these pairs, in this process."""
    folder.mkdir()
    pairs.to_parquet(folder / "pairs.parquet", index=False)
    overrides = [f"corpora.0.path={folder / 'pairs.parquet'}", "train.validation=null", "train.steps=300"]
    experiment = load_experiment(POCKET, [*overrides, f"storage.runs={folder}", "train.checkpoint_every=300"])
    prepared = prepare(experiment)
    model = load_base(experiment.model)
    train_here(model, prepared.plan, prepared.encoder, experiment.train, folder / "scratch", lambda step: None)
    scorer = Scorer(model.eval(), prepared.encoder, experiment.evaluate.batch_tokens)
    frames = {unit.suite: unit.predict(scorer, unit.rows) for unit in suite_units(experiment)}
    return experiment, frames


def test_shuffled_targets_and_permuted_labels_show_nothing(tmp_path):
    ensure_base("pocket:base", Console(quiet=True))
    true = pd.read_parquet(pocket_file("pocket:parallel"))
    train, random = true["split"] == "train", np.random.default_rng(0)
    shuffled = true.copy()
    for code in ("jav", "qci"):
        shuffled.loc[train, code] = random.permutation(true.loc[train, code].to_numpy())

    experiment, frames = aligned(tmp_path / "true", true)
    _, twin = aligned(tmp_path / "twin", shuffled)
    permuted = frames["sentiment"].copy()
    for code in ("jav", "qci"):
        rows = permuted["language"] == code
        permuted.loc[rows, "label"] = random.permutation(permuted.loc[rows, "label"].to_numpy())
    runs = {"true": frames["translation"], "twin": twin["translation"]}
    runs |= {"labels": frames["sentiment"], "permuted": permuted}
    found = summarise(runs, experiment.languages.groups()).query("scope == 'group:L2' and prompt == 'all'")
    score = found.drop_duplicates(["run", "metric"]).set_index(["run", "metric"])

    assert score.loc[("true", "source_use"), "low"] > 0.3
    assert score.loc[("twin", "source_use"), "low"] < 0.05
    assert score.loc[("true", "chrf_over_copy"), "low"] > 15
    # any text of the language shares more n-grams with the reference than the source does
    assert score.loc[("twin", "chrf_over_copy"), "high"] < 0.5 * score.loc[("true", "chrf_over_copy"), "low"]
    assert score.loc[("labels", "auc"), "low"] > 0.55
    assert score.loc[("permuted", "auc"), "low"] < 0.5 < score.loc[("permuted", "auc"), "high"]
