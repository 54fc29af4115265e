"""Bundled multiple-choice suites, on small made-up files in the layout of each hub data set."""

import pandas as pd
import pytest

from ialign_ray.config import build_experiment
from ialign_ray.config.bundled import bundled_names, expand_suites
from ialign_ray.evaluation.scoring.suite_kinds import suite_units
from ialign_ray.evaluation.suites.choices import option_column

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


MADE = {
    "belebele": (belebele, 4, {"eng", "ind", "tha", "zho"}),
    "include": (include, 4, {"ind", "zho"}),
    "global-mmlu": (global_mmlu, 4, {"eng", "ind", "zho"}),
    "xcopa": (xcopa, 2, {"ind", "tha", "zho"}),
    "copal-id": (copal, 2, {"ind"}),
    "global-piqa": (global_piqa, 2, {"ind", "tha"}),
    "indommlu": (indommlu, 4, {"ind"}),
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
    assert set(rows["options"]) == {options}
    assert (rows.groupby("language").size() == 6).all()
    assert option_column(options - 1) in rows.columns
    if "join" in (suite.get("long") or {}):
        assert rows.groupby("id")["language"].nunique().eq(len(spoken)).all()
        assert rows.groupby("id")["label"].nunique().eq(1).all()


def test_every_bundled_suite_names_licence_origin_and_citation():
    for suite in expand_suites(bundled_names()):
        about = suite["about"]
        assert about["licence"], suite["name"]
        assert about["texts"] in ("native", "translated")
        assert any(year.isdigit() for year in about["citation"].replace(",", " ").split())
