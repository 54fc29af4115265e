"""Score a finished run alongside base and control; stored predictions are reused.

    ray job submit --working-dir . --runtime-env jobs/runtime-env.yaml -- \\
        python jobs/evaluate.py jobs/experiments/pocket.yaml --set storage.runs=/shared/runs --run first
"""

from ialign_ray.jobs.entry import main

if __name__ == "__main__":
    main("evaluate")
