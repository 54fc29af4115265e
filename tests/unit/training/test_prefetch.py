import threading
import time

import pytest

from ialign_ray.training.collate import ahead


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("next-batch")]


def test_items_come_in_order_with_what_is_made_of_them():
    assert list(ahead(iter(range(20)), lambda k: k * k)) == [(k, k * k) for k in range(20)]
    assert list(ahead(iter([]), lambda k: k)) == []
    assert threads() == []


def test_the_next_ones_are_made_while_the_first_is_used():
    made = []
    stream = ahead(iter(range(9)), made.append, depth=2)
    next(stream)
    deadline = time.monotonic() + 20
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert made == [0, 1, 2]  # and no more than that
    stream.close()
    assert threads() == []


def test_an_error_comes_where_its_item_would_have():
    def items():
        yield 1
        yield 2
        raise ValueError("torn")

    stream = ahead(items(), lambda k: 10 // (k - 2) if k == 5 else k)
    assert next(stream) == (1, 1)
    assert next(stream) == (2, 2)
    with pytest.raises(ValueError, match="torn"):
        next(stream)
    assert threads() == []
    making = ahead(iter([1, 2, 3]), lambda k: 1 // (k - 2))
    assert next(making) == (1, -1)
    with pytest.raises(ZeroDivisionError):
        next(making)


def test_the_thread_ends_with_its_reader():
    def reader():
        stream = ahead(iter(range(100)), lambda k: k)
        next(stream)
        raise RuntimeError("a step failed")

    with pytest.raises(RuntimeError):
        reader()
    deadline = time.monotonic() + 20
    while threads() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threads() == []
