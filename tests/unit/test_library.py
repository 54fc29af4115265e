"""Names, versions and memory of what is served, on a real registry with a real engine."""

import asyncio
import logging
import shutil
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from runs import BEST, FORGETFUL, GOOD, WEAK, make_run, small_experiment

from ialign_ray.answer import answer, export_model
from ialign_ray.config import override
from ialign_ray.config.serve import ServeConfig
from ialign_ray.errors import ConfigError, ModelError, RegistryError
from ialign_ray.registry.promotion import promote, register, roll_back
from ialign_ray.serving import pool
from ialign_ray.serving.contract import Sampling, UnknownModelError
from ialign_ray.serving.engine import open_engine
from ialign_ray.serving.library import ModelLibrary
from ialign_ray.training.trainer import MODEL

QUESTION = "Translate the following text from English to Indonesian."
TOKENS = 24
SIZES = (("small", 0.9), ("large", 1.6))


OPENED = []
"""Engines of the running test; each with `loads`, the keys of the adapters in the order in which they were loaded."""


@pytest.fixture(autouse=True)
def _forget_engines():
    OPENED.clear()


def open_noted(*arguments, **limits):
    engine = open_engine(*arguments, **limits)
    engine.loads, load = [], engine.load

    async def noted(adapter, folder):
        await load(adapter, folder)
        engine.loads.append(adapter)

    engine.load = noted
    OPENED.append(engine)
    return engine


def settings(*models, **fields):
    return ServeConfig.model_validate({"models": list(models) or ["champion"], "follow_s": 1000, **fields})


@asynccontextmanager
async def serving(registry, *models, opening=open_noted, **fields):
    made = ModelLibrary(settings(*models, **fields), registry.uri, opening)
    try:
        await made.start()
        yield made
    finally:
        await made.close(1)


async def ask(shelf, name=""):
    """(what answered, its text)"""
    async with shelf.lease(name) as served:
        return served.id, await text_of(served)


async def text_of(served):
    prompt = served.encoder.prompt(QUESTION)
    return "".join([p.text async for p in served.engine.stream(prompt, Sampling(TOKENS), served.adapter)])


def kinds(shelf):
    return {card.name: (card.id, card.kind) for card in shelf.cards()}


def expected(library, run):
    return answer(QUESTION, library / "runs" / "small" / run, None, TOKENS, 0.0)


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
            assert await ask(shelf, "base") == ("base", answer(QUESTION, None, str(tiny_model_folder), TOKENS, 0.0))
            assert len({(await ask(shelf, n))[1] for n in ("base", "mine/2", "mine/3")}) == 3
        assert len(OPENED) == 1
        assert not OPENED[0]._worker.is_alive()

    asyncio.run(story())


def test_a_card_tells_languages_dose_and_scores(registry):
    promote(registry, "mine", GOOD)

    async def story():
        async with serving(registry) as shelf:
            best = next(card for card in shelf.cards() if card.name == "mine/3")
            assert "by_language" not in best.details  # its files are not here yet
            await ask(shelf, "mine/3")
            best = next(card for card in shelf.cards() if card.name == "mine/3")
            assert len(best.details["by_language"]) == 3
            return shelf.cards()[0]

    card = asyncio.run(story())
    assert card.details["languages"] == {"L1": ["eng"], "L2": ["ind", "jav"], "L3": []}
    assert (card.details["dose"], card.details["base"], card.details["run"]) == ("0", "tiny", "good")
    assert card.details["scores"][0]["low"] < card.details["scores"][0]["value"]
    table = {row["language"]: row for row in card.details["by_language"]}
    assert set(table) == {"eng", "ind", "jav"}
    assert table["jav"]["n"] == 120
    assert table["jav"]["base"]["high"] < table["jav"]["version"]["low"]
    assert (table["jav"]["title"], table["jav"]["lower_is_better"]) == ("F1", False)
    groups = {row["scope"]: row for row in card.details["by_group"]}
    assert set(groups) == {"group:L1", "group:L2"}
    assert groups["group:L2"]["version"]["value"] == card.details["scores"][1]["value"]
    assert card.details["names"] == {"eng": "English", "ind": "Indonesian", "jav": "Javanese"}
    assert card.details["suites"] == [{"name": "mood", "slots": ["text"], "labels": ["bad", "good"]}]
    assert "search" not in card.details
    assert card.created == int(registry.version("mine", GOOD).created)


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
            assert (await ask(shelf, "dora"))[1] == answer(QUESTION, run, None, TOKENS, 0.0)
            assert (await ask(shelf, "base"))[1] == answer(QUESTION, None, str(tiny_model_folder), TOKENS, 0.0)
            assert len(OPENED) == 2

    asyncio.run(story())


def test_full_versions_take_turns_and_the_old_one_leaves_the_memory(registry, tmp_path, tiny_model_folder, monkeypatch):
    experiment = override(small_experiment(tmp_path, tiny_model_folder), {"model.tuning": "full"})
    runs = [make_run(experiment, name, {"eng": 1.0, "ind": s, "jav": s}, k) for k, (name, s) in enumerate(SIZES)]
    for run in runs:
        register(registry, run, "big")
    promote(registry, "big", 1)
    texts = [answer(QUESTION, run, None, TOKENS, 0.0) for run in runs]
    assert texts[0] != texts[1]
    monkeypatch.setattr(pool, "IDLE_S", 0.0)

    async def story():
        async with serving(registry, "big@champion") as shelf:
            async with shelf.lease("big@champion") as old:
                promote(registry, "big", 2)
                await shelf.look()
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
    with pytest.raises(ConfigError, match="would be called 'a-best', which another model is called"):
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


# --- promotion


def test_a_moved_alias_is_taken_up_while_requests_keep_what_they_began_with(registry, library):
    promote(registry, "mine", WEAK)
    texts = {f"mine/{n}": expected(library, run) for n, run in ((WEAK, "weak"), (BEST, "best"))}

    async def story():
        async with serving(registry, max_adapters=1) as shelf:
            async with shelf.lease("champion") as old:
                promote(registry, "mine", BEST)
                await shelf.look()
                assert await ask(shelf, "champion") == ("mine/3", texts["mine/3"])
                assert (old.id, await text_of(old)) == ("mine/1", texts["mine/1"])
            assert kinds(shelf)["champion"] == ("mine/3", "adapter")
            await shelf._pool.trim()
            assert OPENED[0].loaded() == ("mine/3",)
            roll_back(registry, "mine")
            await shelf.look()
            assert await ask(shelf, "champion") == ("mine/1", texts["mine/1"])

    asyncio.run(story())


def test_a_champion_on_another_base_brings_its_base_along(registry, tmp_path, tiny_model_folder, monkeypatch):
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(tiny_model_folder, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file(
        {k: w * 1.5 if "mlp" in k else w for k, w in weights.items()}, other / "model.safetensors", {"format": "pt"}
    )
    run = make_run(small_experiment(tmp_path, other), "moved", {"eng": 1.0, "ind": 1.6, "jav": 1.6}, 7)
    number = register(registry, run, "mine")[0].number
    promote(registry, "mine", GOOD)
    monkeypatch.setattr(pool, "IDLE_S", 0.0)

    async def story():
        async with serving(registry) as shelf:
            before = await ask(shelf, "base")
            registry.call("set_registered_model_alias", "mine", "champion", str(number))
            await shelf.look()
            assert await ask(shelf) == (f"mine/{number}", answer(QUESTION, run, None, TOKENS, 0.0))
            assert await ask(shelf, "base") == ("base", answer(QUESTION, None, str(other), TOKENS, 0.0))
            assert before != await ask(shelf, "base")
            await shelf._pool.trim()
            assert [e._worker.is_alive() for e in OPENED] == [False, True]

    asyncio.run(story())


def test_no_request_fails_or_mixes_versions_while_the_alias_moves(registry, library):
    promote(registry, "mine", WEAK)
    texts = {f"mine/{n}": expected(library, run) for n, run in ((WEAK, "weak"), (BEST, "best"))}

    async def story():
        seen = []
        async with serving(registry, max_adapters=1, follow_s=0.05) as shelf:
            ending = asyncio.Event()

            async def client():
                while not ending.is_set():
                    seen.append(await ask(shelf))

            clients = [asyncio.create_task(client()) for _ in range(4)]
            for _ in range(2):
                await asyncio.to_thread(promote, registry, "mine", BEST)
                await asyncio.sleep(0.4)
                await asyncio.to_thread(roll_back, registry, "mine")
                await asyncio.sleep(0.4)
            ending.set()
            await asyncio.gather(*clients)
        return seen

    seen = asyncio.run(story())
    assert {version for version, _ in seen} == set(texts)
    assert [(v, t) for v, t in seen if texts[v] != t] == []


def test_a_version_that_does_not_load_is_refused_and_told(registry, library, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("IALIGN_CACHE", str(tmp_path / "cache"))
    promote(registry, "mine", GOOD)

    async def story():
        async with serving(registry) as shelf:
            registry.call("set_registered_model_alias", "mine", "champion", str(BEST))
            spoil(monkeypatch)
            await shelf.look()
            assert (await ask(shelf, "champion"))[0] == "mine/2"
            refused = shelf.cards()[0].details["refused"]
            assert refused.startswith("mine/3: model/adapter_model.safetensors is missing or does not match")
            assert "champion stays at mine/2, mine/3 is refused" in caplog.text
            caplog.clear()
            await shelf.look()
            assert "refused" not in caplog.text  # told once, and tried again after a while only
            registry.call("set_registered_model_alias", "mine", "champion", str(GOOD))
            await shelf.look()
            assert "refused" not in shelf.cards()[0].details

    asyncio.run(story())


def test_the_refusal_of_version_10_keeps_nobody_from_version_1(registry):
    promote(registry, "mine", GOOD)

    async def story():
        async with serving(registry) as shelf:
            shelf._chosen[0].refused, shelf._chosen[0].retry_at = "mine/10: it does not load", float("inf")
            registry.call("set_registered_model_alias", "mine", "champion", str(WEAK))
            await shelf.look()
            assert (await ask(shelf, "champion"))[0] == "mine/1"

    asyncio.run(story())


def spoil(monkeypatch):
    """What is downloaded of any version from now on lacks a byte."""
    from ialign_ray.registry.store import Registry

    real = Registry.call

    def call(self, method, *args, **kwargs):
        found = real(self, method, *args, **kwargs)
        if method == "download_artifacts":
            file = next(Path(found).rglob("adapter_model.safetensors"))
            file.write_bytes(file.read_bytes()[:-1])
        return found

    monkeypatch.setattr(Registry, "call", call)


def test_a_replica_that_starts_after_a_bad_promotion_serves_the_holder_before(registry, library, tmp_path):
    promote(registry, "mine", GOOD)
    registry.call("set_registered_model_alias", "mine", "champion", str(BEST))

    def picky(*arguments, **limits):
        engine = open_noted(*arguments, **limits)
        load = engine.load

        async def refusing(adapter, folder):
            if adapter == "mine/3":
                raise ModelError("adapter mine/3 does not fit the base")
            await load(adapter, folder)

        engine.load = refusing
        return engine

    async def story():
        async with serving(registry, opening=picky) as shelf:
            assert (await ask(shelf))[0] == "mine/2"
            assert shelf.cards()[0].details["refused"] == "mine/3: adapter mine/3 does not fit the base"

    asyncio.run(story())


def test_where_no_holder_loads_the_first_reason_is_told(registry):
    promote(registry, "mine", GOOD)
    registry.call("set_registered_model_alias", "mine", "champion", str(BEST))

    def picky(*arguments, **limits):
        engine = open_noted(*arguments, **limits)

        async def refusing(adapter, folder):
            raise ModelError(f"adapter {adapter} does not fit the base")

        engine.load = refusing
        return engine

    async def story():
        async with serving(registry, opening=picky):
            pass

    with pytest.raises(ModelError, match="^mine/3: adapter mine/3 does not fit the base$"):
        asyncio.run(story())


def test_a_registry_out_of_reach_changes_nothing(registry, tmp_path, caplog):
    promote(registry, "mine", GOOD)

    async def story():
        async with serving(registry) as shelf:
            database = tmp_path / "runs" / "mlflow.db"
            whole = database.read_bytes()
            database.write_bytes(b"no database at all" * 1000)
            caplog.set_level(logging.WARNING)
            await shelf.look()
            await shelf.look()
            assert caplog.text.count("registry cannot be read, the present versions go on serving") == 1
            assert (await ask(shelf))[0] == "mine/2"
            database.write_bytes(whole)
            promote(registry, "mine", BEST)
            await shelf.look()
            assert (await ask(shelf))[0] == "mine/3"

    asyncio.run(story())


def test_an_alias_that_is_gone_leaves_its_last_version(registry):
    promote(registry, "mine", GOOD)

    async def story():
        async with serving(registry) as shelf:
            registry.call("delete_registered_model_alias", "mine", "champion")
            await shelf.look()
            assert (await ask(shelf))[0] == "mine/2"
            assert "gone from the registry" in shelf.cards()[0].details["refused"]

    asyncio.run(story())
