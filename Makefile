# The only place where commands are spelled; CI and the README call these targets.
PYTHON ?= python3
# Without a GPU, `make setup TORCH_INDEX=...` may name the index of CPU builds given on PyTorch's
# install page; without it pip uses its configured index, which is right on a GPU machine.
TORCH_INDEX ?=
BIN := .venv/bin
DATA ?= ../shared/data
SMOLLM2 ?= HuggingFaceTB/SmolLM2-135M-Instruct

.PHONY: help setup check test nightly test-browser test-cluster test-faults host-tools pocket-base quickstart real-run miniature miniature-search schema bench bench-setup bench-training bench-pipeline bench-loss bench-scoring bench-corpus bench-search bench-serving bench-scale bench-statistics soak fuzz mutation clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 16

setup: $(BIN)/.installed  ## create .venv and install everything

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25"  # older ones take ten minutes to match aiobotocore and boto3
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --index-url $(TORCH_INDEX) "torch>=2.8$(comma)<2.14",)
	$(BIN)/python -m pip install --quiet --no-compile -e '.[dev]'  # modules are compiled on first use; compiling all takes a minute
	# its package needs Python 3.12, and a test needs only the JSON schema in it
	$(BIN)/python -m pip install --quiet --no-deps --ignore-requires-python "every-eval-ever==0.3.0"
	touch $@
comma := ,

check: setup  ## run ruff, strict mypy, the import contracts between rooms, and the check of wordings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tests/vocabulary.py

test: setup  ## run the quick tests, then the whole pipeline once under Ray, as in CI
	IALIGN_TESTS=quick OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile -m "$(QUICK)"
	$(BIN)/python -m pytest tests/integration/test_smoke.py
QUICK := not slow and not ray and not browser and not nightly and not cluster

nightly: setup  ## run every test except those of `make test-cluster`: kills at any moment, elastic workers, Serve, search, pages
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile -m "not ray and not browser and not cluster"
	$(BIN)/python -m pytest -m "(ray or browser) and not cluster"

# Separate hosts, in network namespaces: needs root, and Debian's packages below, which it installs if missing.
HOST_TOOLS := openssh-server openssh-client rsync iproute2 curl procps
test-cluster test-faults host-tools: export PATH := $(PATH):/usr/sbin:/sbin
test-cluster: setup host-tools  ## test ray up over ssh on a head and two workers, a job across them, and a dying host
	$(BIN)/python -m pytest -m cluster tests/cluster/test_hosts.py

test-faults: setup host-tools  ## test the pocket pipeline and more faults on the same hosts; half an hour
	$(BIN)/python -m pytest -m cluster tests/cluster/test_faults.py

host-tools:
	for tool in sshd rsync ip curl pgrep; do command -v $$tool > /dev/null || lacking=1; done; [ -z "$$lacking" ] \
		|| { apt-get update --quiet && apt-get install --yes --quiet --no-install-recommends $(HOST_TOOLS); }

test-browser: setup  ## test the pages in a headless Chromium, installed (Debian, root) if missing; make test skips them without one
	command -v chromium > /dev/null || command -v chromium-browser > /dev/null || command -v google-chrome > /dev/null \
		|| { apt-get update --quiet && apt-get install --yes --quiet --no-install-recommends chromium; }
	$(BIN)/python -m pytest -m browser tests/browser

pocket-base: setup  ## train the base model of the quickstart, once, and keep it in the cache
	$(BIN)/python -c "from rich.console import Console; from ialign_ray.training.pocket import ensure_base; ensure_base('pocket:base', Console())"

quickstart: setup  ## the pocket experiment: search, champion, translations, a request of each kind; SERVE=1 keeps serving
	$(BIN)/ialign tune jobs/experiments/pocket.yaml --promote --resume
	$(BIN)/ialign serve jobs/experiments/pocket.yaml $(if $(SERVE),,--port 0 --try)
	@printf '\n%s\n' "Report:            $(REPORT)" "Playground:        make quickstart SERVE=1, then http://127.0.0.1:8000/" \
		"Your own language: copy jobs/experiments/pocket.yaml, then see \"Your own languages\" in README.md"
REPORT = $(lastword $(wildcard runs/pocket/search/trials/*/evaluation/report.html))

real-run: setup  ## SmolLM2 on FLORES-200: make real-run DATA=... SMOLLM2=folder-or-hub-id
	$(BIN)/ialign compare jobs/experiments/smollm2-flores.yaml --set storage.data=$(DATA) --set model.id=$(SMOLLM2)

miniature: setup  ## the ablation of docs/evaluation.md on real data, half an hour on two cores: make miniature DATA=...
	$(BIN)/python jobs/miniature_instructions.py $(DATA) runs/miniature-base/instructions.jsonl
	$(BIN)/python jobs/small_base.py runs/miniature-base/instructions.jsonl runs/miniature-base/model --steps 800
	$(BIN)/ialign ablate jobs/experiments/miniature.yaml --set storage.data=$(DATA) \
		--set replay.sources.0.path=$(CURDIR)/runs/miniature-base/instructions.jsonl \
		--set evaluate.suites.old.path=$(CURDIR)/runs/miniature-base/instructions.jsonl

miniature-search: setup  ## search the replay ratio and LoRA rank on real data (docs/search.md); needs the base that `make miniature` trains
	$(BIN)/ialign tune jobs/experiments/miniature.yaml --promote --resume --set name=miniature-search \
		--set storage.data=$(DATA) --set model.tuning=lora --set train.learning_rate=3e-3 \
		--set train.validation='{pairs: 120, instructions: 120}' --set evaluate.tolerance=0.08 \
		--set replay.sources.0.path=$(CURDIR)/runs/miniature-base/instructions.jsonl \
		--set evaluate.suites.old.path=$(CURDIR)/runs/miniature-base/instructions.jsonl

schema: setup  ## print the JSON Schema of the experiment file
	$(BIN)/ialign schema

bench: bench-training bench-pipeline bench-loss bench-scoring bench-corpus bench-search bench-serving bench-scale  ## run all benchmarks, as ratios within one run; about a quarter of an hour

bench-setup: setup
	$(BIN)/python -m pip install --quiet -e '.[bench]'

bench-training: bench-setup  ## compare useful tokens/s with the reference implementation, transformers' Trainer and TRL
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/training_speed.py
	$(BIN)/python tests/benchmarks/render.py

bench-pipeline: bench-setup  ## compare Ray's pipeline with a bare loop, and two workers with one
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/pipeline.py
	$(BIN)/python tests/benchmarks/render.py

bench-loss: bench-setup  ## measure the memory of the loss with a vocabulary of 250,000
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/loss_memory.py
	$(BIN)/python tests/benchmarks/render.py

bench-scoring: bench-setup  ## compare label scoring with the reference implementation and lm-evaluation-harness
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/label_scoring.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/choice_scoring.py
	$(BIN)/python tests/benchmarks/render.py

bench-serving: bench-setup  ## compare the serving engine with generate and transformers' batching, and over HTTP with transformers serve
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/serving_engine.py pocket
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/serving_engine.py 100M --rounds 1
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/serving_http.py
	$(BIN)/python tests/benchmarks/render.py

soak: setup  ## send mixed requests to two replicas for half an hour while versions change: failures, memory, open files, threads
	IALIGN_SOAK_RESULT=docs/results/bench/soak.json $(BIN)/python -m pytest -s tests/integration/test_soak.py

bench-search: bench-setup  ## measure tokens until the grid's best setting, and trials per hour compared with one process per trial
	$(BIN)/python tests/benchmarks/search_efficiency.py docs/results/search-grid/grid.csv
	$(BIN)/python tests/benchmarks/trials_per_hour.py 12 18

bench-scale: bench-setup  ## measure the constants of the model of cost and time, and check its parts with 1 to 8 small workers
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/scale_model.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/scale_check.py
	$(BIN)/python tests/benchmarks/render.py

bench-statistics: setup  ## simulate every claim of docs/evaluation.md: coverage, false positives, retries; several minutes
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/statistical_claims.py

bench-corpus: bench-setup  ## compare reading and cleaning a corpus with `datasets` and OpusFilter
	$(BIN)/python tests/benchmarks/corpus_scale.py

mutation: setup  ## break 32 things in the core, one at a time, and count the tests that fail; half an hour
	$(BIN)/python tests/benchmarks/mutation.py docs/results/mutation/mutants.json

fuzz: setup  ## fuzz the TMX reader for five minutes, guided by coverage
	$(BIN)/python -m pip install --quiet -e '.[fuzz]'
	$(BIN)/python tests/fuzz/fuzz_tmx.py -max_total_time=300

clean:  ## remove runs and caches of tools, but not the environment
	rm -rf runs .mypy_cache .ruff_cache .pytest_cache
