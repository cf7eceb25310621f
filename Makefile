# make demo   trains a diffusion model on digits, samples it, scores it, and says where to look
# make test   everything that is checked: style, types, tests
# Each makes .venv first. PYTHON chooses the interpreter it is made with: make test PYTHON=python3.13

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet
RUN ?= runs/demo

.PHONY: help demo test lint unit slow bench bench-gpu test-gpu wheel-test clean distclean

help:
	@sed -n '1,3s/^# //p' Makefile
	@echo 'make lint   ruff and mypy            make unit        the tests alone'
	@echo 'make bench  how fast, beside PyTorch   make bench-gpu   the same on a GPU'
	@echo 'make test-gpu  what is tested on a GPU, and its kernels under compute-sanitizer'
	@echo 'make slow   the tests that train     make wheel-test  wheel, sdist and editable install, each in a clean .venv'
	@echo 'make clean  what was built           make distclean   that, .venv and compiled kernels'

$(VENV)/made: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'tinygen needs Python 3.11 or newer; name one: make PYTHON=python3.12 …'; exit 1; }
	@echo 'making $(VENV) and installing tinygen in it'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -e .
	@touch $@

$(VENV)/made-dev: $(VENV)/made
	@echo 'installing what the tests need'
	@$(PIP) -e '.[dev]'
	@touch $@

# A demo never overwrites another: the next one goes to runs/demo-2, and so on.
demo: $(VENV)/made
	@run=$(RUN); n=1; while [ -e $$run ]; do n=$$((n + 1)); run=$(RUN)-$$n; done; \
	$(BIN)/tinygen train ddpm --data digits --preset small --out $$run && \
	$(BIN)/tinygen sample $$run -n 100 --sampler ddim -o $$run/grid.png && \
	$(BIN)/tinygen evaluate $$run --metric frechet --metric labels --metric memorisation && \
	printf '\nLook at\n  %-34s %s\n  %-34s %s\n  %-34s %s\n  %-34s %s\n' \
		$$run/grid.png 'a hundred samples' \
		$$run/figures/denoising.png 'from noise to digit, step by step' \
		$$run/loss.png 'the loss' \
		$$run/report.html 'all of it on one page'

test: lint unit

lint: $(VENV)/made-dev
	@$(BIN)/ruff check .
	@$(BIN)/mypy

unit: $(VENV)/made-dev
	@$(BIN)/python -m pytest -q

slow: $(VENV)/made-dev
	@$(BIN)/python -m pytest -q -m slow

# Beside PyTorch's times where that is installed: .venv/bin/pip install torch. ARGS=--quick, ARGS="--only conv2d", …
bench: $(VENV)/made
	@$(BIN)/python -m bench $(ARGS)

# Both need a GPU and, in .venv, CuPy for its driver: .venv/bin/pip install -e '.[cuda13]' or '.[cuda12]'.
bench-gpu: $(VENV)/made
	@$(BIN)/python -m bench --only gpu $(ARGS)

test-gpu: $(VENV)/made-dev
	@$(BIN)/python -m bench.gpu
	@$(BIN)/python -m pytest -q -m gpu
	@PATH="$$PATH:/usr/local/cuda/bin"; if ! command -v compute-sanitizer > /dev/null; then \
		echo 'compute-sanitizer is not installed: memory accesses and races of the kernels were not looked at'; exit; fi; \
	for tool in memcheck racecheck; do echo "compute-sanitizer, $$tool"; \
		TINYGEN_NO_POOL=1 compute-sanitizer --tool $$tool --error-exitcode 1 \
			$(BIN)/python -m pytest -q -m 'gpu and tiny' || exit 1; done

wheel-test: $(VENV)/made-dev
	@.ci/wheel-test $(BIN)/python

clean:
	rm -rf build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache

distclean: clean
	rm -rf $(VENV)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
