# The commands of this repository. Each does its own setup, and prints the packages that it installs.

SHELL := /bin/sh
PY := .venv/bin/python
ARGS ?=
EXAMPLES ?= 10000
SEED := $(or $(SEED),$(shell date +%s))
MAKEFLAGS += --no-print-directory

.PHONY: help demo test fuzz check format dist lab lab-down spack venv bench bench-install bench-modules bench-start bench-hooks bench-layouts bench-login bench-adopt bench-check bench-status stacks seeds torture kills mutants house clean

help: ## this list
	@echo "petal-node: make TARGET"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' Makefile | expand -t 16

demo: dist ## a head, a login and two compute nodes run the hooks; a Slurm job on each uses the software
	@$(PY) -m tests.lab demo $(ARGS)

test: dist ## every test, four at a time (ARGS="tests/unit -k name" for some)
	@.ci/need dos2unix=dos2unix lua5.3=lua5.3 tcsh=tcsh fish=fish zsh=zsh strace=strace gpg=gnupg bc=bc openssl=openssl mkfs.ext4=e2fsprogs mkfs.xfs=xfsprogs \
		/usr/share/lmod/lmod/libexec/lmod=lmod
	@$(PY) -m pytest $(or $(ARGS),-n 4)

fuzz: venv ## bad input: 10,000 examples a target, from a new seed (EXAMPLES=N SEED=N)
	@echo "seed: $(SEED)"
	@PETAL_FUZZ=$(EXAMPLES) $(PY) -m pytest tests/fuzz --hypothesis-seed=$(SEED) $(ARGS)

check: venv ## ruff, mypy --strict, shellcheck
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@find actions bootstrap tests .ci -type f \( -name '*.sh' -o -path '.ci/*' \) -exec .venv/bin/shellcheck -x -P SCRIPTDIR {} +
	@echo "check: ok"

format: venv ## formats the Python files
	@$(PY) -m ruff check --fix --quiet . || true
	@$(PY) -m ruff format .

dist: venv ## dist/: the archive for the nodes, its checksum, the hook scripts
	@$(PY) -m bootstrap.archive.build

lab: dist ## the demo's cluster, left running (docker exec -it petal-lab-head bash -l)
	@$(PY) -m tests.lab up $(ARGS)

lab-down: venv ## removes it
	@$(PY) -m tests.lab down $(ARGS)

spack: ## fetches Spack's releases for the tests (needs github.com)
	@.ci/need curl=curl
	@.ci/spack

venv: ## the virtual environment .venv from tests/requirements.txt
	@.ci/venv

bench: ## bench-install and bench-modules
	@$(MAKE) bench-install ARGS=
	@$(MAKE) bench-modules ARGS=

bench-install: venv ## two dozen small packages, compared with Spack's own commands (ARGS="--full --loops 1" with all recipes)
	@$(PY) -m tests.lab.bench_install $(ARGS)

bench-modules: venv ## `module` with 1,000 modules, with and without Lmod's cache (root; ARGS="--write")
	@$(PY) -m tests.lab.bench_modules $(ARGS)

bench-start: dist ## how long `petal-node version` takes, compared with a bare Python
	@$(PY) tests/archive/bench_start.py $(ARGS)

bench-hooks: dist ## how long hooks take during an install of an hour
	@$(PY) -m tests.lab.bench_hooks $(ARGS)

bench-layouts: dist ## time and size of each layout, from the image build to a job; rewrites its table in docs/layouts.md
	@$(PY) -m tests.lab.bench_layouts $(ARGS)

bench-login: venv ## time of a login on a node of the lab, also while shared storage hangs (after `make lab`)
	@$(PY) -m tests.lab.bench_login $(ARGS)

bench-adopt: dist ## how long a new head node takes to adopt storage with the desired release (ARGS="--write")
	@$(PY) -m tests.lab.bench_adopt $(ARGS)

bench-check: dist ## time of the check of 2, 200 and 1,000 nodes (ARGS="--runs 9")
	@$(PY) -m tests.lab.bench_check $(ARGS)

bench-status: venv ## time of status, gc and check with 1,000 nodes on storage that needs 1 ms an operation (root)
	@$(PY) -m tests.real.bench_status $(ARGS)

stacks: venv ## solves every stack of spack_envs/ with all recipes, and records it (ARGS="starter" for one)
	@$(PY) -m tests.spack.record_stacks $(ARGS)

seeds: venv ## checks every petal seed below a directory (SEEDS=DIR) and rewrites docs/dev/seeds.md
	@$(PY) -m tests.spack.check_seeds $(SEEDS)

torture: dist ## make fuzz, then make kills
	@$(MAKE) fuzz
	@$(MAKE) kills

kills: dist ## 200 kills at random moments; rewrites docs/dev/reliability.md (ARGS="--kills 20 --seed 7")
	@$(PY) -m tests.lab.many_kills $(ARGS)

mutants: dist ## breaks lines of safety code and sees whether a test fails (ARGS="--write", ARGS="lock")
	@$(PY) -m tests.mutants $(ARGS)

house: venv ## size and structure of the package as figures
	@$(PY) -m tests.house

clean: ## removes build results; keeps .venv
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache
