"""Check that everything a person reads is written in plain, idiomatic English: `make check` runs this.

It searches strings, docstrings and comments of Python, comments of YAML, TOML, shell, JavaScript and the Makefile, page
templates and Markdown for wordings that a native-speaking engineer would not write. Code in backticks, fenced code
(but for its comments) and strings of one word (keys) are not prose. codespell's own dictionaries replace single words
only, in code too; proselint takes no wordings of ours and reads no Python; vale is not on PyPI.

    python tests/vocabulary.py              # everything but the tests
    python tests/vocabulary.py docs tests   # these folders or files
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Pattern -> what to write instead. A space matches any white space; case is ignored.
BANNED = {
    # from the rule sheet
    r"(tell|tells|telling|told)": "report, return, print, show, pass",
    r"look(s|ed|ing)? at": "inspect, check, read, open",
    r"(stand|stands|stood|standing)": "is, are, remain",
    r"(lie|lies|lying)": "is, are",
    r"(go|goes|went|gone|going) on": "continue, resume, run",
    r"(has|have|had|is|are|there is|there are) (?-i:none)": "'there is no X', 'it has no X'",
    r"as many as may": "name the limit",
    r"(?<!there\s)(is|are|was|were) no (?!(longer|more|less|better|worse|different|need|one)\b)[\w-]+": "is not a",
    r"be had": "be available",
    r"by (itself|himself)": "alone, on its own, by default",
    r"meanwhile": "in the meantime",
    r"the ones? before": "the previous one",
    # words and turns that no engineer uses, or uses in another sense
    r"beside": "next to, alongside, with, in addition to",
    r"of (its|their|our|your|his|my) own": "its own X, a separate X",
    r"of (ours|theirs)": "our X, their X",
    r"(wish|wishes|wished|wishing)": "ask, want, request",
    r"(cry|cries|cried)": "warn, report",
    r"(tak(e|es|en|ing)|took|go|goes|come|comes) along": "send, include, copy",
    r"(dose|doses)": "replay ratio",
    r"loses? its plug": "loses its network",
    r"mend(s|ed|ing)?": "fix, repair",
    r"but for": "except for",
    r"anew": "again, from scratch",
    r"blind to": "ignoring",
    r"of (now|before|then)": "current, earlier",
    r"in the place of": "instead of, in place of",
    r"there where": "where",
    r"upon": "on",
    r"(raises?|refuses?|none|true|false|null) where": "if",
    r"(one|two|three|a|\d+) ([\w.]+ )?(line|row|column|file|folder|object|model|sentence|text|pair|key|section|process|"
    r"thread|shard|token|number|value|character|class|suite) an? (?!few\b|little\b|lot\b|time\b)[\w.]+"
    r"(?=[.,;:)]|$| and\b)": "per",
}
FRAGMENT = re.compile(r"(Of|What|Whether|How|Which|When|In|As)\b")
FRAGMENT_ADVICE = "a noun phrase that names the thing, or an imperative"

# True uses of a banned wording: (file, the words around it). Keep these few.
EXEMPT = [("ialign_ray/serving/examples.py", "Once upon")]

Text = tuple[int, str]  # first line, text


def main(arguments: list[str]) -> int:
    """Print every finding as `file:line: 'words': write ...`; return 1 if there are any."""
    found = [
        f for path in files(arguments) for f in findings(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))
    ]
    for name, line, words, advice in found:
        print(f"{name}:{line}: '{words}': write {advice}")
    if found:
        print(f"{len(found)} wordings to change; the table is in tests/vocabulary.py")
    return int(bool(found))


def files(arguments: list[str]) -> list[Path]:
    """Files of the repository with texts for people, or those of them under the given paths."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *(arguments or [".", ":!tests"])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [ROOT / name for name in listed.stdout.splitlines() if not name.startswith(DATA) and reader(name)]
    return [path for path in paths if path.is_file() and path != Path(__file__)]


# generated results, and texts that models read
DATA = ("docs/results/", "ialign_ray/tasks/templates/", "ialign_ray/pocket/lexicon.yaml")


def findings(name: str, source: str) -> list[tuple[str, int, str, str]]:
    """(file, line, words, advice) of each banned wording in a file's text."""
    read = reader(name)
    found = [hit for first, text in (read(source) if read else ()) for hit in banned(name, first, text)]
    if name.endswith(".py"):
        found += fragments(name, source)
    return sorted(found)


def banned(name: str, first: int, text: str) -> Iterator[tuple[str, int, str, str]]:
    """Yield the banned wordings of a text that begins at line `first`."""
    prose = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", lambda code: re.sub(r"[^\n]", "·", code[0]), text, flags=re.DOTALL)
    for pattern, advice in PATTERNS:
        for match in pattern.finditer(prose):
            around = " ".join(prose[max(match.start() - 60, 0) : match.end() + 60].split())
            if any(where == name and words in around for where, words in EXEMPT):
                continue
            yield name, first + prose.count("\n", 0, match.start()), " ".join(match[0].split()), advice


PATTERNS = [
    (re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])".replace(" ", r"\s+"), re.IGNORECASE), advice)
    for pattern, advice in BANNED.items()
]


def fragments(name: str, source: str) -> Iterator[tuple[str, int, str, str]]:
    """Yield docstrings, those under fields too, whose first line names nothing."""
    for node in ast.walk(ast.parse(source)):
        for statement in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str) and not name.startswith("tests/"):
                match = FRAGMENT.match(value.value.strip())
                if match:
                    yield name, value.lineno, match[0], FRAGMENT_ADVICE


def reader(name: str):
    """The function that takes the prose out of a file of this name, or None."""
    path = Path(name)
    if path.name == "Makefile":
        return hash_comments
    return READERS.get(path.suffix)


def python(source: str) -> Iterator[Text]:
    """Yield the strings of several words and the comments of Python."""
    tree = ast.parse(source)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            text = node.value
        else:
            continue
        if len(text.split()) > 1:
            yield node.lineno, text
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    yield from blocks((t.start[0], t.string) for t in tokens if t.type == tokenize.COMMENT)


def hash_comments(source: str) -> Iterator[Text]:
    """Yield the comments of YAML, TOML, shell and make."""
    lines = enumerate(source.splitlines(), 1)
    yield from blocks((n, match[0]) for n, line in lines if (match := re.search(r"(?<!\S)#.*", line)))


def markdown(source: str) -> Iterator[Text]:
    """Yield Markdown's text, and the comments of its fenced code."""
    text, code, fenced = [], [], False
    for number, line in enumerate(source.splitlines(), 1):
        fence = line.lstrip().startswith("```")
        fenced ^= fence
        if fenced or fence:
            code.append((number, line.partition(" # ")[2] if not line.startswith("# ") else line))
        text.append("" if fenced or fence else line)
    yield 1, "\n".join(text)
    yield from code


def markup(source: str) -> Iterator[Text]:
    """Yield the text of HTML and of its templates, and its attributes that are shown."""
    yield (
        1,
        re.sub(
            r"{%.*?%}|{{.*?}}|<style.*?</style>", lambda code: re.sub(r"[^\n]", "·", code[0]), source, flags=re.DOTALL
        ),
    )


def javascript(source: str) -> Iterator[Text]:
    """Yield strings of several words and comments of JavaScript."""
    for number, line in enumerate(source.splitlines(), 1):
        for match in re.finditer(r"//.*|/\*.*|^ \*.*|\"[^\"]* [^\"]*\"|'[^']* [^']*'|`[^`]* [^`]*`", line):
            yield number, re.sub(r"\$\{[^}]*\}", "", match[0]).strip("`")


def blocks(comments) -> Iterator[Text]:
    """Join comments on lines that follow each other, so that a wording may run over the end of a line."""
    first, last, lines = 0, 0, []
    for number, line in comments:
        if lines and number != last + 1:
            yield first, "\n".join(lines)
            lines = []
        if not lines:
            first = number
        last = number
        lines.append(re.sub(r"^#+:?", "", line))
    if lines:
        yield first, "\n".join(lines)


READERS = {
    ".py": python,
    ".yaml": hash_comments,
    ".toml": hash_comments,
    ".sh": hash_comments,
    ".md": markdown,
    ".j2": markup,
    ".html": markup,
    ".js": javascript,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
