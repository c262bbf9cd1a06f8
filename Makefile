# On a fresh machine `make demo` runs a round and `make test` runs every test.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
INSTALL := -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all:
LOCKED := $(PY) $(INSTALL)
DOCS   := .venv-docs
RUN    ?= runs/demo
BUDGET ?= 100

.PHONY: demo test torture docs assets lint clean

demo: $(VENV)/.installed assets
	$(PY) cli.py round --config configs/demo.yaml --run $(RUN) --budget $(BUDGET)

test: $(VENV)/.installed-dev assets
	$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder

# Kills, failing disks, damaged files and hostile inputs by the hundred; 90 minutes at most.
torture: $(VENV)/.installed-dev
	$(PY) tests/torture --record benchmarks/results/torture.json

# The site of the pages and of the library's API, in site/. It needs nothing but its own environment.
docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

assets: $(VENV)/.installed
	@$(PY) -m al.assets

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .

$(PY):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Winnow needs Python 3.11 or newer; set PYTHON=python3.12 or the like")'
	$(PYTHON) -m venv $(VENV)

# Every file that is installed has a hash in a lock file, which .ci/lock.py makes. torch comes first, in the build that the machine offers
# first: the one of PyPI, or the smaller one without CUDA, which needs none of CUDA's libraries.
$(VENV)/.installed: requirements.lock requirements-cuda.lock | $(PY)
	awk '/^[^ ]/ {wanted = /^torch==/} wanted' requirements.lock > $(VENV)/torch.lock
	$(PY) -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest $(VENV)/torch \
	  $$(awk '/^torch==/ {print $$1}' requirements.lock)
	$(LOCKED) --no-index --find-links $(VENV)/torch -r $(VENV)/torch.lock
	rm -r $(VENV)/torch
	$(LOCKED) -r requirements.lock
	@if $(PY) -m pip show torch | grep -q '^Requires:.*nvidia'; then $(LOCKED) -r requirements-cuda.lock; fi
	@touch $@

$(DOCS)/.installed: requirements-docs.lock
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python $(INSTALL) -r requirements-docs.lock
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	$(LOCKED) -r requirements-dev.lock
	@touch $@

clean:
	rm -rf $(VENV) $(DOCS) site runs
