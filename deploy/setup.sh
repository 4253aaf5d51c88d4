#!/usr/bin/env bash
# Installs what a build needs: Debian packages (deploy/apt-packages.txt) and Python wheels
# (deploy/requirements*.txt) into build/python. A step that is already done is skipped.
#
#   deploy/setup.sh
#   SIBYL_TORCH=/opt/libtorch deploy/setup.sh      uses that LibTorch and fetches none
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '[setup] %s\n' "$*"; }
fail() { printf '[setup] FAILED: %s\n' "$*" >&2; exit 1; }

mapfile -t wanted < deploy/apt-packages.txt
missing=()
for package in "${wanted[@]}"; do
  [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
done
if ((${#missing[@]})); then
  install=(apt-get install -y -qq --no-install-recommends "${missing[@]}")
  if [[ $(id -u) -ne 0 ]]; then
    fail "these Debian packages are missing: ${missing[*]}
  Ask an administrator to run:  apt-get update && apt-get install --no-install-recommends ${missing[*]}
  and then run this again."
  fi
  step "installing ${#missing[@]} Debian packages"
  log=$(mktemp)
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${install[@]}"; } >"$log" 2>&1 ||
    { tail -20 "$log" >&2; fail "apt-get could not install: ${missing[*]} (whole log: $log)"; }
  rm -f "$log"
fi

python=build/python
if [[ ! -x $python/bin/pip ]]; then
  step "making a Python environment in $python"
  mkdir -p build
  python3 -m venv "$python" || fail "python3 -m venv $python (is python3-venv installed?)"
fi

# wheels FILE PIP-OPTION...: installs FILE's pinned wheels once; the stamp holds what was installed.
wheels() {
  local file=$1 stamp="$python/$(basename "$1").installed"
  shift
  cmp -s "$file" "$stamp" && return
  step "installing wheels of $file"
  "$python/bin/pip" install -q --disable-pip-version-check "$@" -r "$file" ||
    fail "pip could not install $file; the lines above say which wheel and why"
  cp "$file" "$stamp"
}
wheels deploy/requirements.txt
wheels deploy/requirements-llm.txt --no-deps
if [[ -n ${SIBYL_TORCH:-} ]]; then
  [[ -f $SIBYL_TORCH/lib/libtorch_cpu.so ]] || fail "SIBYL_TORCH=$SIBYL_TORCH holds no lib/libtorch_cpu.so"
  step "using LibTorch in $SIBYL_TORCH"
else
  wheels deploy/requirements-torch.txt --no-deps
fi
step "done"
