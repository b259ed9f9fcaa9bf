# Sourced by demo.sh, test.sh and gpu_bench.sh: sets up .venv with the versions of constraints.txt.
# Usage: set_up EXTRA   ("" or "[test]").  Does nothing while pyproject.toml and constraints.txt are
# unchanged.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "launch: no Python 3.11 or newer found (tried python3, python3.11 to 3.14, python)" >&2
    return 1
}

set_up() {
    local extra=$1 python wanted
    wanted="$extra $(cat pyproject.toml constraints.txt | cksum)"
    if [ "$(cat .venv/set-up 2>/dev/null)" != "$wanted" ]; then
        echo "launch: setting up .venv (about 3 GB of downloads, once)"
        if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
            python=$(find_python)
            "$python" -m venv --clear .venv || {
                rm -rf .venv
                echo "launch: $python cannot make a .venv (Debian, Ubuntu: apt install python3-venv)" >&2
                return 1
            }
        fi
        .venv/bin/python -m pip install --quiet --disable-pip-version-check uv
        # Compiled once here: every process of every run imports torch.
        .venv/bin/uv pip install --quiet --python .venv/bin/python --compile-bytecode \
            --constraint constraints.txt --editable ".$extra"
        echo "$wanted" >.venv/set-up
    fi
    export PATH="$PWD/.venv/bin:$PATH"
}
