"""The check of wordings finds what `english.md` bans, in prose only."""

import pytest
from vocabulary import BANNED, banned, files, findings


@pytest.mark.parametrize(
    ("name", "source", "lines"),
    [
        ("a.py", 'def f():\n    """Names.\n\n    A folder that stands\n    there.\n    """\n', [4]),
        ("a.py", 'raise ValueError(f"{x} is no\\n folder")\n', [1]),
        ("a.py", "# a note that goes\n# on\n", [1]),
        ("a.py", '"""Of the runs."""\n', [1]),
        ("a.py", 'KEYS = ("stands", "tell")  # the stand-in of `tell`\n', []),
        ("a.md", "One.\n\nRows are told,\nand it `stands` here.\n", [3]),
        ("a.md", "```\nialign tell  # prints what it is told\n```\n", [2]),
        ("a.yaml", "stands: 1   # lies on the disk\n", [1]),
        ("Makefile", "all:  ## tells the time\n\ttell\n", [1]),
        ("a.js", "const told = `${told.map((x) => x)} stands here`; // lies\n", [1, 1]),
        ("a.j2", "<p>{{ told }} stands {% if lies %}here{% endif %}</p>\n", [1]),
        ("a.md", "There is no folder, and it is no longer needed.\n", []),
    ],
)
def test_findings(name, source, lines):
    assert [line for _, line, _, _ in findings(name, source)] == lines


def test_each_finding_has_an_advice():
    assert [advice for *_, advice in banned("a.md", 1, "The file is told to lie.")] == [
        next(advice for pattern, advice in BANNED.items() if "told" in pattern),
        next(advice for pattern, advice in BANNED.items() if "lies" in pattern),
    ]


def test_generated_results_and_tests_are_not_read():
    names = {path.as_posix() for path in files([])}
    assert any(name.endswith("docs/data.md") for name in names)
    assert not any("/docs/results/" in name or "/tests/" in name for name in names)
