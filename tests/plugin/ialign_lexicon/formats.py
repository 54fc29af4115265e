"""Lexicon files: one `word = translation` a line."""

import pyarrow as pa

from ialign_ray.corpus.chunks import LINE, WHOLE, Format, chunks_of
from ialign_ray.corpus.formats.files import stamp, stored


def plan(request, files, number):
    """One chunk: a lexicon is small."""
    return chunks_of(request, files, number, [WHOLE], request.names, stamp(files[0]))


def read(chunk, rejects):
    """One table with the columns `word` and `translation`; a line without `=` is a bad row."""
    rows = []
    for number, line in enumerate(b"".join(stored(chunk.files[0])).decode("utf-8").splitlines(), start=1):
        word, equals, translation = line.partition("=")
        if equals:
            rows.append((number, word.strip(), translation.strip()))
        else:
            rejects(chunk.files[0], number, "has no =")
    numbers, words, translations = zip(*rows, strict=True) if rows else ((), (), ())
    text = {"word": pa.array(words, pa.string()), "translation": pa.array(translations, pa.string())}
    yield pa.table(text | {LINE: pa.array(numbers, pa.int64())})


LEXICON = Format(plan, read, suffixes=(".lexicon",))
