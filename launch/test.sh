#!/usr/bin/env bash
# Sets up .venv with what the tests need, then checks format, lint, types and runs all tests.
# Arguments go to pytest: launch/test.sh -k order
set -euo pipefail
source "$(dirname "$0")/setup.sh"
set_up "[test]"

ruff format --check --quiet .
ruff check --quiet .
pyrefly check
# Two test processes with one thread each: with two each they wait for each other, a third slower.
export OMP_NUM_THREADS=1
pytest --numprocesses 2 --dist loadfile "$@"
