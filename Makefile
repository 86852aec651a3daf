# `make simulation` and `make test` set up everything they need in .venv/ of this folder.
PYTHON ?= python3
ARGS ?=
# processes that share a suite, a file of tests at a time: much of it waits for other processes
WORKERS ?= 2
SHARED = -n $(WORKERS) --dist loadfile
PY = .venv/bin/python
PIP = $(PY) -m pip --disable-pip-version-check install --quiet

.PHONY: setup simulation test test-slow test-faults test-hospital check lint format bench images archive wheels docs clean

simulation: setup
	$(PY) -m simulation $(ARGS)

test: setup
	$(PY) -m pytest $(SHARED) -m "not slow and not hospital and not faults" $(ARGS)

test-slow: setup
	$(PY) -m pytest $(SHARED) -m slow $(ARGS)

check: lint test

lint: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: setup
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

# every process killed, the network cut: about 45 minutes, as root
test-faults: setup
	$(PY) -m pytest tests/e2e/test_faults.py $(ARGS)

# three hospitals and a coordinator as containers; needs root on a Debian machine, and installs what it needs there
test-hospital: setup
	deploy/containers/prepare.sh
	$(PY) -m pytest -m hospital $(ARGS)

# Python's packages as pinned, with their hashes, for images and for machines without a network
wheels: setup
	mkdir -p wheels
	$(PY) -m pip --disable-pip-version-check download --quiet -c constraints.txt -d wheels torch
	$(PY) -m pip --disable-pip-version-check download --quiet -c constraints.txt -d wheels --find-links wheels . setuptools wheel
	$(PY) deploy/containers/hashes.py wheels constraints.txt deploy/containers/constraints-gpu.txt

BASE ?= docker.io/library/python:3.11-slim-bookworm
TAG ?= latest
images: wheels
	for target in courier station coordinator; do \
	  buildah bud --isolation chroot --network host --layers --build-arg BASE=$(BASE) --target $$target -t localhost/fedmets-$$target:$(TAG) \
	    -f deploy/containers/Containerfile . || exit 1; done
	$(PY) deploy/containers/digests.py --tag $(TAG) --out images.json

# the images as files, with checksums and bills of materials: for sites without a network. ARGS="--key kits/coordinator/signer/plan.key" signs the checksums
archive: setup
	$(PY) deploy/containers/archive.py $(ARGS)

# the documentation as a site that needs no network: site/index.html
docs: setup
	$(PY) -m docs.build site

bench: setup
	for script in bench/*.py; do $(PY) -m bench.$$(basename $$script .py) || exit 1; done

setup: .venv/.ready .venv/.installed

# what pip installs, anew when a file of it has changed; the tests read the checkout itself (tests/conftest.py)
SOURCES = $(shell find fedmets common client server simulation deploy -type f -not -name '*.pyc') setup.py
.venv/.installed: .venv/.ready pyproject.toml $(SOURCES)
	rm -rf build
	$(PIP) --no-deps --no-build-isolation --force-reinstall .
	rm -rf build
	touch $@

# torch first and alone: a dependency must never get to choose its build
.venv/.ready: constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("fedmets needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=..." if sys.version_info < (3, 11) else 0)'
	test -x $(PY) || $(PYTHON) -m venv .venv
	@echo "installing into .venv (about two minutes the first time)"
	$(PIP) -c constraints.txt torch
	$(PIP) -c constraints.txt ".[dev,ray,docs]"
	rm -rf build
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
