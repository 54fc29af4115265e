"""Fuzz the TMX reader with atheris: `python tests/fuzz/fuzz_tmx.py -runs=20000`. Only DataError may come out.

The first byte of an input chooses what becomes of bad rows, whether many small chunks must give the same rows as
one, and the compression by name.
"""

import sys
import tempfile
from pathlib import Path

UNIT = b"""<tu tuid="7"><tuv xml:lang="en"><seg>One <bpt i="1">&lt;b></bpt>two<ept i="1"/></seg></tuv>
<tuv lang="JV"><seg><hi>siji</hi> &amp; loro<ph><sub>x</sub></ph></seg></tuv></tu>
"""
HEAD = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx version="1.4"><header/><body>\n'
)
TAIL = b"</body></tmx>\n"
BOMB = b'<!DOCTYPE tmx [<!ENTITY a "lol"><!ENTITY b "&a;&a;"><!ENTITY x SYSTEM "file:///etc/passwd">]>\n<tmx><body>'
DICTIONARY = [
    "<tu>",
    "</tu>",
    "<tuv ",
    'xml:lang="en"',
    "<seg>",
    "</seg>",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "<!DOCTYPE ",
    "<!ENTITY ",
    "SYSTEM ",
    "&a;",
    "%a;",
    "&#0;",
    "<?xml ",
    "encoding='latin-1'",
    "<body>",
    "</tmx>",
]


def write_seeds(folder: Path) -> None:
    """A corpus to begin with: whole, torn, hostile and otherwise encoded memories."""
    whole = HEAD + UNIT * 3 + TAIL
    seeds = {
        "whole": whole,
        "torn": whole[:-60],
        "bomb": BOMB + b"<tu><tuv xml:lang='en'><seg>&b;&x;</seg></tuv></tu>" + TAIL,
        "comment": HEAD + b"<!-- <tu> -->" + UNIT + b"<![CDATA[<tu>]]>" + TAIL,
        "utf16": whole.decode().replace("UTF-8", "UTF-16").encode("utf-16"),
        "latin": whole.replace(b"UTF-8", b"ISO-8859-1").replace(b"One", b"\xe9"),
        "empty": b"",
    }
    for name, data in seeds.items():
        for flags in range(4):
            (folder / f"{name}{flags}").write_bytes(bytes([flags]) + data)
    (folder.parent / "tmx.dict").write_text(
        "".join('"' + "".join(f"\\x{b:02x}" for b in word.encode()) + '"\n' for word in DICTIONARY), encoding="ascii"
    )


def main() -> None:
    """Run until libFuzzer's limits are reached."""
    import atheris

    with atheris.instrument_imports(include=["ialign_ray.corpus"]):
        from ialign_ray.config import DataSource
        from ialign_ray.corpus.readers import plan_chunks, read_chunk
        from ialign_ray.errors import DataError

    scratch = Path(tempfile.mkdtemp(prefix="fuzz-tmx-"))
    (scratch / "seeds").mkdir()
    write_seeds(scratch / "seeds")

    def rows(source: DataSource, size: int) -> list[dict[str, object]] | None:
        try:
            chunks = plan_chunks(source, ".", ["en", "jv", "tuid"], size)
            return [row for chunk in chunks for table in read_chunk(chunk, []) for row in table.to_pylist()]
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017 - pytest does not run this
            return None

    def one(data: bytes) -> None:
        flags = data[0] if data else 0
        path = scratch / ("a.tmx.gz" if flags & 8 else "a.tmx")
        path.write_bytes(data[1:])
        source = DataSource(path=str(path), bad_rows="drop" if flags & 1 else "refuse")
        whole = rows(source, 1 << 20)
        if flags & 2 and not flags & 1 and whole is not None:
            assert rows(source, 1) == whole, "chunks give other rows than the whole file"

    atheris.Setup(
        [
            *sys.argv,
            f"-dict={scratch / 'tmx.dict'}",
            f"-artifact_prefix={scratch}/",
            "-max_len=4096",
            str(scratch / "seeds"),
        ],
        one,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
