"""Read, clean, clear of evaluation sentences and split every corpus; shards that are built are kept.

    ray job submit --working-dir . --runtime-env jobs/runtime-env.yaml -- \\
        python jobs/build_data.py jobs/experiments/pocket.yaml --set storage.runs=/shared/runs
"""

from ialign_ray.jobs.entry import main

if __name__ == "__main__":
    main("build_data")
