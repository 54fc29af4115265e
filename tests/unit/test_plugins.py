"""Entry points of installed packages: what is added, and what a broken one costs."""

import sys
from dataclasses import dataclass

import pytest

from ialign_ray.errors import ConfigError
from ialign_ray.plugins import Extensible


@dataclass
class Dish:
    taste: str


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs packages of entry points `ialign.dishes` beside each other on the import path."""

    def make(package, points, code="", module=None):
        module = module or package
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = "".join(f"{name} = {module}:{value}\n" for name, value in points.items())
        (info / "entry_points.txt").write_text(f"[ialign.dishes]\n{lines}")
        (tmp_path / f"{module}.py").write_text(f"from {__name__} import Dish\n{code}")

    monkeypatch.syspath_prepend(tmp_path)
    return make


@pytest.fixture
def dishes():
    return Extensible("ialign.dishes", Dish, {"soup": Dish("salty")})


def test_what_is_installed_stands_beside_what_is_built_in(install, dishes):
    install("cakes", {"cake": "CAKE"}, "CAKE = Dish('sweet')")
    assert {name: dish.taste for name, dish in dishes.items()} == {"soup": "salty", "cake": "sweet"}
    assert dishes.find("cake", "menu.dish").taste == "sweet"


def test_a_built_in_name_imports_no_plug_in(install, dishes, caplog):
    install("broken", {"stew": "STEW"}, "raise RuntimeError('burnt')")
    assert dishes["soup"].taste == "salty"
    assert not caplog.records


@pytest.mark.parametrize(
    ("points", "code", "reason"),
    [
        ({"stew": "STEW"}, "raise RuntimeError('burnt')", "RuntimeError: burnt"),
        ({"stew": "STEW"}, "", "AttributeError"),
        ({"stew": "STEW"}, "STEW = 'thick'", "'stew' is str, not Dish"),
        ({"soup": "SOUP"}, "SOUP = Dish('thin')", "'soup' is built in"),
    ],
)
def test_a_broken_plug_in_is_one_sentence_and_the_rest_works(install, dishes, caplog, points, code, reason):
    install("broken", points, code, module="broken_code")
    install("cakes", {"cake": "CAKE"}, "CAKE = Dish('sweet')")
    sys.modules.pop("broken_code", None)
    assert {name: dish.taste for name, dish in dishes.items()} == {"soup": "salty", "cake": "sweet"}
    [record] = caplog.records
    assert "broken" in record.message
    assert "ialign.dishes" in record.message
    assert reason in record.message
    assert "\n" not in record.message


def test_a_name_of_two_packages_is_left_out_and_both_are_named(install, dishes, caplog):
    install("first", {"cake": "CAKE"}, "CAKE = Dish('sweet')")
    install("second", {"cake": "CAKE"}, "CAKE = Dish('bitter')")
    assert list(dishes) == ["soup"]
    assert "first" in caplog.text
    assert "second" in caplog.text


def test_asking_for_a_broken_plug_in_says_why(install, dishes):
    install("broken", {"stew": "STEW"}, "raise RuntimeError('burnt')", module="broken_again")
    with pytest.raises(ConfigError, match="menu.dish is 'stew', but plug-in broken, entry point ialign.dishes.*burnt"):
        dishes.find("stew", "menu.dish")
    with pytest.raises(ConfigError, match="menu.dish is 'pie', which is not known; use one of soup"):
        dishes.find("pie", "menu.dish")
