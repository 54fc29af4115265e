"""Names and memory of what is served, on a real registry with a real engine."""

import asyncio
import shutil
from contextlib import AsyncExitStack

import pytest
from libraries import OPENED, ask, expected, kinds, of_base, of_run, serving, text_of
from runs import BEST, FORGETFUL, GOOD, WEAK, make_run, small_experiment

from ialign_ray.config import ModelSettings, override
from ialign_ray.errors import ConfigError, ModelError, RegistryError
from ialign_ray.registry.promotion import promote, register
from ialign_ray.serving import model_pool
from ialign_ray.serving.model_sources import ModelSource, Named, bases
from ialign_ray.serving.protocol import UnknownModelError
from ialign_ray.training.runs import MODEL
from ialign_ray.workflows.export import export_model

pytestmark = pytest.mark.slow

SIZES = (("small", 0.9), ("large", 1.6))


# --- names


def test_champion_base_and_every_version_can_be_asked(registry, library, tiny_model_folder):
    promote(registry, "mine", GOOD)

    async def story():
        async with serving(registry) as shelf:
            assert kinds(shelf) == {
                "champion": ("mine/2", "adapter"),
                "base": ("base", "base"),
                **{f"mine/{n}": (f"mine/{n}", "adapter") for n in (WEAK, GOOD, BEST, FORGETFUL)},
            }
            assert await ask(shelf, "champion") == await ask(shelf) == ("mine/2", expected(library, "good"))
            assert await ask(shelf, "mine/3") == ("mine/3", expected(library, "best"))
            assert await ask(shelf, "base") == ("base", of_base(tiny_model_folder))
            assert len({(await ask(shelf, n))[1] for n in ("base", "mine/2", "mine/3")}) == 3
        assert len(OPENED) == 1
        assert not OPENED[0]._worker.is_alive()

    asyncio.run(story())


def test_a_card_tells_languages_dose_and_scores(registry):
    promote(registry, "mine", GOOD)

    async def story():
        async with serving(registry) as shelf:
            best = next(info for info in shelf.infos() if info.name == "mine/3")
            assert "by_language" not in best.details  # its files are not here yet
            await ask(shelf, "mine/3")
            best = next(info for info in shelf.infos() if info.name == "mine/3")
            assert len(best.details["by_language"]) == 3
            return shelf.infos()[0]

    info = asyncio.run(story())
    assert info.details["languages"] == {"L1": ["eng"], "L2": ["ind", "jav"], "L3": []}
    assert (info.details["dose"], info.details["base"], info.details["run"]) == ("0", "tiny", "good")
    assert info.details["scores"][0]["low"] < info.details["scores"][0]["value"]
    table = {row["language"]: row for row in info.details["by_language"]}
    assert set(table) == {"eng", "ind", "jav"}
    assert table["jav"]["n"] == 120
    assert table["jav"]["base"]["high"] < table["jav"]["version"]["low"]
    assert (table["jav"]["title"], table["jav"]["lower_is_better"]) == ("F1", False)
    groups = {row["scope"]: row for row in info.details["by_group"]}
    assert set(groups) == {"group:L1", "group:L2"}
    assert groups["group:L2"]["version"]["value"] == info.details["scores"][1]["value"]
    assert info.details["names"] == {"eng": "English", "ind": "Indonesian", "jav": "Javanese"}
    assert info.details["suites"] == [{"name": "mood", "slots": ["text"], "labels": ["bad", "good"]}]
    assert "search" not in info.details
    assert info.created == int(registry.version("mine", GOOD).created)


def test_runs_folders_and_full_models_are_served_side_by_side(registry, library, tmp_path, tiny_model_folder):
    run = library / "runs" / "small" / "best"
    merged = export_model(run, tmp_path / "merged", merged=True)
    bare = tmp_path / "bare"
    export_model(library / "runs" / "small" / "weak", bare, merged=False)
    (bare / "experiment.yaml").unlink()

    async def story():
        async with serving(registry, str(run), str(merged), str(bare), str(tiny_model_folder)) as shelf:
            assert kinds(shelf) == {
                "best": ("best", "adapter"), "merged": ("merged", "full"), "bare": ("bare", "adapter"),
                "tiny": ("tiny", "full"), "base": ("base", "base"),
            }  # fmt: skip
            texts = {name: (await ask(shelf, name))[1] for name in kinds(shelf)}
            assert texts["merged"] == texts["best"] == expected(library, "best")
            assert texts["bare"] == expected(library, "weak")
            assert texts["tiny"] == texts["base"]
            assert len(OPENED) == 2  # the base under both adapters, and the merged model

    asyncio.run(story())


def test_an_adapter_that_is_more_than_lora_gets_an_engine_of_its_own(registry, tmp_path, tiny_model_folder):
    experiment = override(small_experiment(tmp_path, tiny_model_folder), {"model.lora.dora": True})
    run = make_run(experiment, "dora", None, evaluated=False)

    async def story():
        async with serving(registry, str(run)) as shelf:
            assert kinds(shelf) == {"dora": ("dora", "full"), "base": ("base", "base")}
            assert len(OPENED) == 1
            assert (await ask(shelf, "dora"))[1] == of_run(run)
            assert (await ask(shelf, "base"))[1] == of_base(tiny_model_folder)
            assert len(OPENED) == 2

    asyncio.run(story())


def test_full_versions_take_turns_and_the_old_one_leaves_the_memory(registry, tmp_path, tiny_model_folder, monkeypatch):
    experiment = override(small_experiment(tmp_path, tiny_model_folder), {"model.tuning": "full"})
    runs = [make_run(experiment, name, {"eng": 1.0, "ind": s, "jav": s}, k) for k, (name, s) in enumerate(SIZES)]
    for run in runs:
        register(registry, run, "big")
    promote(registry, "big", 1, force="models are served, not judged")
    texts = [of_run(run) for run in runs]
    assert texts[0] != texts[1]
    monkeypatch.setattr(model_pool, "IDLE_S", 0.0)

    async def story():
        async with serving(registry, "big@champion") as shelf:
            async with shelf.lease("big@champion") as old:
                promote(registry, "big", 2, force="models are served, not judged")
                await shelf.refresh()
                await shelf._pool.trim()
                assert await ask(shelf) == ("big/2", texts[1])
                assert (old.id, await text_of(old)) == ("big/1", texts[0])
            await shelf._pool.trim()
            assert [e._worker.is_alive() for e in OPENED] == [False, True]
            assert await ask(shelf, "big/1") == ("big/1", texts[0])

    asyncio.run(story())


def test_two_folders_of_one_name_get_their_parents_too(registry, library, tmp_path):
    for parent in ("a", "b"):
        shutil.copytree(library / "runs" / "small" / "best", tmp_path / parent / "best")

    async def story(*models):
        async with serving(registry, *models) as shelf:
            assert set(OPENED[-1].loaded()) == {"a-best", "b-best"}
            return list(kinds(shelf))

    assert asyncio.run(story(str(tmp_path / "a" / "best"), str(tmp_path / "b" / "best"))) == [
        "a-best",
        "b-best",
        "base",
    ]
    with pytest.raises(ConfigError, match="would be named 'a-best'.*another model's name"):
        asyncio.run(story(str(tmp_path / "a" / "best"), str(tmp_path / "a" / "best" / MODEL)))


@pytest.mark.parametrize(
    "name",
    ["nobody", "mine", "mine@champion", "mine/99", "mine/0", "other/1", "../mine/1", "mine/../../etc", "/etc/passwd",
     "mine/1/..", "mine/\n1", "x" * 10_000, "mine/99999999999999999999", "..", "models:/mine/1", "runs/small/best"],
)  # fmt: skip
def test_what_is_not_served_is_refused_without_a_look_at_the_disk(registry, monkeypatch, tmp_path, name):
    promote(registry, "mine", GOOD)
    monkeypatch.chdir(tmp_path)

    async def story():
        async with serving(registry) as shelf:
            with pytest.raises(UnknownModelError) as caught:
                await ask(shelf, name)
            assert len(str(caught.value)) < 400
            assert OPENED[0].loads == ["mine/2"]

    asyncio.run(story())


@pytest.mark.parametrize(
    ("reference", "error", "said"),
    [
        ("champion", RegistryError, "has no alias 'champion'"),
        ("mine/9", RegistryError, "model 'mine' has no version 9"),
        ("mine@best", RegistryError, "has no alias 'best'"),
        ("/nowhere/at-all", ModelError, "cannot be loaded"),
    ],
)
def test_what_cannot_be_found_at_the_start_is_one_sentence(registry, reference, error, said):
    async def story():
        async with serving(registry, reference):
            pass

    with pytest.raises(error, match=said) as caught:
        asyncio.run(story())
    assert "\n" not in str(caught.value)


# --- memory


def test_least_recently_used_adapters_make_room(registry):
    promote(registry, "mine", GOOD)

    async def story():
        async with serving(registry, max_adapters=2) as shelf:
            engine = OPENED[0]
            for name in ("mine/1", "mine/3", "mine/1", "mine/4"):
                await ask(shelf, name)
            # the champion stays, though it was asked least recently
            assert engine.loads == ["mine/2", "mine/1", "mine/3", "mine/1", "mine/4"]
            assert set(engine.loaded()) == {"mine/2", "mine/4"}
            await ask(shelf, "champion")
            assert engine.loads[-1] == "mine/4"

    asyncio.run(story())


def test_an_adapter_in_use_is_never_unloaded(registry):
    promote(registry, "mine", GOOD)

    async def story():
        async with serving(registry, max_adapters=2) as shelf, AsyncExitStack() as held:
            await held.enter_async_context(shelf.lease("champion"))
            await held.enter_async_context(shelf.lease("mine/1"))
            waiting = asyncio.create_task(ask(shelf, "mine/3"))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            await held.aclose()
            assert (await waiting)[0] == "mine/3"

    asyncio.run(story())


def test_many_who_ask_at_once_wait_for_one_load(registry):
    promote(registry, "mine", GOOD)

    async def story():
        async with serving(registry) as shelf:
            gone = asyncio.create_task(ask(shelf, "mine/1"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            gone.cancel()
            found = await asyncio.gather(*(ask(shelf, "mine/1") for _ in range(10)))
            assert len(set(found)) == 1
            assert OPENED[0].loads.count("mine/1") == 1

    asyncio.run(story())


def test_a_loaded_adapter_outlives_its_files_and_they_are_fetched_again(registry, library, tmp_path, monkeypatch):
    monkeypatch.setenv("IALIGN_CACHE", str(tmp_path / "cache"))
    promote(registry, "mine", GOOD)

    async def story():
        async with serving(registry, max_adapters=1) as shelf:
            before = await ask(shelf)
            shutil.rmtree(tmp_path / "cache")
            assert await ask(shelf) == before
            await ask(shelf, "mine/1")  # the champion is unloaded
            shutil.rmtree(tmp_path / "cache")
            assert await ask(shelf) == before

    asyncio.run(story())


def test_a_run_whose_files_are_gone_is_refused_and_the_others_serve(registry, library, tmp_path):
    for name in ("good", "best"):
        shutil.copytree(library / "runs" / "small" / name, tmp_path / name)

    async def story():
        async with serving(registry, str(tmp_path / "good"), str(tmp_path / "best"), max_adapters=1) as shelf:
            await ask(shelf, "good")
            shutil.rmtree(tmp_path / "best")
            with pytest.raises(ModelError):
                await ask(shelf, "best")
            assert (await ask(shelf, "good"))[0] == "good"

    asyncio.run(story())


def test_bases_that_are_called_alike_are_told_apart():
    ids = ["/models/first/small", "lab/small", "other/small", "lab/small", "/models/second/small"]
    found = [
        Named(f"m{k}", ModelSource(f"m{k}", "adapter", ModelSettings(id=name), None, None, 0.0))
        for k, name in enumerate(ids)
    ]
    assert [named.name for named in bases(found)] == ["base", "small", "other-small", "second-small"]
