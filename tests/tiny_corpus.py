"""Rows of three languages that every test may use."""

import json

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
