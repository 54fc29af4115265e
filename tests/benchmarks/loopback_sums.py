"""One of n processes that sum over loopback, as workers sum gradients; the first prints the median seconds as JSON.

python tests/benchmarks/loopback_sums.py RANK WORLD MEETING_FILE BYTES...
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import torch
import torch.distributed as dist

from ialign_ray.training.sharding import sum_over_workers

SMALL = 1 << 20


def main(rank: int, world: int, meet: str, sizes: list[int]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    found = []
    for size in sizes:
        value, seconds = torch.ones(size // 4), []
        for _ in range(31 if size < SMALL else 6):
            dist.barrier()
            began = time.perf_counter()
            sum_over_workers(value)
            seconds.append(time.perf_counter() - began)
        found.append(statistics.median(seconds[1:]))
    dist.destroy_process_group()
    if rank == 0:
        sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], [int(size) for size in sys.argv[4:]])
