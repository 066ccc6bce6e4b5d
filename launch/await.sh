#!/usr/bin/env bash
# shellcheck disable=SC2034 # whoever sources this reads `code`

# Waits for a child through any number of signals; its exit code is in `code`. A signal ends `wait` with
# a code of its own, and the child may end while the trap runs: its own code is asked for at the end.
await() {
    while kill -0 "$1" 2>/dev/null; do wait "$1" || true; done
    code=0
    wait "$1" || code=$?
}
