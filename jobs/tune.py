"""Search the space of `search` and evaluate the winner; submitted again, it does not repeat finished trials.

    ray job submit --working-dir . --runtime-env jobs/runtime-env.yaml -- \\
        python jobs/tune.py jobs/experiments/pocket.yaml --set storage.runs=/shared/runs
"""

from ialign_ray.jobs.entry import main

if __name__ == "__main__":
    main("tune")
