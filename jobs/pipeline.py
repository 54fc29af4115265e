"""All steps: corpus, search (or control and run), judgement, promotion; finished ones are not done again.

    ray job submit --working-dir . --runtime-env jobs/runtime-env.yaml -- \\
        python jobs/pipeline.py jobs/experiments/pocket.yaml --set storage.runs=/shared/runs
"""

from ialign_ray.jobs.entry import main

if __name__ == "__main__":
    main("pipeline")
