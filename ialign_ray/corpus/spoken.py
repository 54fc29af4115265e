"""Languages that a corpus declares against those that its files are in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ialign_ray.config import CorpusConfig
from ialign_ray.corpus.formats.tmx import languages_in
from ialign_ray.errors import DataError
from ialign_ray.languages import LAST_RESORT, tag_distance


def check_languages(corpus: CorpusConfig, texts: Mapping[str, int], memories: Sequence[str]) -> list[str]:
    """Warnings about languages that were read from the tag of their macro-language, or of its usual member.

    `texts` is the number of texts of each language before cleaning. Raises DataError for a language without any; of
    translation `memories` (their files), the message lists the languages that are there.
    """
    found = sorted({tag for file in memories for tag in languages_in(file)})
    for code in corpus.languages:
        if texts.get(code):
            continue
        wanted = corpus.columns.get(code) or (corpus.long.values[code] if corpus.long else code)
        there = f"; the file has {', '.join(found)}" if found else ""
        raise DataError(
            f"corpus {corpus.name!r} ({corpus.origin}) has no text in {code} (as {wanted!r}){there}; correct the name, "
            "or remove the language from this corpus"
        )
    warnings = []
    for code, column in corpus.columns.items() if found else ():
        distances = {tag: d for tag in found if (d := tag_distance(column, tag)) is not None}
        if distances and min(distances.values()) == LAST_RESORT:
            warnings.append(f"corpus {corpus.name!r}: {code} is read from {', '.join(distances)}, not {column}")
    return warnings
