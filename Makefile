# make demo   the whole way on a CPU, offline: rows → tiny base → training → merge → answers before and after
# make test   lint, types, tests
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE := 1

.PHONY: demo test
.NOTPARALLEL:

# make stamps the environment when it is whole, so that an interrupted installation is taken up again
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/govor validate data/natasha.jsonl
	$(BIN)/python scripts/make_tiny_base.py runs/tiny-base --force
	rm -rf runs/tiny
	$(BIN)/accelerate launch --config_file configs/accelerate/single.yaml train/sft.py configs/tiny.yaml
	$(BIN)/govor merge runs/tiny
	$(BIN)/govor eval runs/tiny

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest
