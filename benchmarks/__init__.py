"""Measurements that a user can repeat; see each module's docstring.

Here is what several do: run again in a new process, and write a section of a page in docs.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"


def run_again(module: str, *options: str) -> Any:
    """Run this program in a new process with more options; return the JSON of its last line."""
    command = [sys.executable, "-m", module, *sys.argv[1:], *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def write_section(page: str, name: str, content: str) -> None:
    """Write `content` between the markers of a section of a page in docs.

    Raises:
        ValueError: the page has no such section.
    """
    text = (DOCS / page).read_text(encoding="utf-8")
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if begin not in text or end not in text:
        raise ValueError(f"docs/{page} has no section {name}")
    before, rest = text.split(begin, 1)
    after = rest.split(end, 1)[1]
    (DOCS / page).write_text(f"{before}{begin}\n{content}\n{end}{after}", encoding="utf-8")
