#!/usr/bin/env bash
# Installs Debian's Chromium, in which tests open the audit page and the report, where it is missing and this is
# root; otherwise says that the tests will be skipped.
set -euo pipefail

say() { echo "chromium: $*"; }

for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then
        exit 0
    fi
done
if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
    say "not found, and not installed without root and apt-get: the tests in a browser are skipped"
    say "to run them: sudo apt-get install --no-install-recommends chromium"
    exit 0
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
say "not found; installing the system package (apt-get install --no-install-recommends chromium)"
if { apt-get update && DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends chromium; } >"$log" 2>&1 && command -v chromium >/dev/null; then
    say "installed $(chromium --version 2>/dev/null || echo chromium)"
else
    tail -n 5 "$log" >&2
    say "apt-get did not install it: the tests in a browser are skipped" >&2
fi
