"""Suites by name, by path and with fields changed; what is refused, in one sentence."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from ialign_ray.config import build_experiment, dump_yaml, load_experiment
from ialign_ray.config.bundled import bundled_names, expand_suites
from ialign_ray.errors import ConfigError
from ialign_ray.languages import canonical

OWN = """\
kind: classification
path: reviews.csv
columns: {eng: english, jav: javanese}
labels:
  0: {eng: bad}
  1: {eng: good}
prompts:
  - {name: question, text: "{text}\\nIs this good or bad?"}
"""


def built(data, *suites, languages=None):
    if languages:
        data["languages"] = languages
    data["evaluate"]["suites"] = list(suites)
    return build_experiment(data, "x").evaluate.suites


def refused(data, suite, *parts):
    with pytest.raises(ConfigError) as caught:
        built(data, suite)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_bundled_suite_is_valid_with_prompts_enough(experiment_data):
    names = bundled_names()
    assert {"nusax-sentiment", "nusatranslation-emotion", "flores-translation", "xnli"} <= set(names)
    for suite in built(experiment_data, *names, languages={"l1": ["eng", "ind"], "l2": ["jav"]}):
        if suite.kind == "classification":
            asked = Counter(p.language for p in suite.prompts)
            assert asked["eng"] >= 3, suite.name
            assert asked["ind"] >= 3 or "ind" not in suite.known, suite.name
        elif suite.kind == "translation":
            assert {p.language for p in suite.prompts} == {"eng", "ind"}


def test_a_bundled_suite_is_held_to_the_languages_of_the_experiment(experiment_data):
    one, chosen, back = built(
        experiment_data,
        "nusax-sentiment",
        {"use": "nusax-sentiment", "name": "two", "languages": ["bug"], "test_limit": 7},
        "flores-translation",
    )
    assert one.spoken == ["eng", "ind", "jav"]
    assert "ace" in one.columns  # protected from training all the same
    assert (chosen.spoken, chosen.test_limit) == (["bug"], 7)
    assert back.pairs == [("eng", "ind"), ("ind", "eng"), ("eng", "jav"), ("jav", "eng")]


def test_other_styles_of_code_are_the_same_languages(experiment_data):
    experiment_data["corpora"] = [{"name": "a", "path": "a.csv", "columns": {"en": "eng", "vi_Latn": "vie"}}]
    (suite,) = built(experiment_data, "xnli", languages={"l1": ["en"], "l2": ["vi_Latn"], "l3": ["ara"]})
    assert suite.spoken == ["eng", "ara", "vie"]


@pytest.mark.parametrize(
    ("code", "own"),
    [("swh", "swa"), ("sw", "swa"), ("swh_Latn", "swa"), ("arb_Arab", "ara"), ("cmn", "zho"), ("zho_Hans", "zho")],
)
def test_a_macro_language_and_its_usual_member_are_one(experiment_data, code, own):
    experiment_data["corpora"] = [{"name": "a", "path": "a.csv", "columns": {"eng": "e", code: "x"}}]
    (suite,) = built(experiment_data, "xnli", languages={"l1": ["eng"], "l2": [code]})
    assert suite.spoken == ["eng", canonical(code)]
    (bundled,) = expand_suites(["xnli"])
    assert suite.columns[canonical(code)] == bundled["columns"][own]


@pytest.mark.parametrize("code", ["swc", "zho_Hant", "arz", "yue"])
def test_another_member_or_script_is_not(experiment_data, code):
    experiment_data["corpora"] = [{"name": "a", "path": "a.csv", "columns": {"eng": "e", code: "x"}}]
    (suite,) = built(experiment_data, "xnli", languages={"l1": ["eng"], "l2": [code]})
    assert suite.spoken == ["eng"]


def test_a_direction_follows_the_name_of_its_language(experiment_data):
    experiment_data["corpora"] = [{"name": "a", "path": "a.csv", "columns": {"eng": "e", "zsm": "x"}}]
    both = {"kind": "translation", "name": "t", "path": "t.csv", "columns": {"eng": "e", "msa": "m"}, "grouped": True}
    for how in ({"pivot": "eng"}, {"directions": [["eng", "msa"], ["msa", "eng"]]}):
        (suite,) = built(experiment_data, both | how, languages={"l1": ["eng"], "l2": ["zsm"]})
        assert suite.pairs == [("eng", "zsm"), ("zsm", "eng")]


def test_a_suite_of_no_groups_language_names_what_the_group_has(experiment_data):
    experiment_data["corpora"] = [{"name": "a", "path": "a.csv", "columns": {"eng": "e", "sw": "x"}}]
    own = {"kind": "perplexity", "name": "p", "path": "f.parquet", "columns": {"eng": "eng_Latn", "swh_Latn": "swh"}}
    experiment_data |= {"languages": {"l1": ["eng"], "l2": ["sw"]}, "evaluate": {"suites": [own]}}
    with pytest.raises(ConfigError, match=r"evaluate\.suites\.p: language 'swh' is in no group; write swa here"):
        build_experiment(experiment_data, "x").check_suites()
    own["columns"] = {"eng": "eng_Latn", "kin": "kin_Latn"}
    with pytest.raises(ConfigError, match="language 'kin' is in no group; add it to l1"):
        build_experiment(experiment_data, "x").check_suites()


def test_groups_without_a_language_of_the_suite_are_refused(experiment_data):
    experiment_data["languages"] = {"l1": ["eng"], "l2": ["ind"]}
    refused(experiment_data, "nusaparagraph-topic", "no language is left to measure", "bew")
    experiment_data["languages"] = {"l1": ["ind"], "l2": ["jav"]}
    refused(experiment_data, "flores-translation", "no direction joins two of its languages (ind, jav)")


def test_a_file_of_the_users_own_by_path(experiment_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my-suite.yaml").write_text(OWN, encoding="utf-8")
    first, second = built(experiment_data, "my-suite.yaml", {"use": "my-suite.yaml", "name": "b", "test_limit": 3})
    assert (first.name, first.path, list(first.labels)) == ("my-suite", "reviews.csv", ["0", "1"])
    assert (second.name, second.test_limit) == ("b", 3)


def test_overrides_find_the_fields_of_a_named_suite(experiment_data, write_yaml):
    experiment_data["evaluate"]["suites"] = ["xnli", {"use": "nusax-sentiment", "languages": ["eng"]}]
    file = write_yaml(experiment_data)
    loaded = load_experiment(file, ["evaluate.suites.xnli.test_limit=5", "evaluate.suites.nusax-sentiment.limit=9"])
    assert [s.test_limit for s in loaded.evaluate.suites] == [5, None]
    assert loaded.evaluate.suites[1].limit == 9


def test_the_resolved_file_gives_the_same_suites(experiment_data, tmp_path):
    experiment_data["evaluate"]["suites"] = bundled_names()
    experiment_data["languages"] = {"l1": ["eng"], "l2": ["ind", "jav"]}
    experiment = build_experiment(experiment_data, "x")
    (tmp_path / "resolved.yaml").write_text(dump_yaml(experiment), encoding="utf-8")
    assert load_experiment(tmp_path / "resolved.yaml") == experiment


def test_files_are_not_changed_by_what_uses_them(experiment_data):
    before = expand_suites(["xnli"])
    built(experiment_data, {"use": "xnli", "languages": ["eng"]})
    assert expand_suites(["xnli"]) == before


def test_names_and_files_that_are_no_suite(experiment_data, tmp_path):
    refused(experiment_data, "nusax-sentimen", "evaluate.suites: 'nusax-sentimen'", "did you mean 'nusax-sentiment'?")
    refused(experiment_data, "qqq.yaml", "neither a bundled suite nor a YAML file", "bundled are afrixnli")
    refused(experiment_data, {"use": 3}, "use is 3")
    for text, part in (
        ("- 1\n", "contains no suite"),
        ("a: [\n", "cannot be read as YAML"),
        ("suites: []\n", "no suite"),
    ):
        (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
        refused(experiment_data, str(tmp_path / "bad.yaml"), part)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"prompts": [{"name": "p", "text": "How?"}]}, "prompt 'p': `text` lacks the slot {text}; put it where"),
        ({"prompts": [{"name": "p", "text": "{text} {tekst}"}]}, "unknown slot {tekst}; use {text}"),
        ({"prompts": [{"name": "p", "text": "{text}"}] * 2}, "the prompt name 'p' is used twice"),
        ({"prompts": [{"name": "p", "language": "ind", "text": "{text}"}]}, "label '0' has no word in 'ind'"),
        ({"prompt_languages": ["ind"]}, "no prompt is in ['ind']; the suite's are in eng"),
        ({"labels": {"0": {"eng": "bad"}}}, "labels"),
        ({"columns": {}}, "no language has a column"),
        ({"languages": ["sun"]}, "language 'sun' has no column; the suite has eng, jav"),
        ({"languages": []}, "no language is left"),
        ({"columns": {"eng": {"premise": "a", "hypothesis": "b"}, "jav": "c"}}, "other slots than premise, hypothesis"),
        ({"columns": {"eng": {"premise": "a", "hypothesis": "b"}}}, "lacks the slot {premise}"),
        ({"metric": "bleu"}, "metric is 'bleu'"),
    ],
)  # fmt: skip
def test_a_suite_that_is_wrong(experiment_data, change, part):
    refused(experiment_data, yaml.safe_load(OWN) | {"name": "own"} | change, part)


FLORES = {"name": "t", "path": "x.csv", "columns": {"eng": "e", "jav": "j", "ind": "i"}}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({}, "give exactly one of `directions` and `pivot`"),
        ({"pivot": "eng", "directions": [["eng", "jav"]]}, "give exactly one of"),
        ({"pivot": "sun"}, "language 'sun' has no column"),
        ({"directions": [["eng", "sun"]]}, "language 'sun' has no column"),
        ({"directions": [["eng", "jav"]], "languages": ["jav", "ind"]}, "no direction joins two of its languages"),
        ({"pivot": "eng", "columns": {"eng": {"a": "x", "b": "y"}}}, "takes one text per row"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["translation", "retrieval"])
def test_directions_that_are_wrong(experiment_data, kind, change, part):
    refused(experiment_data, FLORES | {"kind": kind} | change, part)


def test_translation_needs_its_slots_and_text_for_metrics_of_text(experiment_data):
    suite = FLORES | {"kind": "translation", "pivot": "eng"}
    refused(experiment_data, suite | {"prompt": "Translate."}, "lacks the slot {source}")
    refused(experiment_data, suite | {"metric": "chrf"}, "needs generated text; set generate: true")
    (short,) = built(experiment_data, suite | {"prompt": "To {target_language}: {source}"})
    assert [p.text for p in short.prompts] == ["To {target_language}: {source}"]
