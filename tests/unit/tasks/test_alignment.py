"""Alignment tasks of one's own, and template sets that lack a task."""

from dataclasses import replace

import pyarrow as pa
import pytest
import yaml

from ialign_ray.config import build_experiment
from ialign_ray.corpus.identity import rng
from ialign_ray.corpus.pairs import PAIR_SCHEMA
from ialign_ray.errors import ConfigError
from ialign_ray.plugins import Extensible
from ialign_ray.tasks import alignment, render, templating
from ialign_ray.tasks.alignment import TASKS, AlignmentTask, TaskDraw
from ialign_ray.tasks.negatives import Negatives, Pair
from ialign_ray.tasks.plan import Plan
from ialign_ray.tasks.templating import experiment_templates, load_templates
from ialign_ray.tokens import cache

MT = [{"id": "t-1", "input": "{source_language} - {target_language}: {source}"}]
PAIR = Pair("c:1:eng-jav", "eng", "jav", "One cat sleeps.", "Kucing siji turu.")


def first_word(pair, random, context):
    words = pair.source.split()
    if len(words) < 2:
        return None
    return TaskDraw({"rest": " ".join(words[1:])}, {"spoken": pair.source_language}, words[0])


CLOZE = AlignmentTask(("rest",), ("spoken",), first_word, templates={"eng": {"c-1": "First {spoken} word? {rest}"}})


@pytest.fixture
def add(monkeypatch):
    """Adds tasks to the table, as an installed package does."""

    def make(**tasks):
        table = Extensible(TASKS.group, AlignmentTask, {**TASKS.builtin, **tasks})
        for module in (alignment, render, templating, cache):
            monkeypatch.setattr(module, "TASKS", table)

    return make


@pytest.fixture
def experiment(experiment_data, tmp_path):
    """Builds an experiment with this mix and template sets; a mapping becomes a file."""

    def make(mix, *sets, **changes):
        names = []
        for number, one in enumerate(sets):
            names.append(one)
            if not isinstance(one, str):
                path = tmp_path / f"set{number}.yaml"
                head = {"name": f"own{number}", "language": "eng", "answers": {True: "Y", False: "N"}}
                path.write_text(yaml.safe_dump(head | one), encoding="utf-8")
                names[-1] = str(path)
        return build_experiment(experiment_data | {"tasks": {"mix": mix, "templates": names}} | changes, "x")

    return make


def drawn(task, sets, pair=PAIR):
    return render.render(
        task, pair, rng=rng(1), templates=sets, names=lambda code, language: code.upper(), negatives=Negatives({})
    )


def test_a_task_of_ones_own_is_drawn_with_its_default_templates(add, experiment, tmp_path):
    add(cloze=CLOZE)
    sets = experiment_templates(experiment({"cloze": 1, "mt": 1}, "eng"))
    example = drawn("cloze", sets)
    assert (example.prompt, example.target) == ("First ENG word? cat sleeps.", "One")
    assert [example.prompt[a:b] for a, b in example.spans] == ["cat sleeps."]
    assert (example.task, example.template) == ("cloze", "eng/c-1")
    assert drawn("cloze", sets, replace(PAIR, source="Cat")).task == "mt"
    # what was drawn in training is drawn from its folder, whatever the defaults are by then
    pairs = pa.Table.from_pylist([vars(PAIR)], schema=PAIR_SCHEMA)
    names = {"eng": {"eng": "English", "jav": "Javanese"}}
    plan = Plan(0, 0.0, {"cloze": 1.0}, sets, names, frozenset(["eng"]), pairs, pa.table({}))
    plan.save(tmp_path / "plan")
    add(cloze=replace(CLOZE, templates={}))
    assert [Plan.load(tmp_path / "plan").draw(i) for i in range(3)] == [plan.draw(i) for i in range(3)]


def test_a_sets_own_templates_come_before_the_defaults(add, experiment):
    add(cloze=CLOZE)
    own = {"mt": MT, "cloze": [{"id": "mine", "input": "{rest}: {spoken}?"}]}
    assert drawn("cloze", experiment_templates(experiment({"cloze": 1}, own))).template == "own0/mine"


def test_a_plug_in_that_no_mix_uses_leaves_the_sets_as_they_are(add, experiment):
    add(cloze=CLOZE)
    assert experiment_templates(experiment("pair", "eng", "ind")) == [load_templates("eng"), load_templates("ind")]


def test_a_set_that_lacks_a_task_is_refused_only_where_the_mix_uses_it(add, experiment):
    add(cloze=CLOZE)
    assert list(experiment_templates(experiment("mt", {"mt": MT}))[0].tasks) == ["mt"]
    assert experiment_templates(experiment({"mt": 1, "xss": 0}, {"mt": MT}))
    for mix, task in (("pair", "tlm"), ({"mt": 1, "xss": 0.1}, "xss")):
        with pytest.raises(ConfigError, match=rf"tasks\.mix.*'{task}'.*set0\.yaml"):
            experiment_templates(experiment(mix, {"mt": MT}))
    with pytest.raises(ConfigError, match=r"tasks\.mix.*'cloze'.*ind"):
        experiment_templates(experiment({"cloze": 1}, "eng", "ind"))


def test_a_set_without_translation_cannot_take_what_other_tasks_leave(experiment):
    mlm = [{"id": "m", "input": "{source}"}]
    with pytest.raises(ConfigError, match=r"tasks\.mix.*'mt'.*set0\.yaml"):
        experiment_templates(experiment("mlm", {"mlm": mlm}))


@pytest.mark.parametrize("weight", [0, 1])
def test_an_unknown_task_is_refused_before_anything_is_read(experiment, weight):
    with pytest.raises(ConfigError, match=r"tasks\.mix is 'soup'.*mlm, tlm, mt, xss"):
        experiment_templates(experiment({"mt": 1, "soup": weight}, "eng"))


@pytest.mark.parametrize(
    "space", [{"tasks.mix": {"choice": ["mt", {"cloze": 1}]}}, {"tasks.mix.cloze": {"uniform": [0, 1]}}]
)
def test_the_mixes_of_a_search_have_their_templates(add, experiment, space):
    add(cloze=CLOZE)
    searched = experiment({"mt": 1}, "eng", search={"space": space})
    assert "cloze" in experiment_templates(searched)[0].tasks


def test_a_broken_task_is_one_sentence(add, experiment):
    add(cloze=replace(CLOZE, draw=lambda pair, random, context: TaskDraw({}, {}, "x")))
    with pytest.raises(ConfigError, match=r"tasks\.mix: task 'cloze' .*c-1"):
        drawn("cloze", experiment_templates(experiment({"cloze": 1}, "eng")))
    add(cloze=replace(CLOZE, templates={"eng": {"c-1": "no slot"}}))
    with pytest.raises(ConfigError, match=r"eng.*'c-1' \(cloze\).*\{rest\}"):
        experiment_templates(experiment({"cloze": 1}, "eng"))
