"""Versions with a context: stored whole, judged by the same gate, refused if they cannot be what was judged."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from libraries import serving
from runs import BEST, STRENGTHS, WEAK, chosen, small_experiment

from ialign_ray.config import dump_yaml, override
from ialign_ray.errors import IalignError, RegistryError
from ialign_ray.evaluation.scoring.context_suites import contexted_units
from ialign_ray.evaluation.scoring.predictions import row_keys
from ialign_ray.evaluation.scoring.worker import store_of
from ialign_ray.evaluation.subjects import base_subject, run_subject
from ialign_ray.incontext.stored import read_context
from ialign_ray.registry.decisions import PROMOTED, REFUSED, head
from ialign_ray.registry.evidence import GateReferences, decide
from ialign_ray.registry.promotion import promote, register, roll_back
from ialign_ray.registry.reference import resolve
from ialign_ray.registry.run_evidence import evidence
from ialign_ray.workflows.promote import register as register_run

CONTEXTS = [
    {"name": "icl", "exemplars": {"k": 2}},
    {"name": "weak", "exemplars": {"k": 1}},
    {"name": "permuted", "exemplars": {"labels": "permuted"}},
]


@pytest.fixture(scope="module")
def prompted(library, tiny_model_folder):
    """The folder of an `ialign icl` next to the library's runs, and its experiment."""
    contexts = {"evaluate.contexts": CONTEXTS}
    experiment = override(small_experiment(library, tiny_model_folder), contexts)
    run = library / "runs" / "small" / "icl"
    (run / "report").mkdir(parents=True)
    (run / "report" / "experiment.yaml").write_text(dump_yaml(experiment), encoding="utf-8")
    good = run_subject(experiment, library / "runs" / "small" / "good")
    for subject, name, strength in (
        (base_subject(experiment), "icl", "best"),
        (base_subject(experiment), "weak", "weak"),
        (good, "icl", "best"),
    ):
        predict(experiment, subject, name, STRENGTHS[strength])
    return run, experiment


def predict(experiment, subject, name, strength):
    for unit in contexted_units(experiment, [name]):
        frame = chosen(unit.rows, unit.prompt, strength, noise=9)
        store_of(replace(subject, context=name), unit).write(row_keys(unit.rows), frame)


def add(registry, prompted, name="icl", **more):
    return register(registry, prompted[0], "mine", context=name, **more)


def refusal(call, *arguments, **named):
    with pytest.raises(IalignError) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_context_replaces_an_adapter(registry, prompted):
    promote(registry, "mine", WEAK)
    version, new = add(registry, prompted)
    assert new
    moved = promote(registry, "mine", version.number)
    assert (moved.event.kind, moved.event.before) == (PROMOTED, WEAK)
    assert any("against mine/1" in line for line in moved.event.told)
    assert any("against control" in line for line in moved.event.told)  # that of the champion
    assert registry.aliases("mine")["champion"] == version.number
    assert "is not promoted over" in refusal(promote, registry, "mine", WEAK)
    assert roll_back(registry, "mine").version.number == WEAK


def test_an_adapter_replaces_a_context(registry, prompted):
    promote(registry, "mine", WEAK)
    weak, _ = add(registry, prompted, "weak")
    assert "not promoted over mine/1" in refusal(promote, registry, "mine", weak.number)
    assert head(registry, "mine", "champion").events[-1].kind == REFUSED
    promote(registry, "mine", weak.number, force="to be replaced")
    moved = promote(registry, "mine", BEST)
    assert (moved.event.kind, moved.event.before) == (PROMOTED, weak.number)


def test_a_version_of_a_context_has_no_weights_and_all_of_its_evidence(registry, prompted, library):
    version, _ = add(registry, prompted)
    folder = registry.fetch(version)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names >= {"context/context.json", "context/exemplars.parquet", "predictions/version/mood.parquet"}
    assert not (folder / "model").exists()
    kept = read_context(folder / "context")
    assert kept.name == "icl"
    assert {e.language for e in kept.pools["mood"].exemplars} == {"eng", "ind", "jav"}
    assert (version.tags["tuning"], version.tags["context"]) == ("none", "icl")
    assert add(registry, prompted) == (version, False)
    assert "has no weights" in refusal(resolve, version.title, registry)
    assert "exemplars of mood" in (folder / "README.md").read_text()


def test_a_base_with_a_context_needs_no_control_of_training(registry, prompted):
    version, _ = add(registry, prompted)
    own = evidence(registry.fetch(version), version.title)
    decision = decide(own["version"], GateReferences(own["base"], None))
    assert decision.accepted
    trained = replace(own["version"], trained=True)
    assert not decide(trained, GateReferences(own["base"], None)).accepted


@pytest.mark.slow
def test_an_adapter_with_a_context_is_a_third_kind(registry, prompted, library):
    run, experiment = library / "runs" / "small" / "good", prompted[1]
    version, new = register(registry, run, "mine", experiment, context="icl")
    assert new
    folder = registry.fetch(version)
    assert (folder / "model" / "adapter_config.json").exists()
    assert (folder / "context" / "context.json").exists()
    assert version.tags["model"] != registry.version("mine", 2).tags["model"]
    promote(registry, "mine", WEAK)
    assert promote(registry, "mine", version.number).event.kind == PROMOTED


@pytest.mark.slow
def test_each_context_of_a_table_is_an_attempt(registry, prompted):
    first, _ = add(registry, prompted)
    promote(registry, "mine", first.number)
    event = head(registry, "mine", "champion").events[-1]
    # four adapters, and the three contexts of the table
    assert event.attempt == len(STRENGTHS) + len(CONTEXTS)
    weak, _ = add(registry, prompted, "weak")
    refusal(promote, registry, "mine", weak.number)
    assert head(registry, "mine", "champion").events[-1].attempt == event.attempt


@pytest.mark.parametrize(
    ("name", "said"), [("icl-k9", "evaluate.contexts has no 'icl-k9'"), ("permuted", "permuted labels")]
)
def test_contexts_that_cannot_be_registered(registry, prompted, name, said):
    assert said in refusal(add, registry, prompted, name)


def test_a_context_without_predictions_is_refused(registry, prompted, tmp_path):
    other = override(prompted[1], {"evaluate.contexts": [{"name": "new", "exemplars": {"k": 3}}]})
    assert "lacks 360 predictions of mood" in refusal(add, registry, prompted, "new", evaluated=other)
    (tmp_path / "nothing").mkdir()
    assert "ialign icl" in refusal(register, registry, tmp_path / "nothing", "mine", context="icl")


def test_a_damaged_pool_is_refused(registry, prompted):
    version, _ = add(registry, prompted)
    artifacts = registry.call("get_run", version.run_id).info.artifact_uri.removeprefix("file://")
    pool = Path(artifacts) / "version" / "context" / "exemplars.parquet"
    whole = pool.read_bytes()
    pool.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        assert "context/exemplars.parquet is missing or does not match" in refusal(
            promote, registry, "mine", version.number, force="please"
        )
    finally:
        pool.write_bytes(whole)


def test_the_command_registers_a_context(registry, prompted, ialign, tmp_path):
    where = str(tmp_path / "runs")
    code, out, _ = ialign("register", prompted[0], "--context", "icl", "--name", "mine", "--registry", where)
    assert code == 0
    assert "mine/5: registered" in out
    assert register_run(prompted[0], "mine", context="icl", registry=where).new is False
    code, _, err = ialign("promote", "mine", "5", "--context", "icl", "--registry", where)
    assert code == 2
    assert "--context" in err
    with pytest.raises(RegistryError):
        resolve("mine/5", registry)


@pytest.mark.slow
def test_a_champion_with_a_context_is_served_with_it(registry, prompted):
    version, _ = add(registry, prompted)
    promote(registry, "mine", version.number, force="served")

    async def story():
        async with serving(registry) as shelf, shelf.lease("champion") as served, shelf.lease("base") as base:
            assert (served.id, served.adapter, served.context.name) == (version.title, None, "icl")
            assert base.context is None
            assert served.engine is base.engine
            assert shelf.infos()[0].details["context"]["name"] == "icl"

    asyncio.run(story())
