import copy

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ialign_ray.errors import ConfigError, DataError
from ialign_ray.tasks.alignment import TASKS
from ialign_ray.tasks.templating import TemplateSet, fill, load_templates

OWN = {
    "name": "own",
    "language": "jav",
    "answers": {True: "Iya", False: "Ora"},
    "mlm": [{"id": "mlm-1", "input": "Dandani: {source}"}],
    "tlm": [{"id": "tlm-1", "input": "{context}\n{source}"}],
    "mt": [{"id": "mt-1", "input": "{source_language} - {target_language}: {source}"}],
    "xss": [{"id": "xss-1", "input": "{first} = {second}?"}],
}


def write(tmp_path, data):
    file = tmp_path / "own.yaml"
    file.write_text(data if isinstance(data, str) else yaml.safe_dump(data), encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(("name", "yes", "no"), [("eng", "Yes", "No"), ("ind", "Ya", "Tidak")])
def test_bundled_sets(name, yes, no):
    found = load_templates(name)
    assert (found.name, found.language, found.answers) == (name, name, {True: yes, False: no})
    for task in TASKS:
        templates = found.tasks[task]
        assert len({t.input for t in templates}) == 6
        full = [t for t in templates if all(f"{{{slot}}}" in t.input for slot in TASKS[task].name_slots)]
        assert 2 <= len(full) <= 4, "about half of the templates name every language"
        if task == "xss":
            assert all(yes in t.input and no in t.input for t in templates)


def test_indonesian_names_follow_the_word_bahasa():
    for task in TASKS:
        for template in load_templates("ind").tasks[task]:
            for slot in TASKS[task].name_slots:
                text = template.input.lower()
                assert text.count(f"{{{slot}}}") == text.count(f"bahasa {{{slot}}}")


def test_a_file_of_the_same_shape_by_path(tmp_path):
    found = load_templates(write(tmp_path, OWN))
    assert found.name == "own"
    assert found.tasks["mt"][0].id == "mt-1"
    saved = found.model_dump(mode="json")
    assert saved == OWN | {"answers": {"true": "Iya", "false": "Ora"}}, "plans of earlier runs hold this shape"
    assert TemplateSet.model_validate(saved) == found


def test_a_set_may_lack_a_task(tmp_path):
    found = load_templates(write(tmp_path, {k: v for k, v in OWN.items() if k != "xss"}))
    assert list(found.tasks) == ["mlm", "mt", "tlm"]


def broken(**change):
    data = copy.deepcopy(OWN)
    data.update(change)
    return data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (broken(mt=[{"id": "mt-9", "input": "Translate."}]), ["mt-9", "{source}", "exactly once"]),
        (broken(mlm=[{"id": "m", "input": "{source} {source}"}]), ["'m'", "{source}", "exactly once"]),
        (broken(tlm=[{"id": "t", "input": "{source}"}]), ["'t'", "{context}"]),
        (broken(xss=[{"id": "x", "input": "{first} {second} {source}"}]), ["'x'", "unknown slot {source}"]),
        (broken(mt=[{"id": "m", "input": "{source} {source-language}"}]), ["unknown slot {source-language}"]),
        (broken(mlm=[{"id": "m", "input": "{source} {target_language}"}]), ["{target_language}", "{language}"]),
        (broken(xss=[{"id": "mt-1", "input": "{first} {second}"}]), ["'mt-1'", "used twice"]),
        (broken(mt=[{"id": "m", "input": "{source}", "targets": "?"}]), ["unknown key mt.0.targets"]),
        (broken(answers={True: True, False: False}), ["answers", "quotes"]),
        (broken(answers={True: "Iya"}), ["answers", "true and false"]),
        (broken(mt=[]), ["mt is []"]),
        (broken(mtl=OWN["mt"]), ["'mtl'", "mlm, tlm, mt, xss"]),
        (broken(tasks={"mt": OWN["mt"]}), ["tasks"]),
        ({k: v for k, v in OWN.items() if k != "language"}, ["language is missing"]),
        ("", ["the file is None"]),
        ("a: [", ["YAML"]),
    ],
)
def test_a_bad_file_gets_one_sentence(tmp_path, data, words):
    with pytest.raises(ConfigError) as error:
        load_templates(write(tmp_path, data))
    for word in [*words, "own.yaml"]:
        assert word in str(error.value)


def test_an_unknown_name_lists_the_bundled_ones():
    with pytest.raises(ConfigError, match=r"tasks\.templates: 'english'.*eng, ind"):
        load_templates("english")


@given(
    st.sampled_from([(task, k) for task in TASKS for k in range(6)]),
    st.text(max_size=20) | st.sampled_from(["{source}", "{target_language} {context}", "{first}{second}", "{}"]),
    st.text(max_size=20) | st.sampled_from(["{second}", "{language}", "\\1", "{{source}}"]),
)
def test_spans_are_the_sentences_whatever_they_say(which, one, two):
    task, k = which
    template = load_templates("eng").tasks[task][k].input
    sentences = dict(zip(TASKS[task].text_slots, (one, two)))
    names = {slot: f"<{slot}>" for slot in TASKS[task].name_slots}
    text, spans = fill(template, sentences, names)
    order = sorted(sentences, key=lambda slot: template.index(f"{{{slot}}}"))
    assert [text[a:b] for a, b in spans] == [sentences[slot] for slot in order]
    # outside of the sentences stands the instruction, word for word
    outside, at = [], 0
    for a, b in spans:
        outside.append(text[at:a])
        at = b
    expected = template
    for slot, name in names.items():
        expected = expected.replace(f"{{{slot}}}", name)
    for slot in sentences:
        expected = expected.replace(f"{{{slot}}}", "\0")
    assert "\0".join([*outside, text[at:]]) == expected


def test_a_filled_text_is_counted_before_it_is_made():
    sentence = "x" * 1_000_000
    with pytest.raises(DataError, match="more than 10,000,000 characters"):
        fill("{source}" * 4000, {"source": sentence})


@pytest.mark.parametrize("slot", ["0", "source.x", "source!r", "source:>99999999", "other"])
def test_an_unknown_slot_is_an_error_that_names_it(slot):
    with pytest.raises(DataError, match="no text for the slot"):
        fill(f"{{source}} {{{slot}}}", {"source": "a"})


def test_a_slot_of_a_megabyte_is_found_in_time():
    for text in ("{" * 1_000_000, "{" + " " * 1_000_000 + '"}', "{" + "a" * 1_000_000 + " " * 1_000_000 + "-}"):
        assert fill(text, {})[0] == text
