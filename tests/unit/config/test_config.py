import copy

import pytest
import yaml

from ialign_ray.config import Experiment, build_experiment, dump_yaml, json_schema, load_experiment, override
from ialign_ray.errors import ConfigError
from ialign_ray.registry.store import registry_uri


def refused(data, *parts):
    with pytest.raises(ConfigError) as caught:
        build_experiment(data, "mine.yaml")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("mine.yaml", *parts):
        assert part in message


def test_a_valid_file_loads(experiment_data, write_yaml):
    experiment = load_experiment(write_yaml(experiment_data))
    assert experiment.name == "tiny"
    assert [c.name for c in experiment.corpora] == ["first", "second", "third"]
    assert experiment.replay.ratio == 0.25


@pytest.mark.parametrize(
    ("section", "key", "near"),
    [
        ("train", "learning_rat", "learning_rate"),
        ("model", "tunning", "tuning"),
        ("replay", "pool_sise", "pool_size"),
    ],
)
def test_an_unknown_key_names_the_near_one(experiment_data, section, key, near):
    experiment_data[section][key] = 1
    refused(experiment_data, f"unknown key {section}.{key}", f"did you mean '{near}'?")


def test_an_unknown_key_in_a_list_of_suites_names_the_near_one(experiment_data):
    experiment_data["evaluate"]["suites"][0]["lable"] = "x"
    refused(experiment_data, "unknown key evaluate.suites.0.lable", "did you mean 'label")


def test_an_unknown_key_far_from_all_is_told_to_go(experiment_data):
    experiment_data["zzzzzz"] = 1
    refused(experiment_data, "unknown key zzzzzz", "remove it")


def test_a_missing_field_is_named(experiment_data):
    del experiment_data["model"]["id"]
    refused(experiment_data, "model.id is missing")


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("replay", "ratio", 2),
        ("replay", "ratio", -0.1),
        ("train", "steps", 0),
        ("train", "learning_rate", "fast"),
        ("model", "tuning", "prefix"),
    ],
)
def test_a_wrong_value_is_named_with_field_and_file(experiment_data, section, field, value):
    experiment_data[section][field] = value
    refused(experiment_data, f"{section}.{field} is {value!r}")


def test_rank_zero_is_refused(experiment_data):
    experiment_data["model"]["lora"]["rank"] = 0
    refused(experiment_data, "model.lora.rank is 0", "Rank of the update")


def test_a_language_in_two_groups_is_refused(experiment_data):
    experiment_data["languages"]["l3"] = ["jav"]
    refused(experiment_data, "languages", "'jav' is in both l2 and l3")


def test_more_workers_than_examples_are_refused(experiment_data):
    experiment_data["scaling"] = {"workers": 5}
    refused(experiment_data, "scaling.workers is 5", "only 4 examples")
    experiment_data["scaling"] = {"workers": 4}
    assert build_experiment(experiment_data, "x").scaling.workers == 4


def test_a_ratio_above_zero_needs_sources(experiment_data):
    experiment_data["replay"]["sources"] = []
    refused(experiment_data, "replay", "`sources` is empty")
    experiment_data["replay"]["ratio"] = 0
    assert build_experiment(experiment_data, "x").replay.ratio == 0


def test_a_name_used_twice_is_refused(experiment_data):
    experiment_data["corpora"][1]["name"] = "first"
    refused(experiment_data, "corpora: the name 'first' is used twice")


def test_a_corpus_name_with_a_colon_is_refused(experiment_data):
    """The name is the part of a row id before the first colon."""
    experiment_data["corpora"][0]["name"] = "a:b"
    refused(experiment_data, "corpora.0.name is 'a:b'")


def test_a_pivot_without_column_is_refused(experiment_data):
    experiment_data["corpora"][0]["pivots"] = ["fra"]
    refused(experiment_data, "corpora.0", "pivot 'fra' has no column")


def test_an_unknown_mix_is_refused(experiment_data):
    experiment_data["tasks"]["mix"] = "soup"
    refused(experiment_data, "tasks.mix", "'soup'", "tlm")


def test_set_overrides_nested_fields_lists_and_yaml_values(experiment_data, write_yaml):
    experiment = load_experiment(
        write_yaml(experiment_data),
        [
            "train.steps=7",
            "model.lora.targets=[q_proj, v_proj]",
            "model.lora.alpha=null",
            "corpora.0.limit=3",
            "corpora.second.holdout=0.5",
            "evaluate.suites.mood.test_limit=2",
            "tasks.mix={mt: 1, tlm: 3}",
            "scaling.gpu=false",
            "compare.seeds=[0, 1]",
        ],
    )
    assert experiment.train.steps == 7
    assert experiment.model.lora.targets == ["q_proj", "v_proj"]
    assert experiment.model.lora.alpha is None
    assert [c.limit for c in experiment.corpora] == [3, None, None]
    assert [c.holdout for c in experiment.corpora] == [0, 0.5, 0]
    assert experiment.evaluate.suites[0].test_limit == 2
    assert experiment.tasks.mix == {"mt": 1, "tlm": 3}
    assert experiment.scaling.gpu is False
    assert experiment.compare.seeds == [0, 1]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("name.x=1", "name is a plain value and has no field 'x'"),
        ("train.steps.x=1", "train.steps is a plain value and has no field 'x'"),
        ("train.steps", "not of the form"),
        ("=3", "not of the form"),
        ("corpora.nine.limit=3", "no item 'nine'"),
        ("corpora.7.limit=3", "no item '7'"),
        ("train.steps=[1", "not valid YAML"),
        ("train.stepz=1", "did you mean 'steps'?"),
    ],
)
def test_a_wrong_override_is_refused(experiment_data, write_yaml, change, part):
    with pytest.raises(ConfigError) as caught:
        load_experiment(write_yaml(experiment_data), [change])
    assert part in str(caught.value)


def test_resolved_yaml_loads_as_an_equal_experiment(experiment_data, tmp_path):
    experiment_data["languages"]["names"] = {"qci": {"eng": "Cipher", "ind": "Sandi"}}
    experiment_data["evaluate"]["suites"] += [
        {
            "kind": "translation",
            "name": "mt",
            "path": "x.csv",
            "columns": {"eng": "eng", "ind": "ind"},
            "directions": [["eng", "ind"]],
        },
        {"kind": "instructions", "name": "old", "path": "y.jsonl", "where": {"n": [1, 2], "s": "ä"}},
    ]
    experiment = build_experiment(experiment_data, "x")
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_yaml(experiment), encoding="utf-8")
    assert load_experiment(path) == experiment


def test_every_field_of_the_schema_has_a_description():
    schema = json_schema()
    models = {"Experiment": schema, **schema["$defs"]}
    fields = {(m, f): p for m, body in models.items() for f, p in body.get("properties", {}).items()}
    assert len(fields) > 70
    assert [k for k, p in fields.items() if not p.get("description")] == []


def test_the_paper_preset_fills_what_is_left_out(experiment_data):
    experiment_data["preset"] = "paper"
    experiment_data["train"] = {"steps": 9}
    experiment_data["tasks"] = {}
    experiment_data["replay"].pop("ratio")
    experiment = build_experiment(experiment_data, "x")
    assert (experiment.train.steps, experiment.train.batch_size, experiment.train.learning_rate) == (9, 32, 1e-5)
    assert (experiment.model.tuning, experiment.model.precision) == ("full", "bf16")
    assert (experiment.replay.ratio, experiment.replay.pool_size) == (0.5, 100_000)
    assert experiment.tasks.mix == "tlm"


def test_own_values_win_over_the_preset(experiment_data):
    experiment_data["preset"] = "paper"
    experiment_data["model"] |= {"tuning": "lora", "precision": "fp32"}
    experiment = build_experiment(experiment_data, "x")
    assert (experiment.model.tuning, experiment.model.precision) == ("lora", "fp32")
    assert (experiment.replay.ratio, experiment.tasks.mix) == (0.25, "random-xss")
    assert build_experiment(dict(experiment_data, preset=None), "x").replay.pool_size is None


def test_arms_are_overrides_of_a_valid_experiment(experiment_data):
    before = copy.deepcopy(experiment_data)
    base = build_experiment(experiment_data, "x")
    for arm, ratio in (("control", 1.0), ("ratio-0", 0.0), ("ratio-0.5", 0.5)):
        changed = override(base, base.compare.arms[arm])
        assert changed.replay.ratio == ratio
        assert changed.train == base.train
    assert base.replay.ratio == 0.25
    assert experiment_data == before
    with pytest.raises(ConfigError, match=r"replay\.ratio is 3"):
        override(base, {"replay.ratio": 3})


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    (tmp_path / "bad.yaml").write_text("name: a\nmodel:\n  id: [x\ntrain: 3\n", encoding="utf-8")
    (tmp_path / "list.yaml").write_text("- 1\n", encoding="utf-8")
    (tmp_path / "empty.yaml").write_text("", encoding="utf-8")
    for name, part in {
        "none.yaml": "does not exist",
        ".": "is a folder",
        "latin.yaml": "is not UTF-8 (byte 9)",
        "bad.yaml": "at line 4",
        "list.yaml": "contains no sections",
        "empty.yaml": "contains no sections",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load_experiment(tmp_path / name)
        assert part in str(caught.value)
        assert str(tmp_path) in str(caught.value)


TWICE = {
    "a section": ("name: x\ntrain: {steps: 5}\nmodel: {id: m}\ntrain: {learning_rate: 1.0e-4}\n", "'train'", "2 and 4"),
    "a language": ("name: x\ncorpora:\n- {name: c, columns: {eng: en, jav: jv,\n   jav: jw}}\n", "'jav'", "3 and 4"),
    "in quotes": ("name: x\n'name': y\n", "'name'", "1 and 2"),
}


@pytest.mark.parametrize("case", TWICE)
def test_a_key_that_occurs_twice_is_refused_with_both_lines(tmp_path, case):
    text, key, lines = TWICE[case]
    (tmp_path / "e.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{key} is given twice, at lines {lines}"):
        load_experiment(tmp_path / "e.yaml")


def test_merged_keys_may_be_overridden(experiment_data, tmp_path):
    text = yaml.safe_dump(experiment_data | {"train": {"steps": 5, "batch_size": 4}}).replace("train:", "train: &t")
    (tmp_path / "e.yaml").write_text(text.replace("train: &t", "train:\n  <<: {steps: 9, batch_size: 8}"))
    assert load_experiment(tmp_path / "e.yaml").train.steps == 5


@pytest.mark.parametrize("targets", ["q_proj", ["q_proj"]])
def test_one_target_is_a_list_of_it(experiment_data, targets):
    experiment_data["model"]["lora"] = {"targets": targets}
    assert build_experiment(experiment_data, "x").model.lora.targets == ["q_proj"]
    with pytest.raises(ConfigError, match="targets"):
        build_experiment(experiment_data | {"model": {"id": "m", "lora": {"targets": []}}}, "x")


def test_labels_of_one_word_are_refused(experiment_data):
    mood = {"kind": "classification", "name": "mood", "path": "a.csv", "columns": {"jav": "jav"}}
    mood |= {"labels": {"a": {"eng": "good"}, "b": {"eng": "good "}}, "prompts": [{"name": "p", "text": "{text}"}]}
    with pytest.raises(ConfigError, match="two labels are 'good'"):
        build_experiment(experiment_data | {"evaluate": {"suites": [mood]}}, "x")
    mood["labels"]["b"] = {"eng": "good enough"}
    assert build_experiment(experiment_data | {"evaluate": {"suites": [mood]}}, "x")


def test_sections_are_frozen(experiment_data):
    experiment = build_experiment(experiment_data, "x")
    assert isinstance(experiment, Experiment)
    with pytest.raises(ValueError, match="frozen"):
        experiment.train.steps = 3


def test_every_style_of_code_gives_the_same_experiment(experiment_data):
    """All places that hold a language code, in BCP-47 and FLORES style, against ISO 639-3."""

    def fill(eng, ind, jav):
        data = copy.deepcopy(experiment_data)
        data["languages"] = {
            "l1": [eng],
            "l2": [ind, jav],
            "l3": ["qci"],
            "names": {"qci": {eng: "Cipher", ind: "Sandi"}},
        }
        for corpus in data["corpora"]:
            corpus |= {"columns": {eng: "eng", ind: "ind", jav: "jav"}, "pivots": [eng]}
        data["corpora"][0] |= {
            "columns": {}, "long": {"language": "l", "text": "t", "join": "j", "values": {eng: "e", jav: "j"}}
        }  # fmt: skip
        mood = data["evaluate"]["suites"][0]
        mood |= {"columns": {jav: "jav"}, "labels": {"bad": {ind: "buruk"}, "good": {ind: "baik"}}}
        mood["prompts"][0]["language"] = ind
        data["evaluate"]["suites"].append(
            {
                "kind": "translation",
                "name": "mt",
                "path": "x",
                "columns": {eng: "a", ind: "b"},
                "directions": [[eng, ind]],
            }
        )
        return build_experiment(data, "x")

    plain = fill("eng", "ind", "jav")
    assert fill("en-US", "id", "jav_Latn") == fill("en", "ind_Latn", "jv") == plain
    assert list(plain.corpora[1].columns) == ["eng", "ind", "jav"]
    assert fill("eng", "ind", "jav_Java").languages.l2 == ["ind", "jav_Java"]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"columns": {"en": "a", "eng": "b"}}, "columns: 'en' and 'eng' are the same language (eng); keep one"),
        ({"columns": {"english": "a"}}, "corpora.0.columns: language code 'english' is not known; use ISO 639-3"),
        ({"columns": {"jav_Ltin": "a"}}, "corpora.0.columns: language code 'jav_Ltin' has no known script"),
        ({"columns": {False: "a"}}, "corpora.0.columns: an unquoted no, yes, on or off is False to YAML; quote it"),
        ({"columns": {7: "a"}}, "corpora.0.columns: 7 is not a language code"),
        ({"pivots": ["en", "eng"]}, "corpora.0.pivots: language 'eng' is listed twice"),
        ({"pivots": ["fr"]}, "pivot 'fra' has no column"),
    ],
)  # fmt: skip
def test_codes_of_a_corpus_that_are_wrong(experiment_data, change, part):
    experiment_data["corpora"][0] |= change
    refused(experiment_data, part)


def test_codes_of_groups_names_and_suites_that_are_wrong(experiment_data):
    for path, value, part in (
        (("languages", "l1"), ["en", "eng"], "languages.l1: language 'eng' is listed twice"),
        (("languages", "l3"), [False], "languages.l3.0: an unquoted no"),
        (("languages", "l3"), ["jv"], "'jav' is in both l2 and l3"),
        (("languages", "names"), {"qci": {"en": "a", "eng": "b"}}, "languages.names.qci: 'en' and 'eng' are the same"),
        (
            ("evaluate", "suites", 0, "labels", "bad"),
            {"en": "a", "eng": "b"},
            "labels.bad: 'en' and 'eng' are",
        ),
        (("evaluate", "suites", 0, "columns"), {"id": "a", "ind": "b"}, "columns: 'id' and 'ind' are the same"),
        (("evaluate", "suites", 0, "prompts", 0, "language"), "english", "prompts.0.language: language code 'english'"),
    ):
        data = copy.deepcopy(experiment_data)
        node = data
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        refused(data, part)


def test_a_model_folder_is_known_by_its_absolute_path(experiment_data, tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    experiment_data["model"]["id"] = "base"
    assert build_experiment(experiment_data, "e.yaml").model.id == str(tmp_path / "base")
    experiment_data["model"]["id"] = "owner/base"
    assert build_experiment(experiment_data, "e.yaml").model.id == "owner/base"


def test_runs_are_logged_and_registered_where_they_are_served_from(experiment_data, tmp_path, monkeypatch):
    """The environment before the file, as for `--registry`; a folder of runs stands for the database in it."""
    experiment_data["storage"]["runs"] = str(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert build_experiment(experiment_data, "x").tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    experiment_data["tracking"] = {"mlflow_uri": "https://of-the-file"}
    assert build_experiment(experiment_data, "x").tracking_uri == "https://of-the-file"
    for named in ("https://of-the-environment", str(tmp_path / "elsewhere")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", named)
        assert build_experiment(experiment_data, "x").tracking_uri == registry_uri(named)
