# The only place where commands are spelled; CI and the README call these targets.
PYTHON ?= python3
# Where there is no GPU, `make setup TORCH_INDEX=...` may name the index of CPU builds given on PyTorch's
# install page; without it pip takes what its own configuration finds, which is right on a GPU machine.
TORCH_INDEX ?=
BIN := .venv/bin
DATA ?= ../shared/data
SMOLLM2 ?= HuggingFaceTB/SmolLM2-135M-Instruct

.PHONY: help setup check test nightly test-browser test-cluster test-faults host-tools pocket-base quickstart real-run miniature miniature-search schema bench bench-setup bench-training bench-pipeline bench-loss bench-scoring bench-corpus bench-search bench-serving bench-scale bench-statistics soak fuzz mutation clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 16

setup: $(BIN)/.installed  ## make .venv and install everything

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25"  # older ones take ten minutes to match aiobotocore and boto3
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --index-url $(TORCH_INDEX) "torch>=2.8$(comma)<2.14",)
	$(BIN)/python -m pip install --quiet --no-compile -e '.[dev]'  # what is used compiles itself; all of it takes a minute
	touch $@
comma := ,

check: setup  ## ruff, strict mypy, and the walls between rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: setup  ## the quick tests, then the whole way once under Ray: what CI runs
	IALIGN_TESTS=quick OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile -m "$(QUICK)"
	$(BIN)/python -m pytest tests/integration/test_smoke.py
QUICK := not slow and not ray and not browser and not nightly and not cluster

nightly: setup  ## every test but those of `make test-cluster`: kills at any moment, elastic workers, Serve, search, the pages
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile -m "not ray and not browser and not cluster"
	$(BIN)/python -m pytest -m "(ray or browser) and not cluster"

# Hosts of its own, in network namespaces: needs root, and Debian's packages below, which it installs where they lack.
HOST_TOOLS := openssh-server openssh-client rsync iproute2 curl procps
test-cluster test-faults host-tools: export PATH := $(PATH):/usr/sbin:/sbin
test-cluster: setup host-tools  ## for real: ray up over ssh on a head and two workers, a job across them, a host that dies
	$(BIN)/python -m pytest -m cluster tests/cluster/test_hosts.py

test-faults: setup host-tools  ## the same hosts: the pocket pipeline, and whatever else dies there; half an hour
	$(BIN)/python -m pytest -m cluster tests/cluster/test_faults.py

host-tools:
	for tool in sshd rsync ip curl pgrep; do command -v $$tool > /dev/null || lacking=1; done; [ -z "$$lacking" ] \
		|| { apt-get update --quiet && apt-get install --yes --quiet --no-install-recommends $(HOST_TOOLS); }

test-browser: setup  ## the pages in a headless Chromium, which is installed (Debian, root) where it lacks; make test skips them there
	command -v chromium > /dev/null || command -v chromium-browser > /dev/null || command -v google-chrome > /dev/null \
		|| { apt-get update --quiet && apt-get install --yes --quiet --no-install-recommends chromium; }
	$(BIN)/python -m pytest -m browser tests/browser

pocket-base: setup  ## train the base model of the quickstart, once, and keep it in the cache
	$(BIN)/python -c "from rich.console import Console; from ialign_ray.training.pocket import ensure_base; ensure_base('pocket:base', Console())"

quickstart: setup  ## the pocket experiment: search, front, champion, a request of each kind; SERVE=1 leaves it up
	$(BIN)/ialign tune jobs/experiments/pocket.yaml --promote --resume
	$(BIN)/ialign serve jobs/experiments/pocket.yaml $(if $(SERVE),,--port 0 --try)

real-run: setup  ## SmolLM2 on FLORES-200: make real-run DATA=... SMOLLM2=folder-or-hub-id
	$(BIN)/ialign compare jobs/experiments/smollm2-flores.yaml --set storage.data=$(DATA) --set model.id=$(SMOLLM2)

miniature: setup  ## the ablation of docs/evaluation.md on real data, half an hour on two cores: make miniature DATA=...
	$(BIN)/python jobs/miniature_instructions.py $(DATA) runs/miniature-base/instructions.jsonl
	$(BIN)/python jobs/small_base.py runs/miniature-base/instructions.jsonl runs/miniature-base/model --steps 800
	$(BIN)/ialign ablate jobs/experiments/miniature.yaml --set storage.data=$(DATA) \
		--set replay.sources.0.path=$(CURDIR)/runs/miniature-base/instructions.jsonl \
		--set evaluate.suites.old.path=$(CURDIR)/runs/miniature-base/instructions.jsonl

miniature-search: setup  ## the search of docs/search.md on real data: dose and rank; needs the base that `make miniature` trains
	$(BIN)/ialign tune jobs/experiments/miniature.yaml --promote --resume --set name=miniature-search \
		--set storage.data=$(DATA) --set model.tuning=lora --set train.learning_rate=3e-3 \
		--set train.validation='{pairs: 120, instructions: 120}' --set evaluate.tolerance=0.08 \
		--set replay.sources.0.path=$(CURDIR)/runs/miniature-base/instructions.jsonl \
		--set evaluate.suites.old.path=$(CURDIR)/runs/miniature-base/instructions.jsonl

schema: setup  ## print the JSON Schema of the experiment file
	$(BIN)/ialign schema

bench: bench-training bench-pipeline bench-loss bench-scoring bench-corpus bench-search bench-serving bench-scale  ## all benchmarks, as ratios within one run; about a quarter of an hour

bench-setup: setup
	$(BIN)/python -m pip install --quiet -e '.[bench]'

bench-training: bench-setup  ## useful tokens/s against the reference way, transformers' Trainer and TRL
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/training_speed.py
	$(BIN)/python tests/benchmarks/render.py

bench-pipeline: bench-setup  ## Ray's pipeline against a bare loop, two workers against one
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/pipeline.py
	$(BIN)/python tests/benchmarks/render.py

bench-loss: bench-setup  ## memory of the loss at a vocabulary of 250,000
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/loss_memory.py
	$(BIN)/python tests/benchmarks/render.py

bench-scoring: bench-setup  ## label scoring against the reference way and lm-evaluation-harness
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/label_scoring.py
	$(BIN)/python tests/benchmarks/render.py

bench-serving: bench-setup  ## the serving engine against generate and transformers' own batching; over HTTP against transformers serve
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/serving_engine.py pocket
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/serving_engine.py 100M --rounds 1
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/serving_http.py
	$(BIN)/python tests/benchmarks/render.py

soak: setup  ## half an hour of mixed requests to two replicas while versions move: failures, memory, open files, threads
	IALIGN_SOAK_RESULT=docs/results/bench/soak.json $(BIN)/python -m pytest -s tests/integration/test_soak.py

bench-search: bench-setup  ## tokens until the grid's best setting, and trials an hour against one process a trial
	$(BIN)/python tests/benchmarks/search_efficiency.py docs/results/search-grid/grid.csv
	$(BIN)/python tests/benchmarks/trials_per_hour.py 12 18

bench-scale: bench-setup  ## the model of cost and time: its constants, and its parts against 1 to 8 small workers
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/scale_model.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/scale_check.py
	$(BIN)/python tests/benchmarks/render.py

bench-statistics: setup  ## every claim of docs/evaluation.md simulated: coverage, false rates, retries; some minutes
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/statistical_claims.py

bench-corpus: bench-setup  ## reading and cleaning a corpus against `datasets` and OpusFilter
	$(BIN)/python tests/benchmarks/corpus_scale.py

mutation: setup  ## break 32 things in the core, one at a time, and count which tests notice; half an hour
	$(BIN)/python tests/benchmarks/mutation.py docs/results/mutation/mutants.json

fuzz: setup  ## five minutes of coverage-guided fuzzing of the TMX reader
	$(BIN)/python -m pip install --quiet -e '.[fuzz]'
	$(BIN)/python tests/fuzz/fuzz_tmx.py -max_total_time=300

clean:  ## remove runs and caches of tools; the environment stays
	rm -rf runs .mypy_cache .ruff_cache .pytest_cache
