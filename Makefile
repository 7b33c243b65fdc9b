# make study      the study on its default parameter set, set-up included
# make test       the tests, set-up included
# PARAMS=quick    a parameter set of params/, or the path of a YAML file
# CORES=2         cores to use
# VENV=.venv      the environment to use; one that is not there yet is made

PARAMS ?= quick
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
VENV ?= .venv
PYTHON ?= python3
RUN = $(VENV)/bin/python -m jetstudy
READY = $(VENV)/.jetstudy-ready

.PHONY: study report plan redo clean lab test test-long benchmark power lint

study: $(READY)
	@$(RUN) run $(PARAMS) --cores $(CORES)

report: $(READY)
	@$(RUN) report $(PARAMS)

plan: $(READY)
	@$(RUN) plan $(PARAMS)

redo: $(READY)
	@$(RUN) redo $(PARAMS) --cores $(CORES) $(if $(STEP),--step $(STEP))

clean: $(READY)
	@$(RUN) clean $(PARAMS)

lab: $(READY)
	@$(RUN) lab $(PARAMS)

test: $(READY)
	$(VENV)/bin/python -m pytest -m "not long"

test-long: $(READY)
	$(VENV)/bin/python -m pytest

# What the documentation's figures of speed and of power come from; benchmarks/solver.py needs a finished study.
benchmark: $(READY)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[benchmark]"
	$(VENV)/bin/python benchmarks/densities.py

power: export OMP_NUM_THREADS = 1
power: $(READY)
	$(VENV)/bin/python benchmarks/power.py
	$(VENV)/bin/python benchmarks/posterior.py
	$(VENV)/bin/python benchmarks/noise.py
	$(VENV)/bin/python benchmarks/mismatch.py

lint: $(READY)
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jetstudy needs Python 3.11 or later")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,taggers]"
	@touch $@
