"""Rows of three languages that every test may use."""

import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

SUBJECTS = [
    ("cat", "kucing", "kucing"),
    ("dog", "anjing", "asu"),
    ("child", "anak", "bocah"),
    ("farmer", "petani", "tani"),
    ("teacher", "guru", "dwija"),
]
VERBS = [
    ("sees", "melihat", "ndeleng"),
    ("buys", "membeli", "tuku"),
    ("eats", "makan", "mangan"),
    ("wants", "mau", "arep"),
]
OBJECTS = [("rice", "nasi", "sega"), ("fish", "ikan", "iwak"), ("water", "air", "banyu"), ("bread", "roti", "roti")]


def sentences(count, first=0):
    """Distinct rows of eng, ind, jav."""
    rows = []
    for k in range(first, first + count):
        s, v, o = SUBJECTS[k % 5], VERBS[k // 5 % 4], OBJECTS[k // 20 % 4]
        rows.append(
            {
                "sid": k,
                "eng": f"The {s[0]} {v[0]} the {o[0]} in house {k}.",
                "ind": f"Sang {s[1]} {v[1]} {o[1]} di rumah {k}.",
                "jav": f"Si {s[2]} {v[2]} {o[2]} ing omah {k}.",
            }
        )
    return rows


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def two_corpora(folder, model, name, rows):
    """Plain data of an experiment whose corpus `name` has these rows, and whose corpus `gone` loses its only one."""
    write_jsonl(folder / "rows.jsonl", rows)
    write_jsonl(folder / "gone.jsonl", [{"eng": "same", "jav": "same"}])
    return {
        "name": "tiny",
        "languages": {"l1": ["eng"], "l2": ["jav", "sun"]},
        "model": {"id": str(model)},
        "replay": {"ratio": 0},
        "corpora": [
            {"name": name, "path": "rows.jsonl", "columns": {"eng": "eng", "jav": "jav"}, "id": "sid"},
            {"name": "gone", "path": "gone.jsonl", "columns": {"eng": "eng", "sun": "jav"}},
        ],
        "tasks": {"mix": {"mt": 0.5, "tlm": 0.5, "xss": 0}},
        "train": {"max_prompt_tokens": 40, "max_target_tokens": 24},
        "storage": {"data": str(folder), "runs": str(folder / "runs")},
    }


def tiny_experiment(folder, model):
    """A valid experiment as plain data, with its files in `folder`: three corpora, instructions and a suite."""
    rows = sentences(40)
    pa.csv.write_csv(pa.Table.from_pylist(rows[:16]), folder / "first.csv")
    write_jsonl(folder / "second.jsonl", rows[16:28])
    pq.write_table(pa.Table.from_pylist(rows[28:]), folder / "third.parquet")
    old = [{"id": f"q{k}", "inputs": f"Say the number {k} in words.", "targets": f"number {k}"} for k in range(30)]
    write_jsonl(folder / "old.jsonl", old)
    suite = [
        {**row, "label": ("bad", "good")[k % 2], "split": ("train", "test")[k // 2 % 2]}
        for k, row in enumerate(sentences(16, first=60))
    ]
    pq.write_table(pa.Table.from_pylist(suite), folder / "suite.parquet")
    columns = {"eng": "eng", "ind": "ind", "jav": "jav"}
    return {
        "name": "tiny",
        "languages": {"l1": ["eng"], "l2": ["ind", "jav"]},
        "model": {"id": str(model), "lora": {"rank": 4}},
        "corpora": [
            {"name": "first", "path": "first.csv", "columns": dict(columns), "id": "sid"},
            {"name": "second", "path": "second.jsonl", "columns": dict(columns), "id": "sid"},
            {"name": "third", "path": "third.parquet", "columns": dict(columns), "id": "sid"},
        ],
        "replay": {"sources": [{"path": "old.jsonl"}], "ratio": 0.25},
        "tasks": {"mix": "random-xss", "templates": ["eng", "ind"]},
        "train": {"steps": 6, "batch_size": 4, "checkpoint_every": 3, "learning_rate": 0.01, "micro_batch_tokens": 512},
        "evaluate": {
            "suites": [
                {
                    "kind": "classification",
                    "name": "mood",
                    "path": "suite.parquet",
                    "columns": dict(columns),
                    "id": "sid",
                    "labels": {"bad": {"eng": "bad"}, "good": {"eng": "good"}},
                    "prompts": [{"name": "plain", "text": "{text}\nGood or bad?"}],
                }
            ],
            "resamples": 100,
        },
        "storage": {"data": str(folder), "runs": str(folder / "runs")},
        "tracking": {"mlflow": False, "tensorboard": False},
    }
