"""`python -m ialign_ray.jobs JOB EXPERIMENT`: the scripts of `jobs/`, from any working directory."""

from __future__ import annotations

import sys

from ialign_ray.jobs.entry import JOBS, main

if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in JOBS:
        sys.stderr.write(f"ialign: no such job {name!r}; use one of {', '.join(JOBS)}\n")
        sys.exit(2)
    main(name, sys.argv[2:])
