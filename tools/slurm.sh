#!/usr/bin/env bash
# Installs Debian's SLURM and munge, on which the tests of the launcher run, where they are missing and
# this is root; otherwise says that these tests will be skipped. No service of theirs is started.
set -euo pipefail

say() { echo "slurm: $*"; }

programs=(munged slurmctld slurmd sbatch unshare nsenter ip)
packages=(munge slurmctld slurmd slurm-client util-linux iproute2)
missing() {
    local program
    for program in "${programs[@]}"; do
        command -v "$program" >/dev/null || return 0
    done
    return 1
}

PATH=$PATH:/usr/sbin:/sbin
missing || exit 0
if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
    say "not found, and not installed without root and apt-get: the tests of the SLURM launcher are skipped"
    say "to run them: sudo apt-get install --no-install-recommends ${packages[*]}, and as root: make test-slurm"
    exit 0
fi
log=$(mktemp)
# A machine without init refuses services by itself; one with it shall not start them either.
policy=/usr/sbin/policy-rc.d
kept=no
[[ ! -e $policy ]] || kept=yes
clean_up() {
    rm -f "$log"
    [[ $kept == yes ]] || rm -f "$policy"
}
trap clean_up EXIT
if [[ $kept == no ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
say "not found; installing system packages (apt-get install --no-install-recommends ${packages[*]})"
if { apt-get update && DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "${packages[@]}"; } >"$log" 2>&1 && ! missing; then
    say "installed $(slurmctld -V)"
else
    tail -n 5 "$log" >&2
    say "apt-get did not install them: the tests of the SLURM launcher are skipped" >&2
fi
