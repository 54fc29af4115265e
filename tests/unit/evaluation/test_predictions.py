from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ialign_ray.evaluation.scoring.predictions import PredictionStore, row_keys

FRAME = pd.DataFrame(
    {"id": ["a", "b", "c"], "scores": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "nats": [0.5, np.nan, 2.0]}
)
KEYS = ["k1", "k2", "k3"]


@pytest.fixture
def store(tmp_path):
    return PredictionStore(tmp_path, "mood/1", "plain prompt", ["model", {"unit": 1}])


def test_rows_come_back_in_the_order_asked_for_whatever_part_they_lie_in(store):
    store.write(KEYS[2:], FRAME.iloc[2:])
    store.write(KEYS[:2], FRAME.iloc[:2])
    back = store.read(["k2", "k3", "k1", "k2"])
    assert list(back["id"]) == ["b", "c", "a", "b"]
    assert np.stack(back["scores"]).tolist() == [[3, 4], [5, 6], [1, 2], [3, 4]]
    assert list(back.columns) == list(FRAME.columns)
    assert np.isnan(back["nats"][0])


def test_a_part_whose_column_is_empty_does_not_change_the_type_of_the_others(store):
    store.write(["k1"], pd.DataFrame({"nats": [None]}))
    store.write(["k2"], pd.DataFrame({"nats": [1.5]}))
    assert store.read(["k1", "k2"])["nats"].tolist()[1] == 1.5


@pytest.mark.parametrize("damage", ["torn", "empty", "flipped"])
def test_a_damaged_part_is_made_anew_and_never_read(store, damage):
    store.write(KEYS[:2], FRAME.iloc[:2])
    store.write(KEYS[2:], FRAME.iloc[2:])
    part = max(store.folder.glob("part-*"), key=lambda p: p.stat().st_size)
    whole = part.read_bytes()
    middle = whole.index(b"k1") if b"k1" in whole else 20
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    part.write_bytes({"torn": whole[:-9], "empty": b"", "flipped": flipped}[damage])
    before = store.known()
    assert before in ({"k3"}, {"k1", "k2"})
    assert len(list(store.folder.glob("part-*"))) == 1


def test_another_model_prompt_or_setting_lies_elsewhere(tmp_path):
    names = [("s", "p", [1]), ("s", "p", [2]), ("s", "q", [1]), ("t", "p", [1])]
    assert len({PredictionStore(tmp_path, *name).folder for name in names}) == 4
    assert PredictionStore(tmp_path, "../s", "a/b", 1).folder.relative_to(tmp_path).parts[:2] == (".._s", "a_b")


def test_a_rows_key_is_its_content(tmp_path):
    rows = pd.DataFrame(
        {"id": ["1", "1", "2"], "text": ["a\nb\u2028", "a\nb\u2028", "a\nb"], "few": [[1], [1], [1, 2]]}
    )
    keys = row_keys(rows)
    assert keys[0] == keys[1] != keys[2]
    assert row_keys(rows.iloc[[2, 0]]) == [keys[2], keys[0]]
    assert row_keys(rows.assign(few=[[1], [3], [1, 2]]))[1] != keys[1]
    assert row_keys(rows.iloc[:0]) == []
