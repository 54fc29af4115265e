"""Train one run; submitted again, it resumes from the newest intact checkpoint.

    ray job submit --working-dir . --runtime-env jobs/runtime-env.yaml -- \\
        python jobs/align.py jobs/experiments/pocket.yaml --set storage.runs=/shared/runs --run first
"""

from ialign_ray.jobs.entry import main

if __name__ == "__main__":
    main("align")
