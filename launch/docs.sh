#!/usr/bin/env bash
# Builds the documentation site into docs/_build, strictly: a broken link, anchor or reference fails.
# Another folder: launch/docs.sh FOLDER.  The pages need no server and load nothing from elsewhere.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
set_up "[docs]"

site=${1:-docs/_build}
python -m sphinx -E -W --keep-going --quiet -b html docs "$site"
echo "site: $site/index.html"
