# The everyday commands. CMake does the work (see CMakePresets.json); tools/setup installs what is missing first.
PREFIX ?= /usr/local
DESTDIR ?=
CLANG_FORMAT ?= clang-format-14

SHELL := bash
# Where tools/setup puts what the distribution's packages lack: Python packages, a newer cmake.
export PATH := $(CURDIR)/build/venv/bin:$(PATH)

.DEFAULT_GOAL := build
.PHONY: build demo test bench bench-build bench-quick bench-sparse wheel install format check-format clean help

build: ## library, command line and examples, in build/ (the default)
	tools/setup build
	cmake --preset release
	cmake --build --preset release

demo: ## attention over a whole book: real queries, keys and values, checked and timed
	tools/setup build demo
	cmake --preset release
	cmake --build --preset release
	examples/book/demo

test: ## all tests, C and Python; the last lines count them
	tools/setup build test mpi python
	cmake --preset release -DDA_BUILD_TESTS=ON -DDA_BUILD_PYTHON=ON -DDA_PYTHON=$(CURDIR)/build/venv/bin/python
	cmake --build --preset release
	build/venv/bin/python tools/run_tests.py build --pytest tests/ --pytest python/tests/ $(if $(TALLY),--tally $(TALLY))

bench: bench-build ## speed beside PyTorch: tables and plots in build/bench (20 minutes; ARGS="--rows f32,slide" for less)
	build/venv/bin/python -B bench/run.py $(ARGS)

bench-quick: bench-build ## the same in small, in a minute: checks results, times mean nothing
	OMP_WAIT_POLICY=passive build/venv/bin/python -B bench/run.py --quick $(ARGS)

bench-sparse: bench-build ## block-sparse attention on real models: quality and speed, in build/bench-sparse (an hour; ARGS="--rows longnet" for less)
	tools/setup demo
	build/venv/bin/python -B bench/sparse.py $(ARGS)

bench-build:
	tools/setup build bench python
	cmake --preset release -DDA_BUILD_BENCH=ON -DDA_BUILD_PYTHON=ON -DDA_PYTHON=$(CURDIR)/build/venv/bin/python
	cmake --build --preset release

wheel: ## the Python package as a wheel in build/wheel, tried in fresh environments
	tools/setup build python wheel
	tools/check_wheel

install: build ## copies what was built to PREFIX (default /usr/local), under DESTDIR if that is set
	DESTDIR="$(DESTDIR)" cmake --install build --prefix "$(abspath $(PREFIX))"
	@if [[ -z "$(DESTDIR)" && $$(id -u) -eq 0 ]] && command -v ldconfig >/dev/null; then ldconfig; fi

format: ## formats the C sources
	tools/setup format
	git ls-files -z --cached --others --exclude-standard '*.c' '*.h' | xargs -0 $(CLANG_FORMAT) -i

check-format: ## fails if `make format` would change something
	tools/setup format
	git ls-files -z --cached --others --exclude-standard '*.c' '*.h' | xargs -0 $(CLANG_FORMAT) --dry-run -Werror

clean: ## removes build/
	rm -rf build

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14
