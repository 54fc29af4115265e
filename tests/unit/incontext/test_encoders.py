"""Retrievers by vectors: sentence encoders and the evaluated model, kept in the cache."""

import sys
from types import ModuleType

import numpy as np
import pytest

from ialign_ray.errors import ConfigError
from ialign_ray.incontext import encoders
from ialign_ray.incontext.encoders import VectorSpace, index_recall, kept_vectors
from ialign_ray.incontext.pool import Pool, Query, Search

CONCEPTS = ["cat", "dog", "rice", "rain"]
WORDS = {"eng": CONCEPTS, "jav": ["kucing", "asu", "sega", "udan"]}
OFFSET = {"eng": np.zeros(6), "jav": np.full(6, 9.0)}
"""A direction of the language, far larger than that of meaning."""


class Encoder:
    """Vectors of concepts, moved by their language."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked += list(texts)
        return np.stack([self.vector(text) for text in texts]).astype(np.float32)

    def vector(self, text):
        for code, words in WORDS.items():
            for k, word in enumerate(words):
                if word in text.split():
                    return np.eye(6)[k] + OFFSET[code]
        return np.arange(6.0)


@pytest.fixture
def encoder(monkeypatch, tmp_path):
    monkeypatch.setenv("IALIGN_CACHE", str(tmp_path / "cache"))
    return Encoder()


def pool(language="eng", names=None):
    words = [f"{word} here" for word in WORDS[language]]
    return Pool([f"p{k}" for k in range(4)], [language] * 4, words, names or ())


def mixed():
    texts = [f"{word} here" for words in WORDS.values() for word in words]
    return Pool([f"p{k}" for k in range(8)], ["eng"] * 4 + ["jav"] * 4, texts)


def found(pool, encoder, text, language, k=1, **more):
    space = VectorSpace(model=lambda layer: encoder, **more)
    return Search.of(pool, ["model:last"], k, "x", space=space).find(Query("q", text, language)).places


def test_the_same_concept_is_nearest_in_any_language(encoder):
    for k in range(4):
        assert found(pool(), encoder, f"a {CONCEPTS[k]}", "eng") == [k]
        # of both languages the two texts of the concept come first, though languages are further apart than concepts
        assert set(found(mixed(), encoder, f"ana {WORDS['jav'][k]}", "jav", 2)) == {k, k + 4}


def test_a_language_that_the_pool_lacks_is_centred_by_sample_texts(encoder):
    samples = {"jav": [f"{word} iku" for word in WORDS["jav"]]}
    for k in range(4):
        assert found(pool(), encoder, f"ana {WORDS['jav'][k]}", "jav", samples=samples) == [k]


def test_vectors_are_computed_once_and_memory_mapped(encoder):
    texts, codes = list(pool().texts), ["eng"] * 4
    folder, first = kept_vectors(texts, codes, encoder)
    asked = len(encoder.asked)
    again_folder, again = kept_vectors(texts, codes, encoder)
    assert len(encoder.asked) - asked == 2  # the sentences that identify the encoder
    assert isinstance(again, np.memmap)
    assert again_folder == folder
    np.testing.assert_array_equal(first, again)
    assert kept_vectors([*texts[:3], "other"], codes, encoder)[0] != folder
    assert kept_vectors(texts, ["eng"] * 3 + ["jav"], encoder)[0] != folder
    assert kept_vectors(texts, codes, lambda some: encoder(some) * 2)[0] != folder


def test_torn_files_are_computed_again(encoder):
    texts, codes = list(pool().texts), ["eng"] * 4
    folder, first = kept_vectors(texts, codes, encoder)
    whole = np.array(first)
    (folder / "vectors.npy").write_bytes((folder / "vectors.npy").read_bytes()[:-7])
    np.testing.assert_array_equal(kept_vectors(texts, codes, encoder)[1], whole)


def test_a_kill_while_vectors_are_written_leaves_no_folder(encoder, tmp_path):
    def killed(texts):
        if len(texts) > 2:
            raise KeyboardInterrupt
        return encoder(texts)

    with pytest.raises(KeyboardInterrupt):
        kept_vectors(list(pool().texts), ["eng"] * 4, killed)
    assert list((tmp_path / "cache" / "vectors").iterdir()) == []


def test_a_pool_of_one_text_finds_it(encoder):
    one = Pool(["p"], ["eng"], ["cat here"])
    assert found(one, encoder, "a dog", "eng") == [0]


def test_long_pools_are_embedded_in_pieces(encoder, monkeypatch):
    whole = np.array(kept_vectors(mixed().texts, mixed().languages, encoder)[1])
    monkeypatch.setattr(encoders, "_PIECE", 3)
    monkeypatch.setenv("IALIGN_CACHE", str(kept_vectors(mixed().texts, mixed().languages, encoder)[0] / "other"))
    np.testing.assert_allclose(kept_vectors(mixed().texts, mixed().languages, encoder)[1], whole, atol=1e-6)


def test_a_sentence_encoder_is_loaded_by_its_id(encoder, monkeypatch):
    loaded = []

    class SentenceTransformer:
        """The documented part of the library's interface that is used."""

        def __init__(self, name):
            loaded.append(name)
            if name == "broken":
                raise OSError("broken is not a local folder\nand is not a valid model identifier")

        def encode(self, sentences, *, convert_to_numpy, show_progress_bar):
            assert convert_to_numpy
            assert not show_progress_bar
            return encoder(sentences)

    module = ModuleType("sentence_transformers")
    module.SentenceTransformer = SentenceTransformer
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    encoders._sentence_encoder.cache_clear()
    search = Search.of(mixed(), ["encoder:some/model"], 2, "contexts.a")
    assert set(search.find(Query("q", "ana kucing", "jav")).places) == {0, 4}
    Search.of(pool(), ["encoder:some/model", "bm25"], 1, "contexts.a").find(Query("q", "a dog", "eng"))
    assert loaded == ["some/model"]
    with pytest.raises(ConfigError, match=r"^contexts\.a\.retriever: 'broken' cannot be loaded"):
        Search.of(pool(), ["encoder:broken"], 1, "contexts.a")
    encoders._sentence_encoder.cache_clear()


def test_a_missing_library_is_said_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    encoders._sentence_encoder.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'ialign_ray\[encoders\]'"):
        Search.of(pool(), ["encoder:some/model"], 1, "contexts.a")


def test_the_models_layer_needs_an_open_model():
    with pytest.raises(ConfigError, match="needs the open model"):
        Search.of(pool(), ["model:last"], 1, "contexts.a")


def test_large_pools_need_faiss(encoder, monkeypatch):
    monkeypatch.setattr(encoders, "EXACT_MOST", 3)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install 'ialign_ray\[faiss\]'"):
        found(pool(), encoder, "a cat", "eng")


def test_an_approximate_index_finds_what_the_exact_search_does(encoder, monkeypatch, caplog):
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    vectors = {f"text {k}": rng.normal(size=6) for k in range(400)}

    def embed(texts):
        return np.stack([vectors.get(text, np.ones(6)) for text in texts]).astype(np.float32)

    many = Pool([f"p{k}" for k in range(400)], ["eng"] * 400, list(vectors), (), False)
    asked = Query("q", "text 7", "eng")
    space = VectorSpace(model=lambda layer: embed)
    exact = Search.of(many, ["model:last"], 5, "x", space=space).find(asked).places
    monkeypatch.setattr(encoders, "EXACT_MOST", 100)
    monkeypatch.setattr(encoders, "CANDIDATES", 50)
    with caplog.at_level("INFO"):
        near = Search.of(many, ["model:last"], 5, "x", space=space).find(asked).places
    assert len(set(exact) & set(near)) >= 3
    assert any("recall@10" in message for message in caplog.messages)


def test_recall_is_the_share_of_exact_neighbours():
    matrix = np.eye(20, dtype=np.float32)
    exact = np.argsort(-(matrix @ matrix.T), axis=1)

    class Index:
        def search(self, asked, k):
            found = exact[:, :k].copy()
            found[:, k // 2 :] = -1
            return None, found

    assert index_recall(Index(), matrix) == pytest.approx(0.5)
