"""Serve the models of `serve.models`, the champion when left out, until the job is stopped; follows a promotion.

    ray job submit --no-wait --working-dir . --runtime-env jobs/runtime-env.yaml -- \\
        python jobs/serve.py jobs/experiments/pocket.yaml --set storage.runs=/shared/runs
"""

from ialign_ray.jobs.entry import main

if __name__ == "__main__":
    main("serve")
