# Two commands do everything on a fresh machine:  make run   and   make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NATIVE := $(shell find native -name '*.cc' -o -name '*.h')
JOB ?= kaggle

.PHONY: install run test bench lint format stub clean

install: $(STAMP)

$(STAMP): pyproject.toml CMakeLists.txt $(NATIVE)
	@command -v $(PYTHON) >/dev/null || { echo "SCRec needs Python 3.11 or newer: install python3 and python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "SCRec needs Python 3.11 or newer, $$($(PYTHON) -V) found; set PYTHON=..."; exit 1; }
	@command -v c++ >/dev/null || { echo "SCRec needs a C++20 compiler: apt-get install g++"; exit 1; }
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV) || { echo "SCRec needs the venv module: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

# The main job, end to end on generated data: run/report.json and two pictures.
run: install
	$(BIN)/python -m recipes.synthetic_dlrm_planned --out run

test: install
	$(BIN)/pytest

bench: install
	$(BIN)/python benchmarks/run.py $(JOB) --json run/bench-$(JOB).json

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(NATIVE)
	$(BIN)/codespell README.md CHANGELOG.md docs src native tests benchmarks recipes

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(NATIVE)

# The golden stub of the compiled module; a test compares it with the build.
stub: install
	$(BIN)/python -m nanobind.stubgen -m screc._native -o src/screc/_native.pyi

clean:
	rm -rf build run $(VENV) src/screc/*.so
