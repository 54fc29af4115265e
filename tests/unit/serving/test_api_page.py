"""The playground's files: whole, the server's own, and nothing beside them. What they do is seen in tests/browser."""

import re

import pytest

from ialign_ray.serving.api.pages import HEADERS


def test_the_page_asks_for_files_that_are_there(api):
    seen, left = set(), ["/", "/docs"]
    while left:
        path = left.pop()
        answer = api.get(path)
        assert answer.status_code == 200, path
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        seen.add(path)
        named = re.findall(r'(?:href|src)="(page/[^"]+)"|from "\./([^"]+)"', answer.text)
        left += {f"/page/{(one or two).removeprefix('page/')}" for one, two in named} - seen
    assert seen >= {"/page/playground.js", "/page/client.js", "/page/playground.css", "/page/theme.css"}
    assert api.get("/page/playground.js").headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_nothing_is_written_into_a_page_that_its_policy_would_stop(api, path):
    page = api.get(path).text
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*src=)|https?://", page)
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize("name", ["page.py", "..%2fapi%2fapp.py", "../../api/app.py", "index.html%00", "none.js", ""])
def test_other_files_are_not_served(api, name):
    answer = api.get(f"/page/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].startswith("there is nothing at this address")
