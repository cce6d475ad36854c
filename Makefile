# Everything a contributor runs. Needs Python 3.11 or later, make and the package index; the first
# run of any target makes .venv, later runs start at once. Plain make: works with GNU make 3.81 too.

BIN := .venv/bin
READY := .venv/.ready
OUT ?= out

# The first of these that runs and is new enough is taken; PYTHON=/path/to/python goes before them.
CANDIDATES := $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3 python

.PHONY: help lab test check docs format errors bench clean

help:
	@echo "make lab     rows of the roadmap, the example killed and resumed, an HTML report in $(OUT)/"
	@echo "make test    all tests; ARGS='tests/lab -x' runs some"
	@echo "make check   style, types, layers, and the shape of the tree"
	@echo "make docs    the documentation as a site in site/; a broken link fails"
	@echo "make format  puts Python files into the project's format"
	@echo "make errors  renews docs/errors.md from the pages in docs/errors/"
	@echo "make bench   every benchmark, beside its floor"
	@echo "make clean   removes the virtual environment and everything made"

lab: $(READY)
	@$(BIN)/python -m stageflow_lab.tour --out $(OUT)

test: $(READY)
	@$(BIN)/python -m pytest $(ARGS)

check: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy -p examples.answer_desk
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/python -m pytest tests/shape tests/typing

docs: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html; its search needs a server: python -m http.server --directory site"

format: $(READY)
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

errors: $(READY)
	@$(BIN)/python docs/index_errors.py

bench: $(READY)
	@status=0; for benchmark in benchmarks/[a-z]*.py; do \
		echo "== $$benchmark"; \
		$(BIN)/python "$$benchmark" || status=1; \
	done; exit $$status

clean:
	@rm -rf .venv $(OUT) site .stageflow .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find src tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@found=; \
	for python in $(CANDIDATES); do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			found=$$python; break; \
		fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "stageflow needs Python 3.11 or later, and none of these is one: $(CANDIDATES)" >&2; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.11" >&2; \
		exit 1; \
	fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "making .venv with $$($$found --version)"; \
		if ! $$found -m venv --clear .venv; then \
			echo "$$found can't make a virtual environment; on Debian: apt-get install python3-venv" >&2; \
			exit 1; \
		fi; \
	fi
	@echo "installing stageflow and its tools into .venv; this happens once"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(READY)
