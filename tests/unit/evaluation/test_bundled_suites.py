"""Bundled suites of hub data sets, on small made-up files in the layout of each."""

from uuid import uuid4

import pandas as pd
import pytest
from rich.console import Console

from ialign_ray.config import build_experiment
from ialign_ray.config.bundled import bundled_names, expand_suites
from ialign_ray.errors import ConfigError, DataError
from ialign_ray.evaluation.scoring.suite_kinds import suite_units
from ialign_ray.evaluation.suites.choices import option_column
from ialign_ray.workflows.suites import fetch_suites

SPOKEN = {"eng": "Stone {k} is heavy.", "ind": "Batu {k} berat.", "tha": "หิน {k} หนัก", "zho": "石头 {k} 很重。"}


def belebele():
    names = {"eng": "eng_Latn", "ind": "ind_Latn", "tha": "tha_Thai", "zho": "zho_Hans"}
    return [
        {"link": f"page/{k}", "question_number": q, "flores_passage": text.format(k=k), "question": f"{q} {text[:2]}?",
         "correct_answer_num": str((k + q) % 4 + 1), "dialect": names[code], "ds": "2023-05-03"}
        | {f"mc_answer{n}": f"{text[:3]} {n}" for n in range(1, 5)}
        for code, text in SPOKEN.items() for k in range(3) for q in (1, 2)
    ]  # fmt: skip


def include():
    names = {"ind": "Indonesian", "zho": "Chinese"}
    return [
        {"language": name, "subject": "geography", "question": SPOKEN[code].format(k=k), "answer": k % 4}
        | {f"option_{letter}": f"{SPOKEN[code][:2]} {letter}" for letter in "abcd"}
        for code, name in names.items()
        for k in range(6)
    ]


def global_mmlu():
    names = {"eng": "en", "ind": "id", "zho": "zh"}
    return [
        {"sample_id": f"physics/test/{k}", "language": name, "question": SPOKEN[code].format(k=k)}
        | {"answer": "ABCD"[k % 4]}
        | {f"option_{letter}": f"{SPOKEN[code][:2]} {letter}" for letter in "abcd"}
        for code, name in names.items()
        for k in range(6)
    ]  # fmt: skip


def copa(code):
    return [
        {"premise": SPOKEN[code].format(k=k), "choice1": f"{SPOKEN[code][:2]} 1 {k}", "label": k % 2, "idx": k}
        | {"choice2": f"{SPOKEN[code][:2]} 2", "question": ("cause", "effect")[k % 2]}
        for k in range(6)
    ]


def xcopa():
    names = {"ind": "id", "tha": "th", "zho": "zh"}
    return [row | {"language": name} for code, name in names.items() for row in copa(code)]


def copal():
    return copa("ind")


def global_piqa():
    return [
        {"prompt": SPOKEN[code].format(k=k), "solution0": "0" + SPOKEN[code][:3], "solution1": "1", "label": k % 2,
         "language": name}
        for code, name in (("ind", "ind_latn"), ("tha", "tha_thai")) for k in range(6)
    ]  # fmt: skip


def indommlu():
    return [
        {"subject": "IPA", "level": "SMP" if k else "SD", "soal": f"Berapa {k}?", "kunci": "ABCD"[k % 4],
         "jawaban": f"A. {k}\nB. {k + 1}\nC. {k + 2}" + (f"\nD. {k + 3}" if k else "")}
        for k in range(7)
    ]  # fmt: skip


def topics(column, names, labels):
    return [
        {column: SPOKEN[code].format(k=k), "category": labels[k % len(labels)], "language": name, "split": split,
         "index_id": k, "url": f"/{k}"}
        for code, name in names.items() for split in ("train", "test") for k in range(6 if split == "test" else 14)
    ]  # fmt: skip


def sib200():
    labels = ["science/technology", "travel", "politics", "sports", "health", "entertainment", "geography"]
    return topics("text", {"eng": "eng_Latn", "tha": "tha_Thai", "zho": "zho_Hans"}, labels)


def masakhanews():
    labels = ["business", "entertainment", "health", "politics", "religion", "sports", "technology"]
    SPOKEN.setdefault("swa", "Jiwe {k} ni zito.")
    return topics("headline", {"eng": "eng", "swa": "swa"}, labels)


def afrixnli():
    return [
        {"premise": SPOKEN["eng"].format(k=k), "hypothesis": f"It is {k}.", "label": k % 3, "language": name, "row": k,
         "split": split}
        for name in ("eng", "swa") for split in ("validation", "test") for k in range(6)
    ]  # fmt: skip


def lorax_causal():
    rows = [row | {"language": name, "question_type": row["question"]} for name in LORAX for row in copa("ind")]
    return [{k: v for k, v in row.items() if k != "question"} for row in rows]


LORAX = ("Indonesian", "Javanese")


def lorax_culture():
    return [
        {"language": name, "context": f"Di {k} ...", "answer": "ABC"[k % 3]}
        | {f"option {c}": f"{c} {k}" for c in "ABC"}
        for name in LORAX for k in range(6)
    ]  # fmt: skip


def lorax_nli():
    labels = ("entailment", "neutral", "contradiction")
    return [
        {"language": name, "Premise ID": k // 3, "Pair ID": k, "Premise": f"Batu {k // 3}.", "Hypothesis": f"{k}?",
         "Label": labels[k % 3]}
        for name in LORAX for k in range(6)
    ]  # fmt: skip


MADE = {
    "belebele": (belebele, 4, {"eng", "ind", "tha", "zho"}),
    "include": (include, 4, {"ind", "zho"}),
    "global-mmlu": (global_mmlu, 4, {"eng", "ind", "zho"}),
    "xcopa": (xcopa, 2, {"ind", "tha", "zho"}),
    "copal-id": (copal, 2, {"ind"}),
    "global-piqa": (global_piqa, 2, {"ind", "tha"}),
    "indommlu": (indommlu, 4, {"ind"}),
    "loraxbench-causal": (lorax_causal, 2, {"ind", "jav"}),
    "loraxbench-culture": (lorax_culture, 3, {"ind", "jav"}),
    "loraxbench-nli": (lorax_nli, None, {"ind", "jav"}),
    "sib200": (sib200, None, {"eng", "tha", "zho"}),
    "masakhanews": (masakhanews, None, {"eng", "swa"}),
    "afrixnli": (afrixnli, None, {"eng", "swa"}),
}


@pytest.mark.parametrize("name", MADE)
def test_a_bundled_suite_reads_the_layout_of_its_data_set(experiment_data, tmp_path, name):
    make, options, spoken = MADE[name]
    (suite,) = expand_suites([name])
    file = tmp_path / suite["path"]
    file.parent.mkdir(parents=True)
    frame = pd.DataFrame(make())
    frame.to_csv(file, index=False) if file.suffix == ".csv" else frame.to_parquet(file)
    experiment_data["languages"] = {"l1": ["eng"], "l2": sorted({*spoken, "ind", "jav"} - {"eng"})}
    experiment_data["evaluate"]["suites"] = [{"use": name, "languages": sorted(spoken)}]
    experiment = build_experiment(experiment_data, "x")
    units = suite_units(experiment)
    assert len(units) == len(experiment.evaluate.suites[0].prompts)
    rows = units[0].rows
    assert set(rows["language"]) == spoken
    assert (rows.groupby("language").size() == 6).all()
    if options:
        assert set(rows["options"]) == {options}
        assert option_column(options - 1) in rows.columns
    if "join" in (suite.get("long") or {}):
        assert rows.groupby("id")["language"].nunique().eq(len(spoken)).all()
        assert rows.groupby("id")["label"].nunique().eq(1).all()


def test_a_language_without_a_row_lists_the_values_of_its_column(experiment_data, tmp_path):
    file = tmp_path / "loraxbench" / "loraxbench-nli.parquet"
    file.parent.mkdir()
    pd.DataFrame([row | {"language": row["language"].lower()} for row in lorax_nli()]).to_parquet(file)
    experiment_data["evaluate"]["suites"] = [{"use": "loraxbench-nli", "languages": ["jav"]}]
    with pytest.raises(DataError, match=r"jav, .* 'Javanese'; .* indonesian, javanese"):
        suite_units(build_experiment(experiment_data, "x"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A data set with a configuration for each language, as the hub has them, in a local folder."""
    monkeypatch.chdir(tmp_path)
    made = tmp_path / f"made-{uuid4().hex}"  # `datasets` caches by the name
    splits = {"train": 3, "validation": 1, "test": 2}
    card = ["---", "configs:"]
    for code in ("eng_Latn", "jav_Latn"):
        card += [f"- config_name: {code}", "  data_files:"]
        for split, n in splits.items():
            file = made / code / f"{split}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            rows = [{"index_id": k, "category": "travel", "text": f"{code} {split} {k}"} for k in range(n)]
            pd.DataFrame(rows).to_parquet(file)
            card += [f"  - split: {split}", f"    path: {code}/{split}.parquet"]
    (made / "README.md").write_text("\n".join([*card, "---", ""]))
    (tmp_path / "own.yaml").write_text(
        "kind: classification\nname: own\npath: own/own.parquet\n"
        f"about: {{licence: CC0, texts: native, citation: x, hub: ./{made.name}, splits: [train, validation, test]}}\n"
        "long: {language: language, text: text, join: index_id, values: {eng: eng_Latn, jav: jav_Latn}}\n"
    )
    return made


def test_the_configurations_and_splits_of_a_hub_data_set_become_one_table(hub):
    fetch_suites(["own.yaml"], hub.parent / "data", [], Console(quiet=True))
    table = pd.read_parquet(hub.parent / "data" / "own" / "own.parquet")
    assert table.groupby(["language", "split"]).size().to_dict() == {
        (code, split): n
        for code in ("eng_Latn", "jav_Latn")
        for split, n in (("train", 3), ("validation", 1), ("test", 2))
    }
    assert table.loc[(table["language"] == "jav_Latn") & (table["split"] == "test"), "row"].tolist() == [0, 1]


def test_only_named_languages_are_fetched_and_a_table_is_never_overwritten(hub):
    for _ in range(2):
        fetch_suites(["own.yaml"], hub.parent / "data", ["jav"], Console(quiet=True))
        assert set(pd.read_parquet(hub.parent / "data" / "own" / "own.parquet")["language"]) == {"jav_Latn"}
        (hub / "README.md").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("names", "languages", "says"),
    [(["own.yaml"], ["xho"], "'xho'"), (["nusax-sentiment"], [], "names no hub data set"), (["nope"], [], "'nope'")],
)
def test_what_cannot_be_fetched_is_named(hub, names, languages, says):
    with pytest.raises(ConfigError, match=says):
        fetch_suites(names, hub.parent / "data", languages, Console(quiet=True))


def test_a_configuration_that_cannot_be_loaded_leaves_no_table(hub):
    (hub / "jav_Latn" / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=f"{hub.name}/jav_Latn"):
        fetch_suites(["own.yaml"], hub.parent / "data", [], Console(quiet=True))
    assert not list((hub.parent / "data").rglob("*.parquet"))


def test_every_bundled_suite_names_licence_origin_and_citation():
    for suite in expand_suites(bundled_names()):
        about = suite["about"]
        assert about["licence"], suite["name"]
        assert about["texts"] in ("native", "translated")
        assert any(year.isdigit() for year in about["citation"].replace(",", " ").split())
