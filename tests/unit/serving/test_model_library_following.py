"""Versions behind the names of what is served: an alias that moves, and what does not load."""

import asyncio
import errno
import json
import logging
import shutil
import threading
from pathlib import Path

import pytest
from libraries import OPENED, ask, expected, kinds, of_base, of_run, open_noted, serving, text_of
from runs import BEST, GOOD, WEAK, make_run, small_experiment

from ialign_ray.errors import ModelError
from ialign_ray.registry.promotion import promote, register, roll_back
from ialign_ray.registry.store import Registry
from ialign_ray.serving import chat_template, model_pool
from ialign_ray.serving.engine.adapter_files import read_adapter
from ialign_ray.storage import MANIFEST, file_hash, read_json
from ialign_ray.training.runs import model_folder

pytestmark = pytest.mark.slow


def test_a_moved_alias_is_taken_up_while_requests_keep_what_they_began_with(registry, library):
    promote(registry, "mine", WEAK)
    texts = {f"mine/{n}": expected(library, run) for n, run in ((WEAK, "weak"), (BEST, "best"))}

    async def story():
        async with serving(registry, max_adapters=1) as shelf:
            async with shelf.lease("champion") as old:
                promote(registry, "mine", BEST)
                await shelf.refresh()
                assert await ask(shelf, "champion") == ("mine/3", texts["mine/3"])
                assert (old.id, await text_of(old)) == ("mine/1", texts["mine/1"])
            assert kinds(shelf)["champion"] == ("mine/3", "adapter")
            await shelf._pool.trim()
            assert OPENED[0].loaded() == ("mine/3",)
            roll_back(registry, "mine")
            await shelf.refresh()
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
    monkeypatch.setattr(model_pool, "IDLE_S", 0.0)

    async def story():
        async with serving(registry) as shelf:
            before = await ask(shelf, "base")
            registry.call("set_registered_model_alias", "mine", "champion", str(number))
            await shelf.refresh()
            assert await ask(shelf) == (f"mine/{number}", of_run(run))
            assert await ask(shelf, "base") == ("base", of_base(other))
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


def test_on_a_full_disk_the_old_version_serves_and_the_new_one_is_refused(registry, library, tmp_path, monkeypatch):
    monkeypatch.setenv("IALIGN_CACHE", str(tmp_path / "cache"))
    promote(registry, "mine", GOOD)

    async def story():
        async with serving(registry) as shelf:

            def full(*_):
                raise OSError(errno.ENOSPC, "No space left on device")

            with monkeypatch.context() as disk:
                disk.setattr(Registry, "_download", full)
                registry.call("set_registered_model_alias", "mine", "champion", str(BEST))
                await shelf.refresh()
                assert (await ask(shelf, "champion"))[0] == "mine/2"
                assert "No space left on device" in shelf.infos()[0].details["refused"]
                with pytest.raises(ModelError, match="No space left"):
                    await ask(shelf, "mine/1")
            assert (await ask(shelf, "mine/1"))[0] == "mine/1"

    asyncio.run(story())


def test_a_version_that_loads_too_long_is_refused_and_the_old_one_serves(registry, library, monkeypatch):
    """A thread that hangs cannot be ended; it is left alone, and no second one hangs beside it."""
    promote(registry, "mine", GOOD)
    hanging, opened = threading.Event(), []

    def slow(folder, shapes):
        opened.append(folder)
        hanging.wait(30)
        return read_adapter(folder, shapes)

    async def story():
        async with serving(registry) as shelf:
            patient = shelf._pool._settings
            shelf._pool._settings = patient.model_copy(update={"load_s": 0.5})
            monkeypatch.setattr("ialign_ray.serving.engine.engine.read_adapter", slow)
            registry.call("set_registered_model_alias", "mine", "champion", str(BEST))
            await shelf.refresh()
            assert (await ask(shelf, "champion"))[0] == "mine/2"
            assert "did not load within 0.5 s" in shelf.infos()[0].details["refused"]
            with pytest.raises(ModelError):
                await ask(shelf, "mine/3")
            assert (await ask(shelf, "champion"))[0] == "mine/2"
            hanging.set()
            while "mine/3" in OPENED[0]._known:  # what came too late is unloaded
                await asyncio.sleep(0.01)
            shelf._pool._settings = patient
            shelf._named["champion"].retry_at = 0
            await shelf.refresh()
            assert (await ask(shelf, "champion"))[0] == "mine/3"

    asyncio.run(story())


HOSTILE = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def test_a_version_whose_chat_template_loops_is_refused(registry, library, tmp_path, tiny_model_folder, monkeypatch):
    promote(registry, "mine", GOOD)
    made, strength = small_experiment(tmp_path, tiny_model_folder), {"eng": 1.0, "ind": 1.6, "jav": 1.6}
    source = make_run(made, "looping", strength, 9, evaluated=False)
    file = model_folder(source) / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": HOSTILE}))
    manifest = read_json(file.with_name(MANIFEST))
    manifest["files"][file.name] = file_hash(file)
    file.with_name(MANIFEST).write_text(json.dumps(manifest))
    make_run(made, "looping", strength, 9)
    number = register(registry, source, "mine")[0].number
    monkeypatch.setattr(chat_template, "RENDER_S", 0.5)

    async def story():
        async with serving(registry) as shelf:
            registry.call("set_registered_model_alias", "mine", "champion", str(number))
            await shelf.refresh()
            assert (await ask(shelf, "champion"))[0] == "mine/2"
            assert "chat template" in shelf.infos()[0].details["refused"]

    asyncio.run(story())


def test_a_version_that_does_not_load_is_refused_and_told(registry, library, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("IALIGN_CACHE", str(tmp_path / "cache"))
    promote(registry, "mine", GOOD)

    async def story():
        async with serving(registry) as shelf:
            registry.call("set_registered_model_alias", "mine", "champion", str(BEST))
            spoil(monkeypatch)
            await shelf.refresh()
            assert (await ask(shelf, "champion"))[0] == "mine/2"
            refused = shelf.infos()[0].details["refused"]
            assert refused.startswith("mine/3: model/adapter_model.safetensors is missing or does not match")
            assert "champion stays at mine/2, mine/3 is refused" in caplog.text
            caplog.clear()
            await shelf.refresh()
            assert "refused" not in caplog.text  # told once, and tried again after a while only
            registry.call("set_registered_model_alias", "mine", "champion", str(GOOD))
            await shelf.refresh()
            assert "refused" not in shelf.infos()[0].details

    asyncio.run(story())


def test_the_refusal_of_version_10_keeps_nobody_from_version_1(registry):
    promote(registry, "mine", GOOD)

    async def story():
        async with serving(registry) as shelf:
            shelf._chosen[0].refused, shelf._chosen[0].retry_at = "mine/10: it does not load", float("inf")
            registry.call("set_registered_model_alias", "mine", "champion", str(WEAK))
            await shelf.refresh()
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
            assert shelf.infos()[0].details["refused"] == "mine/3: adapter mine/3 does not fit the base"

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
            await shelf.refresh()
            await shelf.refresh()
            assert caplog.text.count("registry cannot be read, the loaded versions keep serving") == 1
            assert (await ask(shelf))[0] == "mine/2"
            database.write_bytes(whole)
            promote(registry, "mine", BEST)
            await shelf.refresh()
            assert (await ask(shelf))[0] == "mine/3"

    asyncio.run(story())


def test_an_alias_that_is_gone_leaves_its_last_version(registry):
    promote(registry, "mine", GOOD)

    async def story():
        async with serving(registry) as shelf:
            registry.call("delete_registered_model_alias", "mine", "champion")
            await shelf.refresh()
            assert (await ask(shelf))[0] == "mine/2"
            assert "gone from the registry" in shelf.infos()[0].details["refused"]

    asyncio.run(story())


def test_a_model_that_is_gone_from_the_registry_does_not_keep_others_from_being_followed(registry, library, caplog):
    register(registry, library / "runs" / "small" / "weak", "also")
    registry.call("set_registered_model_alias", "also", "champion", "1")
    promote(registry, "mine", WEAK)

    async def story():
        async with serving(registry, "also@champion", "mine@champion") as shelf:
            registry.call("delete_registered_model", "also")
            promote(registry, "mine", BEST)
            for _ in range(2):
                await shelf.refresh()
            assert kinds(shelf)["mine@champion"] == ("mine/3", "adapter")
            assert kinds(shelf)["also@champion"] == ("also/1", "adapter")
            assert (await ask(shelf, "also@champion"))[0] == "also/1"

    with caplog.at_level(logging.WARNING):
        asyncio.run(story())
    told = [r.getMessage() for r in caplog.records if "cannot be read" in r.getMessage()]
    assert len(told) == len(set(told)) > 0  # once each
    assert all("also" in message for message in told)
