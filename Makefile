# Two commands do everything, set-up included: `make demo` and `make test`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS := train,dicom,dicom-net,deploy,imagenet,page,fhir,demo,onnx,bench,archive,ray,docs,dev
STAMP  := $(VENV)/.installed
PACKAGES := toolkit calibration firmware_bridge benchmarks
# Tests in parallel: two workers keep two cores busy; each of them may hold TensorFlow, so memory counts too.
PYTEST_WORKERS ?= 2
# Where a firewall opens TLS, only the system knows who signs: uv looks there too, as pip does (the second is its old name).
export UV_SYSTEM_CERTS ?= 1
export UV_NATIVE_TLS ?= 1

.PHONY: help setup check format test test-failed test-device-env test-devices test-devices-all test-devices-boot soak soak-stream soak-score schemas docs test-docs demo benchmarks constraints constraints-upgrade clean

help:
	@echo "make demo              train, compress, bundle and run the agent on the sample X-rays"
	@echo "make test              all tests"
	@echo "make test-failed       what failed in the last run once more, alone"
	@echo "make check             ruff and mypy --strict"
	@echo "make benchmarks        other runtimes and ours side by side, minutes; IMAGES=FOLDER INDEX=FILE name other X-rays"
	@echo "make soak              200 kills, 50,000 X-rays, 100,000 files waiting, 20,000 damaged inputs: over an hour"
	@echo "make soak-stream       1 to 8 agents on one stream, each with a share of a core: part of soak, 6 minutes (root)"
	@echo "make soak-score        20,000 X-rays scored with kills in between, and the rates: a quarter of an hour"
	@echo "make setup             the environment in $(VENV); PYTHON=python3.12 picks the interpreter"
	@echo "make test-device-env   the device part in environments of its own, without TensorFlow"
	@echo "make test-devices      on emulated devices (root; docs/testing-devices.md); test-devices-all takes longer,"
	@echo "                       test-devices-boot boots a whole emulated ARM (minutes)"
	@echo "make docs              the documentation as a site, in site/; make schemas writes docs/schemas"
	@echo "make test-docs         every command of README.md and docs/ that can run here, trainings included"
	@echo "make constraints       pins again what is missing; constraints-upgrade takes the newest of everything"

setup: $(STAMP)

# uv installs in seconds what takes pip minutes. Where uv finds no index (a mirror that only pip's configuration
# names), pip does it. `-c constraints.txt` pins every version either way.
define install
	@$(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -e '.[$(1)]' || { \
		echo "uv could not install; trying pip, which knows its own configuration"; \
		$(BIN)/python -m pip install -c constraints.txt -e '.[$(1)]'; }
endef

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || { \
		echo "error: Python 3.10 to 3.13 is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
		echo "  do: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "error: '$(PYTHON)' cannot make virtual environments."; \
		echo "  do: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(call install,$(EXTRAS))
	@touch $@

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict $(PACKAGES)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: $(STAMP)
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile -m 'not devices and not soak'

# What failed in the last run once more, alone: many tests kill, unplug and race real processes, and a busy machine may
# be late once. What fails again has failed; what failed once is named in the first run's output, and wants mending.
test-failed: $(STAMP)
	$(BIN)/python -m pytest -n0 --last-failed --last-failed-no-failures none -m 'not soak and not devices_all'

test-device-env: $(STAMP)
	$(BIN)/python -m pytest -m device_env

test-devices: $(STAMP)
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -m 'devices and not devices_all' tests/devices

test-devices-all: $(STAMP)
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadgroup -m 'devices and not devices_boot' tests/devices

test-devices-boot: $(STAMP)
	$(BIN)/python -m pytest -n0 -s -m devices_boot tests/devices

# Each has a short form in `make test`: the agent's grow by these variables, all others are marked.
SOAK := CXR_EDGE_SOAK_KILLS=200 CXR_EDGE_SOAK_XRAYS=50000 CXR_EDGE_SOAK_AT_ONCE=1000 CXR_EDGE_SOAK_BACKLOG=100000 \
	CXR_EDGE_SOAK_WAIT_S=7200
soak: $(STAMP)
	$(SOAK) $(BIN)/python -m pytest -n0 -s -v tests/end_to_end/test_agent_soak.py
	$(BIN)/python -m pytest -n0 -s -v -m soak

soak-stream: $(STAMP)
	$(BIN)/python -m pytest -n0 -s -v -m soak tests/end_to_end/test_many_agents.py

# A version that is published does not change: the command says so, and where to raise it.
schemas: $(STAMP)
	$(BIN)/python -m toolkit.schema.publish docs/schemas

# `make test` runs the commands of most pages; these train, too.
test-docs: $(STAMP)
	$(BIN)/python -m pytest -n0 -m "soak or not soak" tests/docs

# -E: pages that are read from the code are read anew, though their own files did not change.
docs: $(STAMP)
	$(BIN)/python -m sphinx -E -W --keep-going -q docs site

# Real X-rays (CXR_EDGE_DATA) by the ten thousand, killed in between, and the rates of docs/archives.md.
soak-score: $(STAMP)
	$(BIN)/python -m pytest -n0 -s -v -m soak tests/toolkit/archive

demo: $(STAMP)
	$(BIN)/python -m toolkit.demo

benchmarks: $(STAMP)
	$(BIN)/python -m benchmarks $(addprefix --images ,$(IMAGES)) $(addprefix --index ,$(INDEX))

# Keeps the pins that still fit; constraints-upgrade takes the newest of everything.
UV_COMPILE = $(BIN)/uv pip compile $(UPGRADE) --quiet --no-header --no-annotate pyproject.toml
constraints: | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV_COMPILE) --universal --python-version 3.10 --extra train --extra dicom --extra dicom-net --extra deploy --extra imagenet \
		--extra page --extra fhir --extra demo --extra onnx --extra archive --extra ray --extra bench --extra docs --extra dev \
		-o constraints.txt
	# The same device part with tflite-runtime in ai-edge-litert's place.
	echo "ai-edge-litert; sys_platform == 'none'" | $(UV_COMPILE) --override - \
		--python-platform linux --python-version 3.11 --extra tflite-runtime -o constraints-tflite-runtime.txt

constraints-upgrade:
	$(MAKE) constraints UPGRADE=--upgrade

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
