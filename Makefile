# SPDX-License-Identifier: Apache-2.0
# Creates .venv, installs the project with its pinned tools, and runs; the logic is in the Python scripts.
PYTHON ?= python3
VENV := .venv/bin/python
SOURCES := pyproject.toml constraints.txt $(wildcard targets/*.toml) $(shell find native runtime compressor -type f ! -name '*.pyc')

demo: .venv/installed
	$(VENV) examples/demo.py
test: .venv/installed
	$(VENV) tests/run.py $(TESTS)
wheels: .venv/installed
	$(VENV) -m targets.wheels
check: .venv/installed
	$(VENV) tests/check.py $(CHECKS)
.venv/installed: $(SOURCES)
	$(PYTHON) targets/install.py
clean:
	rm -rf .venv build dist
.PHONY: demo test wheels check clean
