"""Retrievers by vectors: sentence encoders, and hidden layers of the evaluated model.

Vectors are centred by language: without it, a sentence is nearest to others in its language (Libovický et al. 2020,
arXiv 2004.05160). Those of a pool are computed once, kept under a hash of model and texts, and memory-mapped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from ialign_ray.errors import ConfigError, first_line
from ialign_ray.storage import cache_folder, json_hash, once, read_json, write_json

ENCODER, MODEL = "encoder:", "model:"
PREFIXES: Final = (ENCODER, MODEL)
"""Beginnings of the names of these retrievers; the rest is an id or path, or a layer."""
EXACT_MOST = 1_000_000
"""Texts up to which every vector is compared; beyond, an approximate index finds `CANDIDATES` of them."""
CANDIDATES: Final = 1024
SAMPLES: Final = 256
"""Texts that the mean vector of a language is estimated from if the pool has no text in it."""
_VERSION: Final = 1  # of the kept vectors
_PIECE: Final = 4096
_VECTORS, _MEANS, _INDEX = "vectors.npy", "means.json", "index.faiss"

Vectors = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]
"""Function of texts that returns their vectors (n, H)."""
log = logging.getLogger("ialign_ray")


@dataclass(frozen=True)
class VectorSpace:
    """Everything that the comparison of vectors needs beyond the texts of a pool."""

    languages: Sequence[str] = ()
    """Language of each text of the pool (n,); empty if unknown."""
    samples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Language -> texts that its mean vector is estimated from, for questions in languages that the pool lacks."""
    model: Callable[[str], Embed] | None = None
    """Function of a layer that embeds by the evaluated model, while one is open."""


def vector_similarities(
    name: str, texts: Sequence[str], field: str, space: VectorSpace
) -> Callable[[str, str], NDArray[np.float64]]:
    """Function of a question's text and language that returns cosines (n,), -1 for texts that the index left out.

    Raises ConfigError if the encoder cannot be loaded, or for `model:` while no model is open.
    """
    embed = embedder(name, field, space)
    languages = list(space.languages) or [""] * len(texts)
    folder, matrix = kept_vectors(texts, languages, embed)
    means = {code: np.asarray(mean, dtype=np.float32) for code, mean in read_json(folder / _MEANS).items()}
    for code, given in space.samples.items():
        if code not in means:
            means[code] = embed(list(given)[:SAMPLES]).mean(axis=0)
    index = nearest_index(folder, matrix) if len(matrix) > EXACT_MOST else None

    @lru_cache(maxsize=1 << 12)
    def unit_vector(text: str, language: str) -> Vectors:
        found: Vectors = _unit(embed([text]) - means.get(language, means["*"]))[0]
        return found

    def similar(text: str, language: str) -> NDArray[np.float64]:
        own = unit_vector(text, language)
        if index is None:
            return (matrix @ own).astype(np.float64)
        found = np.full(len(matrix), -1.0)
        places = index.search(own[None], min(CANDIDATES, len(matrix)))[1][0]
        places = places[places >= 0]
        found[places] = matrix[places] @ own
        return found

    return similar


def embedder(name: str, field: str, space: VectorSpace) -> Embed:
    """The embedding function of a retriever's name. Raises ConfigError, which begins with `field`."""
    if name.startswith(ENCODER):
        return _sentence_encoder(name.removeprefix(ENCODER), field)
    if space.model is None:
        raise ConfigError(f"{field} is {name!r}, which needs the open model; use another retriever here")
    return space.model(name.removeprefix(MODEL))


@lru_cache(maxsize=2)
def _sentence_encoder(name: str, field: str) -> Embed:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ConfigError(
            f"{field} is '{ENCODER}{name}', which needs a package: pip install 'ialign_ray[encoders]'"
        ) from error
    try:
        model: Any = SentenceTransformer(name)
    except Exception as error:  # of the hub, of a folder's files, or of the model's own code
        raise ConfigError(
            f"{field}: {name!r} cannot be loaded as a sentence encoder ({first_line(error)}); give the id or the "
            "folder of a sentence-transformers model"
        ) from error

    def embed(texts: Sequence[str]) -> Vectors:
        found = model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)

    return embed


def kept_vectors(texts: Sequence[str], languages: Sequence[str], embed: Embed) -> tuple[Path, Vectors]:
    """Folder in the cache and memory-mapped vectors (n, H) of a pool: centred by language, of length one.

    The folder also holds the means, by language and of all texts (`*`). The key depends on the vectors of two
    sentences, so that an encoder whose weights changed under the same name gets other files.
    """
    probe = np.round(embed(["Selamat pagi.", "One, two, three."]).astype(np.float64), 3)
    key = json_hash([_VERSION, probe.tolist(), list(texts), list(languages)])
    folder = once(cache_folder() / "vectors" / key, lambda scratch: _write_vectors(scratch, texts, languages, embed))
    return folder, cast(Vectors, np.load(folder / _VECTORS, mmap_mode="r"))


def _write_vectors(scratch: Path, texts: Sequence[str], languages: Sequence[str], embed: Embed) -> None:
    codes = np.asarray(languages, dtype=str)
    sums: dict[str, NDArray[np.float64]] = {}
    raw = None
    for start in range(0, len(texts), _PIECE):
        piece = embed(texts[start : start + _PIECE])
        if raw is None:
            raw = np.lib.format.open_memmap(
                scratch / _VECTORS, mode="w+", dtype=np.float32, shape=(len(texts), piece.shape[1])
            )
        raw[start : start + len(piece)] = piece
        for code in np.unique(codes[start : start + len(piece)]):
            own = piece[codes[start : start + len(piece)] == code].sum(axis=0, dtype=np.float64)
            sums[str(code)] = sums.get(str(code), 0.0) + own
    assert raw is not None  # a pool has a text
    means = {code: (total / np.count_nonzero(codes == code)).astype(np.float32) for code, total in sums.items()}
    whole = np.sum(list(sums.values()), axis=0) / len(texts)
    for start in range(0, len(texts), _PIECE):
        part = slice(start, start + _PIECE)
        raw[part] = _unit(raw[part] - np.stack([means[code] for code in codes[part]]))
    raw.flush()
    write_json(scratch / _MEANS, {code: mean.tolist() for code, mean in (means | {"*": whole}).items()})


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    # a text that equals its language's mean, as the only one of a pool, is similar to nothing
    found: Vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-6)
    return found


def nearest_index(folder: Path, matrix: Vectors) -> Any:
    """Approximate index (faiss, inverted lists) of vectors (n, H), kept in their folder; logs its recall.

    Raises ConfigError without faiss.
    """
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            f"a pool of {len(matrix)} texts needs an approximate index (above {EXACT_MOST}): "
            "pip install 'ialign_ray[faiss]', or use `bm25`"
        ) from error
    lists = max(1, int(4 * np.sqrt(len(matrix))))

    def build(scratch: Path) -> None:
        made = faiss.index_factory(matrix.shape[1], f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
        # the usual number of training points per list
        step = max(1, len(matrix) // (40 * lists))
        made.train(np.ascontiguousarray(matrix[::step]))
        for start in range(0, len(matrix), 64 * _PIECE):
            made.add(np.ascontiguousarray(matrix[start : start + 64 * _PIECE]))
        faiss.write_index(made, str(scratch / _INDEX))

    kept = once(folder.parent / f"{folder.name}-index", build)
    index = faiss.read_index(str(kept / _INDEX), faiss.IO_FLAG_MMAP)
    index.nprobe = max(8, lists // 32)
    log.info("approximate search of %d vectors: recall@10 %.3f", len(matrix), index_recall(index, matrix))
    return index


def index_recall(index: Any, matrix: Vectors, queries: int = 100, k: int = 10) -> float:
    """Share of the k exact nearest vectors that an index finds, for some of the vectors as queries."""
    asked = np.ascontiguousarray(matrix[:: max(1, len(matrix) // queries)][:queries])
    found = index.search(asked, k)[1]
    exact = np.argsort(-(asked @ matrix.T), axis=1)[:, :k]
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(found.tolist(), exact.tolist(), strict=True)]))
