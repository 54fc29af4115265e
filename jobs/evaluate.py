"""Score a finished run beside base and control; what is scored is kept.

    ray job submit --working-dir . --runtime-env jobs/runtime-env.yaml -- \\
        python jobs/evaluate.py jobs/experiments/pocket.yaml --set storage.runs=/shared/runs --run first
"""

from ialign_ray.jobs.entry import main

if __name__ == "__main__":
    main("evaluate")
