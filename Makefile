# On a fresh machine `make demo` runs a round and `make test` runs every test.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
RUN    ?= runs/demo
BUDGET ?= 100

.PHONY: demo test torture assets lint clean

demo: $(VENV)/.installed assets
	$(PY) cli.py round --config configs/demo.yaml --run $(RUN) --budget $(BUDGET)

test: $(VENV)/.installed-dev assets
	$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder

# Kills, failing disks, damaged files and hostile inputs by the hundred; 90 minutes at most.
torture: $(VENV)/.installed-dev
	$(PY) tests/torture --record benchmarks/results/torture.json

assets: $(VENV)/.installed
	@$(PY) -m al.assets

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .

$(PY):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Winnow needs Python 3.11 or newer; set PYTHON=python3.12 or the like")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements.txt | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) runs
