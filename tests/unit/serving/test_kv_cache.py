import random

import torch
from transformers import DynamicCache

from ialign_ray.serving.engine.kv_cache import SPARE, SlotCache

HEADS, SIZE, LAYERS = 2, 3, 2


def step_of(cache, columns):
    """What every layer gives back for a step's new columns [rows, heads, 1, size]."""
    return [cache.update(columns + layer, -columns - layer, layer) for layer in range(LAYERS)]


def test_rows_keep_their_own_columns_whoever_comes_and_goes():
    """Against a plain list of columns for each row, over more steps than a buffer is wide."""
    draw, made = random.Random(0), torch.Generator().manual_seed(0)
    cache, rows = SlotCache(), []

    def some(*shape):
        return torch.randn(*shape, generator=made)

    for step in range(8 * SPARE):
        if not rows or (len(rows) < 7 and draw.random() < 0.2):
            lengths = [draw.randint(1, 30) for _ in range(draw.randint(1, 3))]
            fresh, width = DynamicCache(), max(lengths)
            columns = some(len(lengths), HEADS, width, SIZE)
            for layer in range(LAYERS):
                fresh.update(columns + layer, -columns - layer, layer)
            cache.join(fresh)
            rows += [columns[i, :, width - length :] for i, length in enumerate(lengths)]
            cache.narrow(max(row.shape[1] for row in rows))
        cache.room()
        columns = some(len(rows), HEADS, 1, SIZE)
        rows = [torch.cat([row, columns[i]], 1) for i, row in enumerate(rows)]
        for layer, (keys, values) in enumerate(step_of(cache, columns)):
            assert keys.shape[2] == max(row.shape[1] for row in rows)
            for i, row in enumerate(rows):
                assert torch.equal(keys[i, :, -row.shape[1] :], row + layer), step
                assert torch.equal(values[i, :, -row.shape[1] :], -row - layer)
        cache.span.end += 1
        for i in sorted((i for i, row in enumerate(rows) if row.shape[1] > 50 or draw.random() < 0.05), reverse=True):
            cache.leave(i)
            rows[i] = rows[-1]
            rows.pop()
        if rows:
            cache.narrow(max(row.shape[1] for row in rows))
    # as wide as the rows are long, and not as the traffic
    assert cache.column_count() <= 8 * (52 + SPARE)


def test_a_long_row_and_many_short_ones_are_never_many_long_ones():
    cache = SlotCache()

    def join(rows, width):
        fresh = DynamicCache()
        for layer in range(LAYERS):
            fresh.update(torch.ones(rows, HEADS, width, SIZE), torch.ones(rows, HEADS, width, SIZE), layer)
        cache.join(fresh)

    join(1, 4000)
    cache.leave(0)
    join(32, 20)
    assert cache.column_count() == 32 * (20 + SPARE)
    for row in reversed(range(32)):
        cache.leave(row)
    join(1, 4000)
    assert cache.column_count() == 4000 + SPARE


def test_a_row_that_held_nan_leaves_none_behind():
    """What is masked is multiplied by 0: NaN in the padding of a later row would be NaN in its answer."""
    draw, cache = random.Random(2), SlotCache()
    rows: list[list[int]] = []  # one number each, its length

    def leave(row):
        at = next(i for i, other in enumerate(rows) if other is row)
        cache.leave(at)
        rows[at] = rows[-1]
        rows.pop()

    for _ in range(6 * SPARE):
        while len(rows) < 5:
            broken, length, fresh = draw.random() < 0.3, draw.randint(1, 30), DynamicCache()
            for layer in range(LAYERS):
                columns = torch.full((1, HEADS, length, SIZE), torch.nan if broken else 0.0)
                fresh.update(columns, columns, layer)
            cache.join(fresh)
            rows.append([length])
            if broken:  # its prompt was read, and its first logits were NaN
                leave(rows[-1])
        cache.narrow(max(row[0] for row in rows))
        cache.room()
        failed = [i for i in range(len(rows)) if draw.random() < 0.1]
        columns = torch.zeros(len(rows), HEADS, 1, SIZE)
        columns[failed] = torch.nan
        for keys, values in step_of(cache, columns):
            assert sorted({int(i) for held in (keys, values) for i in held.isnan().nonzero()[:, 0]}) == failed
        cache.span.end += 1
        for row in rows:
            row[0] += 1
        leaving = [row for i, row in enumerate(rows) if i in failed or row[0] > 50]
        for row in draw.sample(leaving, len(leaving)):
            leave(row)
        if rows:
            cache.narrow(max(row[0] for row in rows))
