"""All pages in a real browser at three widths, in light and dark, without a network."""

import json
from pathlib import Path

import pandas as pd
import pytest
from looks import SCHEMES, WIDTHS, faults, looked_at
from playground_server import SECRET
from report_material import material
from rich.console import Console
from tiny_corpus import sentences, two_corpora

from ialign_ray.config import Domain, SearchConfig, build_experiment
from ialign_ray.corpus.build import build_corpus
from ialign_ray.corpus.leaks import EvaluationIndex
from ialign_ray.evaluation.report.write import report
from ialign_ray.inspection.page import write_page as write_inspection
from ialign_ray.inspection.report import inspect
from ialign_ray.search.page import render_page as render_search
from ialign_ray.survey.advice import PIVOT, advise
from ialign_ray.survey.page import SurveyedWith
from ialign_ray.survey.page import render_page as render_survey
from ialign_ray.survey.table import NUMBERS
from ialign_ray.training.prepare import make_encoder

pytestmark = pytest.mark.browser
GRID = Path(__file__).parents[2] / "docs" / "results" / "search-grid" / "grid.csv"
LONG_NAME = "replay-0.25-mix-random-xss-tlm-rank-32-average-of-seeds"
UNBROKEN = "anameofmorethansixtycharactersthatoffersnoplaceatalltobreakitself"


def checked(browser, address, ready, key="", offline=True):
    """Faults over all looks; `ready` waits until a page is drawn."""
    found = []
    for width in WIDTHS:
        for scheme in SCHEMES:
            with looked_at(browser, address, width, scheme, key, offline) as (page, said):
                ready(page)
                own = [*faults(page), *said]
                if page.evaluate("window.broken !== undefined"):
                    own.append("a text of the data ran as a script")
                found += [f"{width} {scheme}: {fault}" for fault in own]
    return "\n".join(found)


def charts_drawn(page):
    page.wait_for_function("[...document.querySelectorAll('[data-chart]')].every((e) => e.querySelector('svg path'))")
    page.evaluate("document.querySelectorAll('details').forEach((e) => (e.open = true))")


def test_the_report(browser, experiment_data, tmp_path):
    m = material(experiment_data, tmp_path)
    for name in (LONG_NAME, UNBROKEN, "third"):
        m.runs[name], m.folders[name] = m.runs["<b>arm"], m.folders["<b>arm"]
    report(m.experiment, m.runs, tmp_path / "out", Console(quiet=True), m.folders)
    address = (tmp_path / "out" / "report.html").as_uri()
    assert checked(browser, address, charts_drawn) == ""
    with looked_at(browser, address, 1280, "light", offline=True) as (page, _):
        charts_drawn(page)
        assert page.locator("[data-chart] svg").count() >= 3
        assert page.locator("[data-chart] svg path").count() > 10


def test_the_corpus_page(browser, tmp_path, tiny_model_folder):
    rows = sentences(60)
    rows[7]["jav"] = '<script>window.broken = 1</script> <img src="http://evil.example/x.png">'
    rows[9]["eng"] = rows[9]["jav"] = "the same words here"
    rows[10]["jav"] = "W" * 400
    data = two_corpora(tmp_path, tiny_model_folder, UNBROKEN, rows)
    experiment = build_experiment(data, "test")
    built = build_corpus(experiment, EvaluationIndex.build([]))
    path = write_inspection(inspect(experiment, built, make_encoder(experiment)), tmp_path / "corpus.html")
    assert checked(browser, path.as_uri(), charts_drawn) == ""


def searched():
    """The recorded grid as the table of a search."""
    grid = pd.read_csv(GRID)
    fields = ["replay.ratio", "model.lora.rank", "train.learning_rate"]
    point = [json.dumps(row) for row in grid[fields].to_dict("records")]
    names = {p: f"trial-{k:04d}-of-the-grid" for k, p in enumerate(dict.fromkeys(point))}
    feasible = grid["forgetting_high"] <= 0.25
    table = grid.assign(point=point, trial=[names[p] for p in point], feasible=feasible, failed="")
    return table.assign(
        violation=grid["forgetting_high"] - 0.25, score=grid["gain"], units=grid["budget"], stopped=False
    )


SPACE = {
    "replay.ratio": Domain(choice=[0, 0.25, 0.5, 0.75, 0.9]),
    "model.lora.rank": Domain(choice=[2, 8, 32]),
    "train.learning_rate": Domain(choice=[1e-3, 3e-3, 1e-2]),
}


def test_the_search(browser, tmp_path):
    table = searched()
    failed = table.iloc[[0]].assign(trial="trial-failed", failed=f"step 3: the loss of {UNBROKEN} is not a number")
    path = tmp_path / "search.html"
    page = render_search(pd.concat([table, failed]), SearchConfig(space=SPACE, tolerance=0.25), UNBROKEN)
    path.write_text(page, "utf-8")
    assert checked(browser, path.as_uri(), charts_drawn) == ""
    with looked_at(browser, path.as_uri(), 1280, "light", offline=True) as (page, _):
        charts_drawn(page)
        assert page.locator("[data-chart] svg").count() == 3
        assert page.locator("dl.shares dt").count() == 2 * len(SPACE)
        assert page.locator("#trials ~ * tbody tr").count() == table["trial"].nunique()


def surveyed():
    """A made-up survey: many scripts, long and hostile names, numbers that are missing, and too few units."""
    scripts = ["Latn"] * 20 + ["Cyrl", "Arab", "Deva", "Thai", "Cans", "Mymr", "Ethi", "Geor", "Hani", ""]
    names = [f"Language {k:02d} of some valley" for k in range(27)] + ["<script>window.broken = 1</script>", "W" * 60]
    rows = []
    for k, (script, name) in enumerate(zip(scripts, ["English", *names], strict=True)):
        about = {"code": f"l{k:02d}_{script}", "name": name, "script": script, "units": 60, "read": 8, "chance": 0.125}
        numbers = dict.fromkeys(NUMBERS, 0.3 + k * 7 % 30 / 20) | {"broken": k / 40, "unknown": 0.0}
        if k % 9 == 8:
            about |= {"units": 3, "read": 3}
            numbers = dict.fromkeys(NUMBERS, float("nan"))
        numbers["tokens_per_word"] = float("nan") if script == "Thai" else numbers["tokens_per_word"]
        ends = {f"{name}{end}": value for name, value in numbers.items() for end in ("_low", "_high")}
        given = PIVOT if k == 0 else advise(numbers["parity"], numbers["broken"])
        rows.append(about | numbers | ends | {"known": given.kind, "advice": given.text})
    return pd.DataFrame(rows)


def test_the_survey(browser, tmp_path):
    path = tmp_path / "survey.html"
    path.write_text(render_survey(surveyed(), SurveyedWith("a/model", "data.parquet", "eng", 8, 120)), "utf-8")
    assert checked(browser, path.as_uri(), charts_drawn) == ""


def test_the_survey_is_searched_and_sorted_by_keyboard(browser, tmp_path):
    path, table = tmp_path / "survey.html", surveyed()
    # an unbroken name makes cards of the rows at this width
    table["name"] = [name[:12] for name in table["name"]]
    path.write_text(render_survey(table, SurveyedWith("a/model", "data.parquet", "eng", 8, 120)), "utf-8")
    with looked_at(browser, path.as_uri(), 1600, "light", offline=True) as (page, said):
        rows = page.locator("#languages ~ .wide tbody tr:visible")
        assert rows.count() == len(table)
        page.get_by_label("Search").focus()
        page.keyboard.type("cyrillic")
        assert (rows.count(), page.locator("output").text_content()) == (1, f"1 of {len(table)}")
        page.get_by_label("Search").fill("")
        for control, order in ((page.get_by_label("Sort by"), False), (page.get_by_label("Largest first"), True)):
            control.focus()
            page.keyboard.type("bits/byte" if not order else " ")
            cells = page.locator("#languages ~ .wide tbody tr td:nth-child(4)").evaluate_all(
                "(cells) => cells.map((cell) => cell.dataset.sort)"
            )
            known = [float(cell) for cell in cells if cell]
            assert known == sorted(known, reverse=order)
            assert cells[len(known) :] == [""] * int(table["bits_per_byte"].isna().sum())
        page.get_by_role("button", name="language").focus()
        page.keyboard.press("Enter")
        assert page.locator("th[aria-sort=ascending]").inner_text().startswith("language")
        assert said == []


def test_the_playground(browser, server):
    def ready(page):
        page.get_by_label("Compare with").select_option("base")
        page.get_by_label("Classify", exact=True).check()
        page.get_by_label("Text to classify").fill("She sold two goats.")
        page.get_by_role("button", name="Send").click()
        page.get_by_text("done", exact=True).wait_for()
        page.locator("#measured tbody tr").nth(3).wait_for()
        page.evaluate("document.querySelectorAll('details').forEach((e) => (e.open = true))")

    assert checked(browser, server.url, ready, SECRET, offline=False) == ""


def test_the_api_document(browser, server):
    def ready(page):
        page.wait_for_selector("h2")

    assert checked(browser, f"{server.url}/docs", ready, offline=False) == ""
