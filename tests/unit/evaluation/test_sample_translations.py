"""Translations side by side: the new languages take turns, and only suites that generate are shown."""

import pandas as pd

from ialign_ray.config import build_experiment
from ialign_ray.config.suites import TranslationSuite
from ialign_ray.evaluation.report.translations import SENTENCES, sample_translations

SUITE = {
    "kind": "translation",
    "name": "t",
    "path": "t.parquet",
    "id": "id",
    "columns": {"eng": "e", "jav": "j", "zsm": "z"},
    "directions": [["eng", "jav"], ["jav", "eng"], ["eng", "zsm"]],
    "generate": True,
}


def frame(answer: str, directions: list[str]) -> dict[str, pd.DataFrame]:
    rows = [(d, str(k), f"s{k}", f"r{k}", f"{answer}{d}{k}") for d in directions for k in range(9)]
    return {"t": pd.DataFrame(rows, columns=["language", "id", "source", "reference", "hypothesis"])}


def shown(experiment, runs, **fields):
    evaluate = experiment.evaluate.model_copy(update={"suites": [TranslationSuite.model_validate(SUITE | fields)]})
    return list(sample_translations(experiment.model_copy(update={"evaluate": evaluate}), runs))


def test_each_model_answers_the_same_sentences_and_directions_take_turns(experiment_data):
    experiment = build_experiment(experiment_data, "test")
    directions = ["eng-zsm", "eng-jav", "jav-eng"]
    runs = {"base": [frame("b", directions)], "mine": [frame("m", directions), frame("other seed", directions)]}
    lines = shown(experiment, runs)
    assert [line.split()[-1] for line in lines if "mine" in line] == [
        f"m{d}{k}" for k in range(SENTENCES // 2) for d in ("eng-jav", "jav-eng")
    ]
    assert sum("base" in line for line in lines) == SENTENCES
    assert not any("eng-zsm" in line or "other seed" in line for line in lines)


def test_nothing_is_shown_without_generated_text_or_new_languages(experiment_data):
    experiment = build_experiment(experiment_data, "test")
    runs = {"base": [frame("b", ["eng-jav"])]}
    assert shown(experiment, runs, generate=False) == []
    assert shown(experiment, {"base": [frame("b", ["eng-zsm"])]}) == []
    assert shown(experiment, {"base": [{}]}) == []
