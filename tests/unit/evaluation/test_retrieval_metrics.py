import numpy as np
import pandas as pd
import pytest

from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics.bootstrap import resample_weights
from ialign_ray.evaluation.metrics.cell import Cell
from ialign_ray.evaluation.metrics.registry import draw_metrics
from ialign_ray.evaluation.metrics.retrieval import ranks, surface_ranks


def test_ranks_against_a_loop_over_cosines():
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(30, 8))
    candidates = queries + 1.2 * rng.normal(size=(30, 8))
    expected = []
    for k, q in enumerate(queries):
        cosines = [q @ c / np.linalg.norm(q) / np.linalg.norm(c) for c in candidates]
        expected.append(sum(x > cosines[k] for x in cosines))
    assert ranks(queries, candidates).tolist() == expected
    assert 0 < sum(r == 0 for r in expected) < 30


def test_length_of_a_vector_does_not_count_and_a_tie_is_no_find():
    queries = np.eye(4)
    assert ranks(queries, 7 * queries).tolist() == [0, 0, 0, 0]
    assert ranks(np.ones((4, 3)), np.ones((4, 3))).tolist() == [3, 3, 3, 3]
    assert ranks(np.zeros((4, 3)), np.ones((4, 3))).tolist() == [3, 3, 3, 3]


def test_surface_ranks_find_what_spelling_shares_and_nothing_else():
    ind = ["rumah besar di tepi sungai", "anak itu membaca buku", "hujan turun sepanjang malam"]
    near = ["rumah gadang di tapi sungai", "anak tu mambaco buku", "hujan turun sapanjang malam"]
    assert surface_ranks(ind, near).tolist() == [0, 0, 0]
    assert surface_ranks(ind, ["บ้าน", "หนังสือ", "ฝน"]).tolist() == [2, 2, 2]
    assert surface_ranks([" ", " "], [" ", " "]).tolist() == [1, 1]


def test_metrics_and_their_draws():
    rank, surface = np.array([0, 0, 1, 3]), np.array([0, 2, 2, 2])
    rows = pd.DataFrame({"rank": rank, "surface_rank": surface, "candidates": 4})
    found = {name: d[0] for name, d in draw_metrics(Cell(rows, np.arange(4), np.ones((4, 1))), "retrieval").items()}
    assert found["retrieval_accuracy"] == 0.5
    assert found["retrieval_mrr"] == pytest.approx((1 + 1 + 1 / 2 + 1 / 4) / 4)
    assert found["retrieval_chance"] == 0.25
    assert found["retrieval_surface"] == 0.25
    assert found["retrieval_over_surface"] == 0.25
    weights = resample_weights(4, 20)
    draws = draw_metrics(Cell(rows, np.arange(4), weights), "retrieval")
    for d in range(21):
        drawn = np.repeat(np.arange(4), weights[:, d].astype(int))
        assert draws["retrieval_accuracy"][d] == pytest.approx((rank[drawn] == 0).mean())


def test_refusals():
    with pytest.raises(DataError, match="two sentences"):
        ranks(np.ones((1, 3)), np.ones((1, 3)))
    with pytest.raises(DataError, match="NaN or infinite"):
        ranks(np.full((2, 3), np.nan), np.ones((2, 3)))
