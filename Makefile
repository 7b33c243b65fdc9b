# make study      the study on its default parameter set, set-up included
# make test       the tests, set-up included
# make plan       what is finished, missing or stale
# make redo       stale steps again (STEP=likelihoods: that step from its beginning)
# make report     the report again
# make lab        the notebooks in JupyterLab, with the set's parameters
# make clean      removes a set's outputs
# PARAMS=quick    a parameter set of params/, or the path of a YAML file
# CORES=2         cores to use
# make figures    all saved figures of a set and its report again, from their tables
# make score      FILE=jets.h5: log p of anyone's jets under a set's surrogates (SEED=1, OUT=scores.h5)
# make dataset    N=100000: jets with a known best tagger, for people who build taggers elsewhere (SEED=1, OUT=folder)
# VENV=.venv      the environment to use; one that is not there yet is made

# What works from results alone takes the published ones, if they are there.
RESULTS := $(or $(PARAMS),$(shell ls "$(or $(JETSTUDY_OUTPUTS),outputs)"/reference/limit/*/record.json >/dev/null 2>&1 && echo reference || echo quick))
PARAMS ?= quick
# (nproc would say how many threads OpenMP is to use, if that is set.)
CORES ?= $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || sysctl -n hw.ncpu)
VENV ?= .venv
$(if $(word 2,$(VENV)),$(error VENV is $(VENV): a path without spaces, please))
PYTHON ?= python3
RUN = $(VENV)/bin/python -m jetstudy
TESTS = $(VENV)/bin/python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder
READY = $(VENV)/.jetstudy-ready

.PHONY: study report plan redo figures score dataset clean lab test test-long benchmark power lint

study: $(READY)
	@$(RUN) run "$(PARAMS)" --cores $(CORES)

report: $(READY)
	@$(RUN) report "$(PARAMS)"

plan: $(READY)
	@$(RUN) plan "$(PARAMS)"

redo: $(READY)
	@$(RUN) redo "$(PARAMS)" --cores $(CORES) $(if $(STEP),--step $(STEP))

figures: $(READY)
	@$(RUN) figures "$(RESULTS)" --cores $(CORES)

score: $(READY)
	$(if $(FILE),,$(error FILE=jets.h5 is missing: the jets to score))
	@$(RUN) score "$(RESULTS)" "$(FILE)" $(if $(SEED),--seed $(SEED)) $(if $(OUT),--out "$(OUT)")

dataset: $(READY)
	@$(RUN) dataset "$(RESULTS)" $(or $(N),100000) $(if $(SEED),--seed $(SEED)) $(if $(OUT),--out "$(OUT)")

clean: $(READY)
	@$(RUN) clean "$(PARAMS)"

lab: $(READY)
	@$(RUN) lab "$(PARAMS)"

# A process a core, each on one thread (more would wait for each other); the tests of a file go together, the longest files first (tests/conftest.py).
test test-long: export OMP_NUM_THREADS = 1
# As in jetstudy/__main__.py.
test test-long: export GOMP_SPINCOUNT = 1000
test test-long: export MALLOC_MMAP_THRESHOLD_ = 33554432
test test-long: export MALLOC_TRIM_THRESHOLD_ = 1073741824
test: $(READY)
	$(TESTS) -m "not long"

test-long: $(READY)
	$(TESTS)

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
