#!/usr/bin/env bash
# Makes .venv once (again when pyproject.toml changes), then runs whatever follows in it:  ./bootstrap.sh oxrl doctor
set -euo pipefail
cd "$(dirname "$0")"

PYTHON=${PYTHON:-python3}
VENV=.venv

fail() { printf 'oxrl: %s\n' "$1" >&2; [ $# -lt 2 ] || printf '      next: %s\n' "$2" >&2; exit 2; }

command -v "$PYTHON" >/dev/null || fail "no '$PYTHON' found" "install Python 3.11, 3.12 or 3.13, or set PYTHON=/path/to/python3"
"$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' ||
  fail "Python 3.11 to 3.13 is needed, '$PYTHON' is $("$PYTHON" -V 2>&1)" "set PYTHON=/path/to/python3.11"

# The profile: a CUDA build where the driver shows a GPU, else the CPU build of the same stack.
PROFILE=${OXRL_PROFILE:-}
if [ -z "$PROFILE" ]; then
  PROFILE=cpu
  if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then PROFILE=gpu; fi
fi
case "$PROFILE" in cpu | gpu | train) ;; *) fail "OXRL_PROFILE=$PROFILE is not a profile" "use cpu, gpu or train (no vLLM)" ;; esac
# vLLM's CPU wheels exist for Linux alone; elsewhere the transformers sampler stands in.
if [ "$PROFILE" = cpu ] && [ "$(uname)" != Linux ]; then PROFILE=train; fi

install() {
  local started=$SECONDS find_links torch_backend=()
  printf 'oxrl: preparing %s for profile "%s", once: about 20 s to 3 min and 2.6 GB (gpu: 9 GB) ...\n' "$VENV" "$PROFILE" >&2
  [ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV" ||
    fail "cannot make $VENV" "on Debian and Ubuntu: apt-get install python3-venv; then try again"
  # uv lives inside the environment: older ones ignore the scoped exclusions in pyproject.toml.
  [ -x "$VENV/bin/uv" ] || "$VENV/bin/python" -m pip install -q --disable-pip-version-check "uv>=0.13,<0.14" ||
    fail "pip could not install uv" "check the network or the pip configuration (pip config list)"
  # uv does not read pip's configuration; carry over the folder of local wheels, if there is one.
  find_links=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$("$VENV/bin/python" -m pip config get global.find-links 2>/dev/null || true)}}
  if [ -n "$find_links" ] && [ -d "$find_links" ]; then export UV_FIND_LINKS="$find_links"; fi
  if [ "$PROFILE" = cpu ] && ! ls "${find_links:-/nonexistent}"/torch-*+cpu-cp"$("$VENV/bin/python" -c 'import sys; print("%d%d" % sys.version_info[:2])')"*.whl >/dev/null 2>&1; then
    torch_backend=(--torch-backend=cpu)
  fi
  UV_LINK_MODE=${UV_LINK_MODE:-hardlink} "$VENV/bin/uv" pip install -q --python "$VENV/bin/python" "${torch_backend[@]}" -e ".[$PROFILE,dev]" ||
    fail "the packages could not be installed" "read the message above; then run the same command again, what was downloaded is kept"
  printf '%s\n' "$wanted" > "$VENV/.ready"
  printf 'oxrl: ready in %d s (%s)\n' $((SECONDS - started)) "$(du -sh "$VENV" | cut -f1)" >&2
}

wanted="$PROFILE $(cksum < pyproject.toml)"
ready() { [ "$(cat "$VENV/.ready" 2>/dev/null || true)" = "$wanted" ]; }
if ! ready; then
  # Two commands started at once must not both install.
  if command -v flock >/dev/null; then
    exec 9> .bootstrap.lock
    flock -w 900 9 || fail "another set-up has held .bootstrap.lock for 15 minutes" "end it, or remove .bootstrap.lock"
  fi
  ready || install
  exec 9>&- 2>/dev/null || true
fi

[ $# -gt 0 ] || exit 0
# Where an image forbids bytecode, every process would compile the libraries anew: vLLM and DeepSpeed in 15 s, not 6.
unset PYTHONDONTWRITEBYTECODE
PATH="$PWD/$VENV/bin:$PATH" exec "$@"
