"""`ialign survey` from its arguments to its last lines."""

from pathlib import Path

import pandas as pd
import pytest
from tiny_corpus import sentences

from ialign_ray.workflows.survey import CSV, PAGE


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = pd.DataFrame(sentences(12)).rename(columns={"eng": "en", "ind": "in", "jav": "jv"})
    rows[["en", "jv"]].to_csv(tmp_path / "mine.csv", index=False)
    return "mine.csv"


def test_the_last_lines_name_page_table_and_what_to_do_next(ialign, data, tiny_model_folder):
    code, out, _ = ialign("survey", tiny_model_folder, "--data", data, "-l", "jav", "--limit", 5, "--to", "out")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[-3:]] == ["Page:", "Table:", "Next:"]
    assert pd.read_csv(f"out/{CSV}")["code"].tolist() == ["eng", "jav"]
    assert Path("out", PAGE).exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--languages", "jva"], "did you mean"),
        (["--pivot", "fra"], "pivot 'fra'"),
        (["--long", "lang,text"], "--long"),
        (["--address", "auto"], "--workers"),
    ],
)
def test_bad_arguments_are_one_sentence_and_exit_code_2(ialign, data, tiny_model_folder, arguments, said):
    code, _, err = ialign("survey", tiny_model_folder, "--data", data, *arguments)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert said in err


@pytest.mark.slow
def test_a_run_and_a_version_of_the_registry_are_models(ialign, data, library):
    runs = library / "runs"
    for model in (runs / "small" / "good", "mine/1"):
        code, _, err = ialign("survey", model, "--registry", runs, "--data", data, "--limit", 5, "--to", "out")
        assert code == 0, err
    assert pd.read_csv(f"out/{CSV}")["code"].tolist() == ["eng", "jav"]
