# A fresh clone needs nothing before these: each makes the environments that it uses.
#   make demo    train, export, predict and forget on handwritten digits (demo/report.png)
#   make test    every test
#   make lint    formatting, lint rules, types
#   make bench   the figures of docs/results.md

PYTHON ?= python3
BIN := .venv/bin
DEVICE := .venv-device/bin/python
RUNTIME_SOURCES := $(shell find runtime -name '*.py' -not -path '*/build/*') runtime/pyproject.toml
PROJECTS := pyproject.toml exporters/pyproject.toml runtime/pyproject.toml

.PHONY: demo test lint format bench clean

demo: .venv/installed .venv-device/installed
	$(BIN)/pfm-edge demo --device-python $(DEVICE) $(DEMO)

# One thread a process and a process a core: the files share nothing but .cache.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(TESTS)

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/installed
	$(BIN)/python -m benchmarks $(BENCH)

# The workstation: everything, at the versions that the tests are known to pass with.
.venv/installed: $(PROJECTS) requirements/tested.txt requirements/tools.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pfm-edge needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import shutil; free = shutil.disk_usage(".").free; free < 9e9 and print(f"{free / 1e9:.1f} GB of disk are free; PyTorch with CUDA, the tests and what they write take 9")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --progress-bar on \
	    -c requirements/tested.txt -r requirements/tools.txt \
	    -e './runtime[images,onnxruntime,ota]' -e './exporters[torch]' -e '.[data]'
	touch $@

# The device: the runtime alone, as a wheel, the way a device gets it.
.venv-device/installed: $(RUNTIME_SOURCES) requirements/tested.txt
	$(PYTHON) -m venv .venv-device
	.venv-device/bin/pip install --quiet --disable-pip-version-check --force-reinstall \
	    -c requirements/tested.txt './runtime[images,onnxruntime]'
	touch $@

clean:
	rm -rf .venv .venv-device .cache demo
