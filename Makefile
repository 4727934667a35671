# Everything runs in .venv, which the first command creates.

# Switches off onnxruntime's usage reports.
export ORT_DISABLE_TELEMETRY := 1

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# gpu on a machine with an NVIDIA driver, else cpu; `make … ACCEL=cpu` overrides it.
ACCEL ?= $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)

# The two builds of onnxruntime own the same folder, so the other one is removed first.
OTHER_RUNTIME := $(if $(filter gpu,$(ACCEL)),onnxruntime,onnxruntime-gpu)

# The names of the stamps hold a checksum of contents and of the checkout's path, not times, so that
# an environment from a cache is used if both match.
KEY := $(shell { pwd -P; $(BIN)/python -V 2>/dev/null || $(PYTHON) -V; cat pyproject.toml constraints.txt; } | cksum | tr ' ' '-')
SERVES := $(VENV)/.installed-serve-$(ACCEL)-$(KEY)
ALL := $(VENV)/.installed-all-$(ACCEL)-$(KEY)

PROTOS := $(wildcard proto/limelens/*/*.proto)
SERVICES := $(wildcard proto/limelens/*/*_service.proto)
CODE := train serve explain proto deploy tests benchmarks examples fuzz

# What `make export` trains on and the model's name; without DATA it draws faces.
DATA ?=
NAME ?= $(if $(DATA),$(shell basename "$(DATA)" | tr -c 'A-Za-z0-9._\n-' '_'),facemask-synthetic)
# A small network at 64 pixels learns drawn faces in a fraction of the default's time.
DRAWN_OPTIONS := --arch cnn3 --input-size 64 --epochs 14 --learning-rate 3e-3 --augment light --alert-label without_mask
TRAIN_OPTIONS ?= $(if $(DATA),,$(DRAWN_OPTIONS))
# Faces to draw for each of the two labels.
NUM_DRAWN ?= 1200
SYNTHETIC := build/data/facemask-synthetic

.DEFAULT_GOAL := help
.PHONY: help install demo serve test test-ci test-slow fuzz check format proto export bench results dist sbom audit image image-test clean

help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

install: $(ALL) ## Install everything for development (with torch, several GB)

demo: $(SERVES) ## Serve the shipped model, classify and explain a portrait (no torch)
	$(BIN)/limelens demo

serve: $(SERVES) ## Serve ./models on 127.0.0.1:8500
	$(BIN)/limelens serve

PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal

# Which tests, by their marks: CI runs MARKS="not slow".
test: $(ALL) ## Run the tests, without those that take long
	$(PYTEST) $(if $(MARKS),-m "$(MARKS)")

test-ci: $(ALL) ## Run the long tests that CI runs too
	$(PYTEST) -m "ci and not slow"

test-slow: $(ALL) ## Run all tests that take long
	$(PYTEST) -m "slow or ci"

# Seconds for each of requests, images and costly images.
FUZZ_S ?= 300
fuzz: $(ALL) ## Try random requests, images and costly images, FUZZ_S=300 s each
	LIMELENS_FUZZ_S=$(FUZZ_S) $(BIN)/python -m pytest -m "not slow" tests/fuzz

check: $(ALL) ## Check format, lint, types, imports and the contract
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy --num-workers auto $(filter-out proto,$(CODE))
	$(BIN)/lint-imports
	$(BIN)/buf lint proto
	@rm -rf build/proto && mkdir -p build/proto
	@$(MAKE) --no-print-directory PROTO_OUT=build/proto stubs
	@cd build/proto && for stub in limelens/*/*; do \
	  diff -q $$stub ../../proto/$$stub >/dev/null \
	    || { echo "$$stub is not what 'make proto' makes; run it and commit"; exit 1; }; \
	done

format: $(ALL) ## Format the code
	$(BIN)/ruff check --fix-only $(CODE)
	$(BIN)/ruff format $(CODE)

proto: $(ALL) ## Generate the stubs from proto/
	@$(MAKE) --no-print-directory stubs

.PHONY: stubs
PROTO_OUT ?= proto
stubs:
	@$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=$(PROTO_OUT) --pyi_out=$(PROTO_OUT) $(PROTOS)
	@$(BIN)/python -m grpc_tools.protoc -Iproto --grpc_python_out=$(PROTO_OUT) $(SERVICES)

export: $(ALL) ## Train on DATA=… and export as NAME=…; without DATA, on drawn faces
ifeq ($(DATA),)
	rm -rf $(SYNTHETIC) build/runs/$(NAME)
	@echo "Drawing $$((2 * $(NUM_DRAWN))) faces, NUM_DRAWN=$(NUM_DRAWN) of each label ..."
	$(BIN)/limelens synthesize $(SYNTHETIC) --num-images $(NUM_DRAWN) --num-workers 2
	$(BIN)/limelens train $(SYNTHETIC) --out build/runs/$(NAME) $(TRAIN_OPTIONS)
	rm -rf build/models/$(NAME)
	$(BIN)/limelens export build/runs/$(NAME) --name $(NAME) --models build/models \
	  --note "Trained on synthetic faces drawn by code: for trying things out, not for use."
else
	rm -rf "build/runs/$(NAME)"
	$(BIN)/limelens train "$(DATA)" --out "build/runs/$(NAME)" $(TRAIN_OPTIONS)
	$(BIN)/limelens export "build/runs/$(NAME)" --name "$(NAME)"
endif

bench: $(ALL) ## Measure explanations against the bare model and other packages
	$(BIN)/python -m benchmarks.explain_speed

# One of the sets; empty means all.
SET ?=
results: $(ALL) ## Train and measure the sets in LIMELENS_DATA (hours; SET=wine for one)
	$(BIN)/python -m benchmarks.results $(if $(SET),--set $(SET))

dist: $(ALL) ## Build sdist and wheel of the last commit into dist/, reproducibly
	.ci/dist $(BIN)/python

# What a server with explanations and the guard's page consists of.
SBOM_EXTRAS ?= serve-cpu,explain,console
sbom: dist ## Also list what an installation consists of, as CycloneDX (SBOM_EXTRAS=…)
	.ci/sbom $(BIN)/python "$(SBOM_EXTRAS)"

AUDIT_OPTIONS ?=
audit: $(ALL) ## Ask whether a version in constraints.txt is known to be vulnerable
	.ci/audit $(BIN)/python $(AUDIT_OPTIONS)

# What the image holds; `console` alone is for what watches cameras.
EXTRAS ?= serve-$(ACCEL),explain
# The first of them that is installed; `make image ENGINE=podman` overrides it.
ENGINE ?= $(firstword $(foreach one,docker podman buildah,$(if $(shell command -v $(one)),$(one))))
IMAGE ?= limelens
# More options for it.
BUILD_OPTIONS ?=
image: ## Build the container image of the server (IMAGE=…, ACCEL=gpu, EXTRAS=console)
	@[ -n "$(ENGINE)" ] || { echo "make image needs docker, podman or buildah, and none is installed here"; exit 1; }
	@$(ENGINE) info >/dev/null 2>&1 \
	  || { echo "make image: $(ENGINE) is installed but does not answer; start it ($(ENGINE) info says more), or name another: ENGINE=podman"; exit 1; }
	@# Only docker writes its own format without being told; OCI's has no HEALTHCHECK.
	$(ENGINE) build --file deploy/Dockerfile $(if $(filter docker,$(notdir $(ENGINE))),,--format docker) \
	  --build-arg EXTRAS=$(EXTRAS) $(BUILD_OPTIONS) --tag $(IMAGE) .

image-test: $(ALL) ## Build the images by buildah, and try them as containers
	$(BIN)/python -m pytest -m slow tests/deploy/test_image*.py

clean: ## Remove build output, but not .venv, runs and models
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "limelens needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "this Python cannot create environments; install its venv package (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(SERVES): | $(VENV)/bin/python
	@echo "Installing client, server, explanations and the page: about $(if $(filter gpu,$(ACCEL)),3 GB with CUDA,180 MB) to download, no torch ..."
	@.ci/install $(VENV) serve-$(ACCEL),explain,console $(OTHER_RUNTIME) $(KEY) $@

$(ALL): | $(VENV)/bin/python
	@echo "Installing everything: about 3 GB to download and 6 GB on disk, because training needs torch,"
	@echo "whose build from the package index carries CUDA. Serving alone ('make demo') needs 180 MB ..."
	@.ci/install $(VENV) serve-$(ACCEL),explain,train,signing,dev $(OTHER_RUNTIME) $(KEY) $@ $(SERVES)
