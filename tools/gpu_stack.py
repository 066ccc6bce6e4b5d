"""Print the packages of ``make test-gpu-stack``: `python tools/gpu_stack.py [--cuda] > FILE`.

They are the packages of ``requirements/cpu.lock`` at the versions of ``requirements/gpu.lock``,
with the hashes of the two locks. A package that only the CPU lock has (the tests' tools) keeps its
version there. ``requirements/gpu-stack.txt`` has vLLM for a CPU. Without ``--cuda``, torch is left
out, since its CPU build is on no package registry; with it, torch is the CUDA build of the GPU
lock, and the libraries that this build loads are added. The CUDA build computes on a CPU, too.
"""

import re
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"
_NAME = re.compile(r"^([A-Za-z0-9._-]+)==")

Lock = dict[str, list[str]]
"""Lines of each package of a lock, by name: version, hashes, and what asks for it."""


def read_lock(file: Path) -> Lock:
    """Read a lock written by uv."""
    packages: Lock = {}
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if match := _NAME.match(line):
            lines = packages.setdefault(match[1], [])
        if match or line.startswith(" "):
            lines.append(line)
    return packages


def parents(lines: list[str]) -> set[str]:
    """Return the names of the packages that ask for one."""
    comments = (line.split("#", 1)[1] for line in lines if line.lstrip().startswith("#"))
    return {comment.removeprefix(" via").strip() for comment in comments}


def needed_by(name: str, lock: Lock) -> set[str]:
    """Return a package and all packages that it needs, directly or not."""
    needed: set[str] = set()
    added = {name}
    while added:
        needed |= added
        added = {other for other, lines in lock.items() if parents(lines) & added} - needed
    return needed


def merge(cpu: Lock, gpu: Lock, extra: Lock, cuda: bool) -> Lock:
    """Return the packages of the CPU lock at the GPU lock's versions, torch as described above."""
    names = set(cpu) - {"torch"} | (needed_by("torch", gpu) if cuda else set())
    return {name: extra.get(name) or gpu.get(name) or cpu[name] for name in sorted(names)}


def main() -> None:
    """Print the merged lock."""
    cpu, gpu, extra = (
        read_lock(REQUIREMENTS / name) for name in ("cpu.lock", "gpu.lock", "gpu-stack.txt")
    )
    for lines in merge(cpu, gpu, extra, "--cuda" in sys.argv[1:]).values():
        print(*lines, sep="\n")


if __name__ == "__main__":
    main()
