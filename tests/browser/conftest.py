"""The browser, the playground's server, and what every page's test does with them."""

import shutil

import pytest
from playground_server import ENTRY, champion, marked, serving

from ialign_ray.config.serve import ServeConfig
from ialign_ray.serving.keys import KeyRing

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def pytest_collection_modifyitems(items):
    for item in items:
        if "browser" in item.keywords:
            item.add_marker(pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"))
            # the browser's pipes are closed by its own process
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory, tiny_model_folder, migrated):
    """A champion that a search made, and its base, behind a key."""
    folder = tmp_path_factory.mktemp("playground")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IALIGN_CACHE", str(folder / "cache"))
        (folder / "runs").mkdir()
        shutil.copy(migrated, folder / "runs" / "mlflow.db")
        champion(folder, marked(tiny_model_folder, folder / "model"))
        settings = ServeConfig.model_validate({"models": ["small@champion"], "limits": {"default_new_tokens": 12}})
        with serving(settings, str(folder / "runs"), KeyRing([ENTRY])) as running:
            yield running
