# The everyday commands. CMake does the work (see CMakePresets.json); tools/setup installs what is missing first.
PREFIX ?= /usr/local
DESTDIR ?=
CLANG_FORMAT ?= clang-format-14

SHELL := bash
# Where tools/setup puts what the distribution's packages lack: Python packages, a newer cmake.
export PATH := $(CURDIR)/build/venv/bin:$(PATH)

.DEFAULT_GOAL := build
.PHONY: build demo test bench install format check-format clean help

build: ## library, command line and examples, in build/ (the default)
	tools/setup build
	cmake --preset release
	cmake --build --preset release

demo: build ## attention over a whole book: real queries, keys and values, checked and timed
	tools/setup demo
	examples/book/demo

test: ## all tests, C and Python; the last lines count them
	tools/setup build test
	cmake --preset release -DDA_BUILD_TESTS=ON -DDA_PYTHON=$(CURDIR)/build/venv/bin/python
	cmake --build --preset release
	build/venv/bin/python tools/run_tests.py build --pytest tests/ $(if $(TALLY),--tally $(TALLY))

bench: build ## speed of this machine, results checked
	build/bin/dilated-attention bench --impl improved,standard --n 2048 --repeats 3 --check
	build/bin/dilated-attention bench --impl improved --n 8192,32768 --check

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
