import re
from html.parser import HTMLParser

import pytest
from tiny_corpus import sentences, two_corpora

from ialign_ray.config import build_experiment
from ialign_ray.corpus.build import build_corpus
from ialign_ray.corpus.leaks import EvaluationIndex
from ialign_ray.inspection.page import render_page, write_page
from ialign_ray.inspection.report import inspect
from ialign_ray.training.prepare import make_encoder

EVIL = '<script>alert(1)</script> <img src="http://evil.example/x.png"> & \x1b[31m'


class Seen(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]


@pytest.fixture
def experiment(tmp_path, tiny_model_folder):
    rows = sentences(60)
    rows[7]["jav"] = f"{EVIL} {EVIL}"
    rows[8]["jav"] = EVIL.upper()
    rows[9]["eng"] = rows[9]["jav"] = "<b>same</b> words here"
    rows[10]["jav"] = "مرحبا بالعالم " * 3
    data = two_corpora(tmp_path, tiny_model_folder, "<i>all", rows)
    return build_experiment(data | {"cleaning": {"steps": ["empty", "identical"]}}, "test")


@pytest.fixture
def report(experiment):
    return inspect(experiment, build_corpus(experiment, EvaluationIndex.build([])), make_encoder(experiment))


@pytest.fixture
def page(report):
    return render_page(report)


def test_texts_are_escaped(page):
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b&gt;same&lt;/b&gt;" in page
    assert "&lt;i&gt;all" in page
    seen = Seen()
    seen.feed(page)
    assert not {"script", "img", "iframe", "link", "object"} & set(seen.tags)
    assert "\x1b" not in page


def test_nothing_is_loaded_from_anywhere(page):
    seen = Seen()
    seen.feed(page)
    addresses = [value for name, value in seen.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert addresses
    assert all(re.fullmatch(r"#[\w-]+", a) for a in addresses)
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in page


def test_the_contents_lead_somewhere(page):
    seen = Seen()
    seen.feed(page)
    assert len(seen.ids) == len(set(seen.ids))
    assert {value[1:] for name, value in seen.attributes if name == "href"} <= set(seen.ids)


def test_the_page_holds_the_numbers(report, page):
    steps = report.corpora[0].steps
    assert steps.dropped("identical", "jav") == 1
    assert f"n = {steps.kept('jav')}" in page
    assert "Nothing is left of this corpus." in page
    assert "n = 0: no text" not in page
    assert "No training text in: sun." in page
    assert 'dir="auto"' in page
    bars = [int(n) for n in re.findall(r'title="[^"]+ characters: ([\d,]+)"', page)]
    assert sum(bars) == steps.kept("eng") + steps.kept("jav")


def test_tokens_and_truncation_are_what_the_encoder_does(experiment, report):
    encoder, t = make_encoder(experiment), report.tokens
    rows = [r for r in report.built.read("<i>all").to_pylist() if r["jav"]]
    assert t.fitness["jav"].texts == len(rows)
    long = [r for r in rows if len(encoder.target(r["jav"])) > 24]
    assert 0 < len(long) < len(rows)
    assert t.too_long("jav") == pytest.approx(len(long) / len(rows))
    by_case = {(r.task, r.source, r.target): r for r in t.rendered}
    assert by_case.keys() == {(task, *d) for task in ("mt", "tlm") for d in (("eng", "jav"), ("jav", "eng"))}
    mt = by_case["mt", "eng", "jav"]
    assert mt.n == len(rows)
    assert mt.dropped == len(long)
    assert sum(r.shortened for r in t.rendered) > 0
    tlm = by_case["tlm", "eng", "jav"]
    assert tlm.shortened <= sum(n > 40 for n in tlm.prompt_tokens)
    assert mt.example.task == "mt"
    assert mt.example.prompt
    assert "sun" in t.missing


def test_the_end_token_counts(experiment, report):
    lengths = report.tokens.fitness["jav"].lengths
    limit = lengths[len(lengths) // 2]
    tight = experiment.model_copy(update={"train": experiment.train.model_copy(update={"max_target_tokens": limit})})
    t = inspect(tight, report.built, make_encoder(tight)).tokens
    # a text of exactly `limit` tokens has no room for the end
    assert t.too_long("jav") == sum(n >= limit for n in lengths) / len(lengths)


def test_limits_that_nothing_reaches_touch_nothing(experiment, report):
    roomy = experiment.model_copy(
        update={"train": experiment.train.model_copy(update={"max_prompt_tokens": 2000, "max_target_tokens": 2000})}
    )
    t = inspect(roomy, report.built, make_encoder(roomy)).tokens
    assert [(r.shortened, r.dropped) for r in t.rendered] == [(0, 0)] * len(t.rendered)


def test_without_an_encoder_tokens_are_left_out(experiment, report, tmp_path):
    plain = inspect(experiment, report.built, None)
    assert plain.tokens is None
    path = write_page(plain, tmp_path / "deep" / "page.html")
    assert "Tokens were not measured." in path.read_text(encoding="utf-8")
