#!/usr/bin/env bash
# Resolves the extras gpu, app, judge and tracking of pyproject.toml into requirements/gpu.lock, without
# installing anything: `tools/lock_gpu.sh`, with options of `uv pip compile` such as --upgrade.
#
# flash-attn has no wheel on the registry. Its source asks for torch while it is being built, so its
# one dependency beside torch is stated here; on the cluster it is built against the torch of the
# lock (docs/install-gpu.md).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

uv_version=0.13.9
lock=requirements/gpu.lock
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [[ ! -x .venv/bin/python ]]; then
    echo "lock: no .venv here; run 'make setup' first" >&2
    exit 2
fi
.venv/bin/python -m venv --without-pip "$work/uv"
.venv/bin/python -m pip --python "$work/uv/bin/python" install --quiet "uv==$uv_version"

cp pyproject.toml "$work/pyproject.toml"
cat >>"$work/pyproject.toml" <<'TOML'

[[tool.uv.dependency-metadata]]
name = "flash-attn"
version = "2.8.3"
requires-dist = ["torch", "einops"]
TOML
if [[ -f $lock ]]; then
    cp "$lock" "$work/gpu.lock"
fi
(
    cd "$work"
    uv/bin/uv pip compile pyproject.toml --quiet \
        --extra gpu --extra app --extra judge --extra tracking \
        --python-version 3.11 --python-platform x86_64-manylinux_2_34 \
        --generate-hashes --no-emit-find-links --no-emit-index-url \
        --custom-compile-command "tools/lock_gpu.sh" \
        "$@" --output-file gpu.lock
)
cp "$work/gpu.lock" "$lock.new"
mv "$lock.new" "$lock"
echo "lock: $(grep -c '^[a-z0-9].*==' "$lock") packages in $lock"
