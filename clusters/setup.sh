#!/usr/bin/env bash
# Prepare a host for Ray: install the package, check shared storage, and set up the profile of login shells.
# Every cluster file here runs it on each host; running it again changes nothing unless the source has changed:
#
#   IALIGN_SHARED=/srv/ialign [IALIGN_VENV=~/ialign-venv] [IALIGN_PYTHON=python3.11] setup.sh SOURCE
#
# SOURCE is the folder with pyproject.toml. Without IALIGN_VENV the package is installed into the Python on PATH, as in
# Ray's images. IALIGN_PYTHON must be the same version on all hosts, or Ray refuses the ones that differ.
set -euo pipefail

die() { echo "setup.sh: $*" >&2; exit 1; }

source=${1:?setup.sh: name the folder with pyproject.toml}
shared=${IALIGN_SHARED:?setup.sh: set IALIGN_SHARED to the folder that all hosts share}
python=${IALIGN_PYTHON:-python3}

[ -f "$source/pyproject.toml" ] || die "$source holds no pyproject.toml; check file_mounts"

# a checkpoint written by one host must be read by the next: find out now, not after hours of training
mkdir -p "$shared" 2>/dev/null || true
probe="$shared/.written-by-$(hostname)"
{ : >"$probe"; } 2>/dev/null || die "$shared cannot be written here; mount the shared storage, or change IALIGN_SHARED"
rm -f "$probe"

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || die "$python is older than 3.11; name a newer one in IALIGN_PYTHON"
if [ -n "${IALIGN_VENV:-}" ]; then
  [ -x "$IALIGN_VENV/bin/python" ] || "$python" -m venv "$IALIGN_VENV"
  python=$IALIGN_VENV/bin/python
fi
# An installation by this script is repeated when the source has changed; one from an image or a developer is kept. The
# mark of a killed installation matches no source.
home=$("$python" -c 'import os, site, sys; print(sys.prefix if os.access(sys.prefix, os.W_OK) else site.getuserbase())')
mark=$home/.ialign-source
present=$(cd "$source" && find pyproject.toml ialign_ray -type f ! -name '*.pyc' -exec sha256sum {} + | sort | sha256sum)
"$python" -P -c 'import ialign_ray, ray' 2>/dev/null && known=$(cat "$mark" 2>/dev/null || echo "$present") || known=
if [ "$known" != "$present" ]; then
  mkdir -p "$home"
  echo unfinished >"$mark"
  "$python" -m pip install --quiet "$source"
  echo "$present" >"$mark"
fi

# Ray starts everything in login shells; `ray stop` and `ray exec` run without our start commands, so it is set here
# Artefacts made once, such as the pocket base model, must be found by all hosts
line="export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 IALIGN_CACHE=\"$shared/cache\"${IALIGN_VENV:+ PATH=\"$IALIGN_VENV/bin:\$PATH\"}"
for profile in ~/.profile ~/.bashrc; do
  grep -qxF "$line" "$profile" 2>/dev/null || echo "$line" >>"$profile"
done
