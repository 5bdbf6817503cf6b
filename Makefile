# Two commands do everything on a fresh machine:  make run   and   make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NATIVE := $(shell find native -name '*.cc' -o -name '*.h')
JOB ?= kaggle
comma := ,

.PHONY: install run test bench sanitize sanitize-address sanitize-thread lint format stub clean

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

# The tests of the native code under AddressSanitizer with UndefinedBehaviorSanitizer, and ThreadSanitizer.
NATIVE_TESTS := $(addsuffix .py,$(addprefix tests/unit/test_,kernels quantised_linear row_formats io row_store store_formats \
	row_cache tickets strategies data_flow counting drift access_statistics page_order engine batcher replay pipeline precision pack sparse \
	sparse_damage tt_fit tt_contractions))
SANITIZED = $(BIN)/cmake -S . -B build/$(1) -G Ninja -DPython_EXECUTABLE=$(abspath $(BIN)/python) -DSCREC_SANITIZE=$(2) >/dev/null && \
	$(BIN)/cmake --build build/$(1) && \
	OPENBLAS_NUM_THREADS=1 LD_PRELOAD="$$(c++ -print-file-name=lib$(3).so) $$(c++ -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1 \
	TSAN_OPTIONS="halt_on_error=1 suppressions=$(abspath tests/tsan.supp)" \
	SCREC_SANITIZED=$$(ls build/$(1)/_native*.so) $(BIN)/pytest -p tests.sanitized -m "not slow" $(NATIVE_TESTS)

sanitize: sanitize-address sanitize-thread

sanitize-address: install
	$(call SANITIZED,address,address$(comma)undefined,asan)

sanitize-thread: install
	$(call SANITIZED,thread,thread,tsan)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(NATIVE)
	$(BIN)/codespell README.md CHANGELOG.md docs src native tests benchmarks recipes

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(NATIVE)

# Golden files that tests compare with the code: the stub of the compiled module, the schema of plans.
stub: install
	$(BIN)/python -m nanobind.stubgen -m screc._native -o src/screc/_native.pyi
	$(BIN)/python -c "import json; from screc.planning import Plan; print(json.dumps(Plan.model_json_schema(), indent=1))" >docs/plan.schema.json

clean:
	rm -rf build run $(VENV) src/screc/*.so
