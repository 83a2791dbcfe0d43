# Every target works from a bare checkout: it makes .venv, installs what it needs
# into it, and runs. Only Python >= 3.10 and make have to be there.

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV ?= .venv
CONSTRAINTS ?= constraints-ci.txt
JOBS ?= 2
ARGS ?=

# The first interpreter that is new enough; `make PYTHON=...` overrides it.
CANDIDATES := python3 python3.13 python3.12 python3.11 python3.10 python
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 10))
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	"$$p" -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && { echo "$$p"; break; }; done)

PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check \
	--constraint $(CONSTRAINTS)

# What needs several processes of its own stays on one worker.
XDIST := -n $(JOBS) --dist loadgroup

# One stamp for each set of extras. It is newer than what the set is made from, so
# a second run installs nothing and an edited pyproject.toml installs again.
$(VENV)/.stamp-%: pyproject.toml $(CONSTRAINTS) | $(PY)
	@echo "installing the extras [$*] into $(VENV)"
	@$(PIP_INSTALL) --editable ".[$*]"
	@touch $@

$(PY):
	@test -n "$(PYTHON)" || { echo "Python 3.10 or newer is needed"; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' \
		$(MAKEFILE_LIST)
	@echo "  ARGS=... is handed to the command; CONSTRAINTS=... names another file."

.PHONY: demo
demo: $(VENV)/.stamp-examples  ## train and evaluate the example (ROADSCENE_DIR=... for real pairs)
	$(PY) examples/roadscene_swinfuse.py --quick $(ARGS)

.PHONY: test
test: $(VENV)/.stamp-test $(VENV)/.stamp-examples  ## every test, and the doctests of the package
	HYPOTHESIS_PROFILE=ci $(PY) -m pytest $(XDIST) --doctest-modules $(ARGS)

.PHONY: check
check: lint types $(VENV)/.stamp-test $(VENV)/.stamp-examples  ## lint, types and the quick tests
	$(PY) -m pytest $(XDIST) --doctest-modules -q -m "not slow" $(ARGS)

.PHONY: lint
lint: $(VENV)/.stamp-dev  ## ruff: rules and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

.PHONY: types
types: $(VENV)/.stamp-dev  ## mypy --strict on the package
	$(PY) -m mypy

# Sphinx runs an example again if its file has changed. Begin anew if what it shows, the
# package, has, or if there is one more or less (which the folder's own time tells).
docs/auto_gallery/.stamp: $(shell find xmodal_losses -name '*.py') docs/gallery \
		docs/gallery.mplstyle
	rm -rf docs/auto_gallery
	@mkdir docs/auto_gallery && touch $@

.PHONY: docs
docs: $(VENV)/.stamp-docs docs/auto_gallery/.stamp  ## the site, in docs/_build/html; warnings are errors
	$(PY) -m sphinx -n -W --keep-going -b html $(ARGS) docs docs/_build/html

.PHONY: docs-check
docs-check: docs $(VENV)/.stamp-test  ## the site in a browser (Chromium or Chrome, if there is one)
	SITE=docs/_build/html $(PY) -m pytest -q tests/site $(ARGS)

.PHONY: mutants
mutants: $(VENV)/.stamp-test $(VENV)/.stamp-mutants  ## changes of the package that no test sees (hours, or ARGS="--sample 100")
	OMP_NUM_THREADS=1 $(PY) tests/mutants.py $(ARGS)

# Peers whose requirements would bring another torch: without them, and only if they
# can be had.
$(VENV)/.stamp-peers: benchmarks/peers.txt $(VENV)/.stamp-bench
	@echo "installing the other peers into $(VENV)"
	@$(PIP_INSTALL) --no-deps --requirement $< || echo "left out: not all can be had"
	@touch $@

# Lightning, Accelerate and transformers, if they can be had.
$(VENV)/.stamp-frameworks: pyproject.toml $(CONSTRAINTS) | $(PY)
	@echo "installing the extras [frameworks] into $(VENV)"
	@$(PIP_INSTALL) --editable ".[frameworks]" || echo "left out: not all can be had"
	@touch $@

.PHONY: peers
peers: $(VENV)/.stamp-test $(VENV)/.stamp-peers $(VENV)/.stamp-frameworks  ## values and gradients beside every peer that runs
	$(PY) -m pytest -m peers $(ARGS)

.PHONY: bench
bench: $(VENV)/.stamp-peers  ## time and memory beside every peer, and the plots
	$(PY) -m benchmarks.scaling $(ARGS)
	$(PY) -m benchmarks.targets $(ARGS)
	$(PY) -m benchmarks.exactness $(ARGS)
	$(PY) -m benchmarks.power $(ARGS)
	$(PY) -m benchmarks.blob $(ARGS)
	$(PY) -m benchmarks.plot $(ARGS)
	$(PY) -m benchmarks.distributed_page
	$(PY) -m benchmarks.power_page

.PHONY: certificate
certificate: $(VENV)/.stamp-peers  ## errors of value and gradient of every loss and peer, and the page
	$(PY) -m benchmarks.certificate --threads 1 $(ARGS)
	$(PY) -m benchmarks.certificate_page

.PHONY: compatibility
compatibility: $(VENV)/.stamp-test  ## every loss in each of torch's tools, and the page
	$(PY) -m benchmarks.compatibility $(ARGS)
	$(PY) -m benchmarks.compatibility_page

.PHONY: wheel-check
wheel-check: $(VENV)/.stamp-dev  ## build, install the wheel into a clean environment, use it
	$(PY) .ci/wheel_check.py --constraint $(CONSTRAINTS) $(ARGS)

.PHONY: clean
clean:  ## remove the environment and everything that was built
	rm -rf $(VENV) build dist docs/_build docs/auto_gallery .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
