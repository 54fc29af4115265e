"""The report in a real browser without a network: charts are drawn, nothing foreign runs, nothing overflows."""

import shutil

import pytest
from report_material import material
from rich.console import Console

from ialign_ray.evaluation.report.write import report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
    # the browser's pipes are closed by its own process
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.mark.parametrize("look", [{"width": 1280}, {"width": 390}, {"width": 1280, "scheme": "dark"}], ids=str)
def test_the_report_is_drawn_offline(experiment_data, tmp_path, look):
    m = material(experiment_data, tmp_path)
    report(m.experiment, m.runs, tmp_path / "out", Console(quiet=True), m.folders)
    said = []
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(
            viewport={"width": look["width"], "height": 900}, color_scheme=look.get("scheme", "light")
        )
        context.set_offline(True)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if "file:" not in request.url else None)
        page.goto((tmp_path / "out" / "report.html").as_uri())
        page.wait_for_function(
            "document.querySelectorAll('[data-chart] svg').length == document.querySelectorAll('[data-chart]').length"
        )
        drawn = page.evaluate("document.querySelectorAll('[data-chart] svg').length")
        assert drawn >= 3
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("window.broken === undefined")
        assert page.locator("[data-chart] svg path").count() > 10
        browser.close()
    assert said == []
