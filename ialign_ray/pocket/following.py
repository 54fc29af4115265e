"""Rows of the suite `following`: requests with demands that a program can check, in five languages.

The idea is that of IFEval (Zhou et al. 2023, arXiv 2311.07911); requests and wordings are our own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import yaml

FOLLOWING: Final = "following.jsonl"


def write_following(folder: Path) -> None:
    """Write `following.jsonl`: one row per item and language, with item, language, prompt and checks."""
    lines = [json.dumps(row, ensure_ascii=False) for row in following_rows()]
    (folder / FOLLOWING).write_text("\n".join(lines) + "\n", encoding="utf-8")


def following_rows() -> list[dict[str, Any]]:
    """Return the rows, the items of each language in order."""
    read = yaml.safe_load((Path(__file__).parent / "following.yaml").read_text(encoding="utf-8"))
    asked = [(item, item, item) for item in read["items"]]
    asked += [(f"{item}-2", item, request) for item, request in read["again"].items()]
    return [
        {"item": name, "language": code, **_demanded(read["items"][item], said["requests"][request], item, code, said)}
        for code, said in read["languages"].items()
        for name, item, request in asked
    ]


def _demanded(
    demands: dict[str, dict[str, Any]], request: str, item: str, code: str, said: dict[str, Any]
) -> dict[str, Any]:
    """Prompt and checks of a request with an item's demands, in one language."""
    wanted, checks = [request], []
    for name, given in demands.items():
        arguments = dict(given)
        if text := said["texts"].get(name) or (name in ("contains", "avoids") and said["texts"][item]):
            arguments["text"] = text
        counted = next((f"{name} {bound}" for bound in given if f"{name} {bound}" in said["demands"]), name)
        wanted.append(said["demands"][counted].format(**arguments))
        if name.startswith("language"):
            arguments = {"code": code if name == "language_same" else said["other"]}
        checks.append({"name": name.removesuffix("_same"), **arguments})
    return {"prompt": " ".join(wanted), "checks": checks}
