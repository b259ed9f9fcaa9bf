# Sourced by demo.sh and test.sh: makes .venv with the versions of constraints.txt.
# Usage: set_up EXTRA   ("" or "[test]").  Skipped while nothing it depends on has changed.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "launch: no Python 3.11 or newer found (tried python3, python3.13, 3.12, 3.11)" >&2
    return 1
}

set_up() {
    local extra=$1 python stamp
    stamp=".venv/set-up$extra-$(cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)"
    if [ ! -e "$stamp" ]; then
        python=$(find_python)
        echo "launch: setting up .venv (about 3 GB of downloads, once)"
        if [ ! -x .venv/bin/python ]; then
            "$python" -m venv .venv || {
                echo "launch: $python has no venv module (Debian, Ubuntu: apt install python3-venv)" >&2
                return 1
            }
        fi
        .venv/bin/python -m pip install --quiet --disable-pip-version-check uv
        # Compiled once here: every process of every run imports torch.
        .venv/bin/uv pip install --quiet --python .venv/bin/python --compile-bytecode \
            --constraint constraints.txt --editable ".$extra"
        touch "$stamp"
    fi
    export PATH="$PWD/.venv/bin:$PATH"
}
