# The commands create their environment in .venv from the project's own files.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The test environment adds PyTorch; this release has a CPU build for the test machines.
TORCH ?= torch==2.13.0
# Two processes; the tests of one file stay together and share fixtures. The order of files is that
# of tests/conftest.py; by default files with the fewest tests, which take longest, would come last.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder --durations=15
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# uv installs several times as fast as pip, and finds packages where pip is told to. Each of the many
# processes of the tests would compile what it imports if Python may not write (PYTHONDONTWRITEBYTECODE).
export UV_COMPILE_BYTECODE := 1
INSTALL := $(BIN)/python -m uv pip install --python $(BIN)/python
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_EXTRA_INDEX_URL
export UV_INDEX ?= $(PIP_EXTRA_INDEX_URL)
endif
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif

# The tutorials run again when their text or any code is newer.
TUTORIALS := $(patsubst docs/%.md,build/docs/%.ipynb,$(filter-out %/index.md,$(wildcard docs/tutorials/*.md)))
CODE := $(shell git ls-files 'stsa_jax/*.py' 'data/*.py' 'configs/*.py' 2> /dev/null)

.PHONY: demo ablations test lint format docs clean

demo: $(VENV)/.run
	$(BIN)/python demo.py --workdir=runs/demo

ablations: $(VENV)/.run
	$(BIN)/python -m experiments.ablations --workdir=runs/ablations
	$(BIN)/python -m experiments.control --workdir=runs/ablations

test: $(VENV)/.test lint
	JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy

docs: $(VENV)/.docs $(TUTORIALS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo 'open build/site/index.html'

build/docs/%.ipynb: docs/%.md $(CODE) | $(VENV)/.docs
	$(BIN)/python docs/tools/notebooks.py $< $@

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.run: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "error: Python 3.11 to 3.13 is needed, this is %d.%d; choose another with make PYTHON=python3.12" % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'creating the environment in $(VENV): up to a minute, once'
	$(BIN)/python -m pip install --quiet uv
	$(INSTALL) -r requirements.txt
	touch $@

$(VENV)/.test: $(VENV)/.run pyproject.toml
	@echo 'installing the test requirements: up to a minute, once'
	$(INSTALL) $(TORCH)
	$(INSTALL) -e '.[test]'
	touch $@

$(VENV)/.docs: $(VENV)/.run pyproject.toml
	@echo 'installing what the documentation needs: up to a minute, once'
	$(INSTALL) $(TORCH)
	$(INSTALL) -e '.[docs,port]'
	touch $@

clean:
	rm -rf $(VENV) runs build .jax_cache
