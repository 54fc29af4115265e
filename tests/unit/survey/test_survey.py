"""A survey from the command's arguments to its table and page."""

import os
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from tiny_corpus import sentences

from ialign_ray.errors import ConfigError, ModelError
from ialign_ray.survey.advice import LANGUAGE_UNKNOWN, NOT_ADVISED, PARTLY_KNOWN, SCRIPT_UNKNOWN, WELL_KNOWN, advise
from ialign_ray.survey.measure import SurveyWork
from ialign_ray.survey.page import SurveyedWith, render_page
from ialign_ray.survey.table import NUMBERS, survey_table
from ialign_ray.survey.texts import SurveyTexts
from ialign_ray.workflows.survey import CSV, PAGE, SurveyRequest, survey

SHORT = sorted(len(row["eng"]) for row in sentences(12))[4]
ABOUT = SurveyedWith("tiny", "data.csv", "eng", 8, 120)


@pytest.fixture
def request_of(tmp_path, tiny_model_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = pd.DataFrame(sentences(12))[["eng", "ind", "jav"]]
    rows["tha"] = ["ทุกคนมีสิทธิ"] * 3 + [None] * 9
    rows.to_csv(tmp_path / "data.csv", index=False)
    return SurveyRequest(str(tiny_model_folder), "data.csv", limit=6)


@pytest.fixture
def measured(monkeypatch):
    """Codes in the order in which they are measured."""
    codes, real = [], SurveyWork.measure
    monkeypatch.setattr(SurveyWork, "measure", lambda self, code: (codes.append(code), real(self, code)))
    return codes


def printed(request, width=80):
    console = Console(file=StringIO(), width=width)
    folder = survey(request, console)
    return folder, console.file.getvalue()


def test_a_survey_writes_a_row_with_intervals_for_each_language(request_of):
    folder, text = printed(request_of)
    table = pd.read_csv(folder / CSV).set_index("code")
    assert list(table.index) == ["eng", "ind", "jav", "tha"]
    for code in ("eng", "ind", "jav"):
        row = table.loc[code]
        # the pivot has the units of every other language
        assert row["read"] == (8 if code == "eng" else 6)
        for name in ("bits_per_byte", "parity", "tokens_per_word", "tokens_per_byte", "premium"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"], name
    assert table.loc["eng", ["parity", "premium"]].tolist() == [1, 1]
    assert table.loc["jav", "chance"] == pytest.approx(1 / 6, abs=1e-4)
    assert 0 <= table.loc["jav", "retrieval"] <= 1
    assert all(len(line) <= 80 for line in text.splitlines())


def test_too_few_units_give_no_number(request_of):
    folder, _ = printed(request_of)
    row = pd.read_csv(folder / CSV).set_index("code").loc["tha"]
    assert row["read"] == row["units"] == 3
    assert row[list(NUMBERS)].isna().all()
    assert row["known"] == NOT_ADVISED.kind
    page = (folder / PAGE).read_text("utf-8")
    assert "too few<" in page


def test_a_second_call_measures_nothing_and_an_interrupted_one_continues(request_of, measured, monkeypatch):
    folder, first = printed(request_of)
    assert measured == ["eng", "ind", "jav", "tha"]
    table = (folder / CSV).read_bytes()
    measured.clear()
    assert printed(request_of)[1].splitlines()[-5:] == first.splitlines()[-5:]
    assert measured == []
    for path in (folder / "units").glob("jav-*"):
        path.unlink()
    printed(request_of)
    assert measured == ["jav"]
    assert (folder / CSV).read_bytes() == table


@pytest.mark.parametrize("change", [{"limit": 5}, {"longest": SHORT}, {"pivot": "ind"}, {"precision": "bf16"}])
def test_other_settings_are_measured_anew(request_of, measured, change):
    printed(request_of)
    measured.clear()
    printed(replace(request_of, **change))
    assert set(measured) >= {"ind", "jav"}
    measured.clear()
    printed(request_of)
    assert measured == []


def test_a_changed_text_or_model_is_measured_anew(request_of, measured, tmp_path, tiny_model_folder):
    import shutil

    printed(request_of)
    rows = pd.read_csv("data.csv")
    rows.loc[0, "jav"] = "teks sing anyar"
    rows.to_csv("data.csv", index=False)
    measured.clear()
    printed(request_of)
    assert measured == ["jav"]
    shutil.copytree(tiny_model_folder, tmp_path / "other")
    os.utime(tmp_path / "other" / "config.json")
    (tmp_path / "other" / "generation_config.json").write_text('{"eos_token_id": 0}')
    measured.clear()
    printed(replace(request_of, model=str(tmp_path / "other"), to=tmp_path / "runs" / "surveys" / "tiny"))
    assert len(measured) == 4


def test_only_the_languages_asked_for(request_of, measured):
    folder, _ = printed(replace(request_of, languages=["jv"]))
    assert pd.read_csv(folder / CSV)["code"].tolist() == ["eng", "jav"]
    printed(request_of)
    # the pivot again, since `tha` has other units
    assert measured == ["eng", "jav", "eng", "ind", "tha"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": "data/udhr/udhr.parquet"}, ConfigError, "--data"),
        ({"model": "no/such/folder-or-model"}, ModelError, "cannot be loaded"),
        ({"address": "auto"}, ConfigError, "--workers"),
    ],
)
def test_bad_arguments_are_one_sentence(request_of, change, error, message):
    with pytest.raises(error, match=message):
        printed(replace(request_of, **change))


def rows_of(codes, **numbers):
    """A table as `survey_table` makes it, with the same numbers in each row."""
    whole = dict.fromkeys(NUMBERS, 0.5) | numbers
    whole |= {f"{name}{end}": value for name, value in list(whole.items()) for end in ("_low", "_high")}
    about = {"script": "Latn", "units": 9, "read": 8, "chance": 0.125}
    rows = [{"code": c, "name": f"<b>{c}</b>", **about, **whole, "known": "partly known", "advice": ""} for c in codes]
    rows[0]["known"] = "pivot"
    return pd.DataFrame(rows)


class Cells(HTMLParser):
    """Text of the row headings, and tags that are open at the end."""

    def __init__(self, page):
        super().__init__()
        self.open, self.names, self._heading = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag not in {"meta", "input", "br", "i"}:
            self.open.append(tag)
        self._heading = tag == "th" and ("scope", "row") in attrs
        self.names += [""] if self._heading else []

    def handle_endtag(self, tag):
        assert tag == "i" or self.open.pop() == tag
        self._heading = self._heading and tag != "th"

    def handle_data(self, data):
        if self._heading or (self.open and self.open[-1] == "small" and "th" in self.open):
            self.names[-1] += data


def test_the_page_is_well_formed_and_holds_every_language():
    codes = [f"l{k:03d}" for k in range(421)]
    cells = Cells(render_page(rows_of(codes), ABOUT))
    assert cells.open == []
    assert [name for name in cells.names if name.startswith("<b>")] == [f"<b>{c}</b> {c}" for c in codes]


def test_a_page_without_numbers_has_no_plots():
    table = rows_of(["eng", "jav"])
    table[[c for c in table.columns if c.startswith(("bits", "parity"))]] = float("nan")
    assert "data-chart" not in render_page(table, ABOUT)


@pytest.mark.parametrize(
    ("parity", "broken", "given"),
    [
        (0.9, 0.0, WELL_KNOWN),
        (0.75, 0.0, WELL_KNOWN),
        (0.5, 0.1, PARTLY_KNOWN),
        (0.39, 0.1, LANGUAGE_UNKNOWN),
        (0.9, 0.5, SCRIPT_UNKNOWN),
        (float("nan"), 0.0, NOT_ADVISED),
        (float("nan"), 0.9, SCRIPT_UNKNOWN),
    ],
)
def test_advice(parity, broken, given):
    assert advise(parity, broken) == given


def test_numbers_are_those_of_the_sums(tmp_path):
    texts = SurveyTexts("eng", {code: {str(k): "abcd ef" for k in range(6)} for code in ("eng", "jav")})
    work = SurveyWork(texts, 6, "model", tmp_path, lambda: (None, None))
    for code, nats in (("eng", 2.0), ("jav", 4.0)):
        vectors = [[float(k == j) for j in range(6)] for k in range(6)]
        rows = pd.DataFrame({"unit": [str(k) for k in range(6)], "vector": vectors, "nats": nats})
        rows = rows.assign(tokens=int(nats), words=2, characters=7, bytes=7, broken=1, unknown=0, surface_rank=1)
        rows.to_parquet(work.path(code))
    jav = survey_table(work).set_index("code").loc["jav"]
    assert jav["bits_per_byte"] == pytest.approx(4 / 0.693147 / 7, rel=1e-5)
    found = ["parity", "premium", "tokens_per_word", "broken", "retrieval", "surface", "chance"]
    assert jav[found].tolist() == pytest.approx([0.5, 2, 2, 0.25, 1, 0, 1 / 6])


@pytest.mark.parametrize("seed", range(5))
def test_no_interval_leaves_the_possible_values(tmp_path, seed):
    rng = np.random.default_rng(seed)
    texts = SurveyTexts("eng", {code: {str(k): "abcd ef" for k in range(6)} for code in ("eng", "jav")})
    work = SurveyWork(texts, 6, "model", tmp_path, lambda: (None, None))
    for code in ("eng", "jav"):
        rows = pd.DataFrame({"unit": [str(k) for k in range(6)], "nats": np.exp(rng.normal(0, 2, 6))})
        rows = rows.assign(
            tokens=rng.integers(1, 60, 6), words=2, characters=7, bytes=np.exp(rng.normal(3, 2, 6)), surface_rank=1,
            broken=[0, 0, 0, 0, 0, 1], unknown=0, vector=[[float(k == j) for j in range(6)] for k in range(6)],
        )  # fmt: skip
        rows.to_parquet(work.path(code))
    row = survey_table(work).set_index("code").loc["jav"]
    for name in NUMBERS:
        assert 0 <= row[f"{name}_low"] <= row[name] <= row[f"{name}_high"], name
    assert all(row[f"{name}_low"] > 0 for name in ("bits_per_byte", "parity", "premium"))
    assert row["broken_high"] <= 1
