#!/usr/bin/env bash
# Resolves the extras cpu, app, judge, tracking, bench and dev of pyproject.toml into requirements/cpu.lock.
#
#   tools/lock.sh                      keep the pinned versions that still fit
#   tools/lock.sh --upgrade            take the newest versions that fit
#   tools/lock.sh -P transformers      take the newest version of one package
#
# Wheels are those that glibc 2.34 takes (Debian 12, Ubuntu 22.04, RHEL 9 and later).
#
# Every package gets the hashes of all its files, except torch: its CPU build is not on the package
# registry, and the lock must hold wherever that build comes from.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/package_sources.sh

uv_version=0.13.9
lock=requirements/cpu.lock
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [[ ! -x .venv/bin/python ]]; then
    echo "lock: no .venv here; run 'make setup' first" >&2
    exit 2
fi
.venv/bin/python -m venv --without-pip "$work/uv"
.venv/bin/python -m pip --python "$work/uv/bin/python" install --quiet "uv==$uv_version"

uv_sources .venv/bin/python
read -r -d '' -a links < <(pip_setting .venv/bin/python find-links) || true
links+=("https://download.pytorch.org/whl/cpu/torch/")
torch=$(sed -n 's/.*"torch==\([^"]*\)".*/\1/p' pyproject.toml)
for link in "${links[@]}"; do
    if .venv/bin/python -m pip download --quiet --no-deps --no-index --find-links "$link" \
        --dest "$work/torch" "torch==$torch" 2>/dev/null; then
        echo "lock: torch $torch found at $link"
        sources+=(--find-links "$link")
        torch_found=1
        break
    fi
done
if [[ -z ${torch_found:-} ]]; then
    echo "lock: no torch $torch at ${links[*]}; set PIP_FIND_LINKS to a folder or page that has it" >&2
    exit 2
fi
if [[ -f $lock ]]; then
    cp "$lock" "$work/cpu.lock"
fi
"$work/uv/bin/uv" pip compile pyproject.toml --quiet \
    --extra cpu --extra app --extra judge --extra tracking --extra bench --extra dev \
    --override requirements/overrides.txt \
    --python-version 3.11 --python-platform x86_64-manylinux_2_34 \
    --only-binary :all: --no-binary antlr4-python3-runtime \
    --generate-hashes --no-emit-find-links --no-emit-index-url \
    --custom-compile-command "make lock" \
    "${sources[@]}" "$@" --output-file "$work/cpu.lock"

awk '
    /^torch==/ { sub(/ *\\$/, ""); print; in_torch = 1; next }
    in_torch && /^ *--hash/ { next }
    { in_torch = 0; print }
' "$work/cpu.lock" >"$lock.new"
mv "$lock.new" "$lock"
echo "lock: $(grep -c '^[a-z0-9].*==' "$lock") packages in $lock"
