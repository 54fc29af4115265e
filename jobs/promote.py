"""Register an evaluated run, and make it the champion if it is shown better; exit code 2 where it is not.

    ray job submit --working-dir . --runtime-env jobs/runtime-env.yaml -- \\
        python jobs/promote.py jobs/experiments/pocket.yaml --set storage.runs=/shared/runs --run first
"""

from ialign_ray.jobs.entry import main

if __name__ == "__main__":
    main("promote")
