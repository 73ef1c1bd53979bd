# Everything a clone needs. `make demo` and `make test` do all the set-up themselves: a fresh Linux
# machine with Python 3.11 or newer is enough. `make help` lists the targets.

PYTHON ?= python3
# Where pip looks besides its own index, for a smaller PyTorch: the plain Linux x86-64 wheel brings
# several gigabytes of CUDA. Give the address of PyTorch's own index of CPU wheels, or set
# PIP_EXTRA_INDEX_URL, and the same version is taken from there without them.
TORCH_INDEX ?=
# Tests at a time. Two suit two cores: the tests wait for processes as often as they compute.
TEST_PROCESSES ?= 2
# More for pytest, such as PYTEST_ARGS="-k batch -x".
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.vedette-setup
EXTRAS := cpu,edge,cluster,controller,postgres,train,keras,jax,sklearn,view
TORCH := torch==2.13.0
PIP_INSTALL := -m pip install --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
SCRIPTS := .ci/run $(wildcard infra/*/*.sh)
DOCKERFILES := $(wildcard infra/containers/Dockerfile.*)

# Modules are compiled once, as they are where Vedette is installed, and not by every process that a test starts.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-openvino test-tensorflow test-oldest-ort zoo fuzz lint format bench constraints clean distclean

help: ## Say what the targets do
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with everything in it, at the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || { echo "no $(PYTHON) here: install Python 3.11 or newer, or say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is Python %d.%d; Vedette needs 3.11 or newer: make PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python $(PIP_INSTALL) --constraint constraints.txt $(TORCH) --editable '.[$(EXTRAS)]' --group dev
	@touch $@

demo: setup ## Train, export, quantize, publish, roll out to agents over MQTT, batch on Ray: for real, here
	$(BIN)/vedette demo

test: setup ## Run every test that a change must pass
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal --ignore=tests/openvino --ignore=tests/tensorflow --ignore=tests/oldest_ort \
	  $(PYTEST_ARGS)

# Two environments of their own, since OpenVINO comes in two ways that exclude each other. No PyTorch in them.
OPENVINO_built-in := onnxruntime-openvino
OPENVINO_plug-in := onnxruntime onnxruntime-ep-openvino
OPENVINO_TESTS := $(addprefix build/openvino-,built-in plug-in)

test-openvino: $(OPENVINO_TESTS:%=%/.vedette-setup) ## Run the tests that need OpenVINO, built in and as a plug-in
	@set -e; for way in $(OPENVINO_TESTS); do \
	  echo "== $$way"; \
	  VEDETTE_TEST_OPENVINO=$${way#build/openvino-} $$way/bin/python -m pytest $(PYTEST_ARGS) tests/openvino; \
	done

build/openvino-%/.vedette-setup: pyproject.toml constraints.txt constraints-openvino.txt
	$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python $(PIP_INSTALL) --quiet --constraint constraints.txt --constraint constraints-openvino.txt \
	  --editable . $(OPENVINO_$*) pytest pytest-asyncio pytest-timeout \
	  || { echo "make test-openvino installs $(OPENVINO_$*) from a package index (150 MB); it could not: no network?" >&2; exit 1; }
	@touch $@

# What a SavedModel is imported with: TensorFlow and its way to ONNX, run from .venv by its interpreter's path.
TENSORFLOW := build/tensorflow

test-tensorflow: setup $(TENSORFLOW)/.vedette-setup ## Run the tests that need TensorFlow: SavedModels, imported
	VEDETTE_TEST_TENSORFLOW=$(CURDIR)/$(TENSORFLOW)/bin/python $(BIN)/python -m pytest $(PYTEST_ARGS) tests/tensorflow

$(TENSORFLOW)/.vedette-setup: constraints-tensorflow.txt
	$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python $(PIP_INSTALL) --quiet --constraint constraints-tensorflow.txt tensorflow-cpu tf2onnx onnx numpy \
	  || { echo "make test-tensorflow installs tensorflow-cpu from a package index (350 MB); it could not: no network?" >&2; exit 1; }
	@touch $@

# What published models claim to run on at least: ONNX Runtime and NumPy, run from .venv by its interpreter's path.
OLDEST_ORT := build/oldest-ort

test-oldest-ort: setup $(OLDEST_ORT)/.vedette-setup ## Run the tests that need the oldest ONNX Runtime that models claim
	VEDETTE_OLDEST_ORT=$(CURDIR)/$(OLDEST_ORT)/bin/python $(BIN)/python -m pytest $(PYTEST_ARGS) tests/oldest_ort

$(OLDEST_ORT)/.vedette-setup: constraints-oldest-ort.txt
	$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python $(PIP_INSTALL) --quiet --constraint constraints-oldest-ort.txt onnxruntime numpy \
	  || { echo "make test-oldest-ort installs onnxruntime from a package index (15 MB); it could not: no network?" >&2; exit 1; }
	@touch $@

# .venv, and beside it torchvision and timm, whose wheels are made for a PyTorch with CUDA: without what they ask for.
ZOO := build/zoo

zoo: setup $(OLDEST_ORT)/.vedette-setup $(ZOO)/.vedette-setup ## Put the architectures of torchvision, timm and Keras through the gate (an hour)
	$(ZOO)/bin/python -W ignore benchmarks/zoo.py

$(ZOO)/.vedette-setup: constraints-zoo.txt
	$(PYTHON) -m venv $(@D)
	printf "import site; site.addsitedir('%s')\n" "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	  > "$$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vedette.pth"
	$(@D)/bin/python $(PIP_INSTALL) --quiet --no-deps --constraint constraints-zoo.txt torchvision timm
	@touch $@

fuzz: setup ## Feed the image decoders 100,000 damaged files and try the laws on new examples (an hour or so)
	$(BIN)/python tests/fuzz --count 100000
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --hypothesis-profile=explore -m hypothesis tests/unit

lint: setup ## Check style, types, who imports whom, scripts and container files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck $(SCRIPTS)
	$(BIN)/hadolint $(DOCKERFILES)
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec infra/containers/compose.yaml

format: setup ## Format the code, and mend what ruff can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: setup ## Run the benchmarks; each prints its figures
	@set -e; for script in $(filter-out %/record.py %/networks.py %/batch_engines.py %/zoo_models.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python "$$script"; done

constraints: ## Make constraints.txt anew: the newest versions that pyproject.toml admits
	rm -rf build/constraints
	$(PYTHON) -m venv build/constraints
	build/constraints/bin/python $(PIP_INSTALL) --quiet --upgrade pip
	build/constraints/bin/python $(PIP_INSTALL) $(TORCH) --editable '.[$(EXTRAS)]' --group dev
	{ echo '# The versions that Vedette is developed and tested with: everything in .venv, direct or not.'; \
	  echo '# Made by `make constraints` (Python 3.11, Linux x86-64, CPU build of PyTorch); not edited by hand.'; \
	  build/constraints/bin/python -m pip freeze --all --exclude-editable --exclude setuptools \
	    | sed 's/+cpu$$//' | LC_ALL=C sort --ignore-case; } > constraints.txt
	rm -rf build/constraints

clean: ## Remove caches and what was built
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean ## Remove .venv too: as freshly cloned
	rm -rf $(VENV)
