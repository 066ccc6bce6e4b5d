"""Write the list of files at the end of docs/architecture.md: `python tools/file_index.py`.

Each file is listed with the first paragraph of its docstring.
"""

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "architecture.md"
HEADING = "## Every file"
PACKAGES = ("data_prep", "reward", "llm_client", "recipe", "phantom", "benchmarks", "tools")
OTHERS = ("launch/**/*.s*", "recipe/report/templates/*", "data_prep/templates/*")


def file_index() -> str:
    """Return the section: a heading for each folder, a line for each file under version control."""
    patterns = [*(f"{name}/**/*.py" for name in PACKAGES), *OTHERS]
    command = ["git", "ls-files", "--", *(f":(glob){pattern}" for pattern in patterns)]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders: dict[str, list[Path]] = {}
    for name in sorted(listing.split()):
        folders.setdefault(str(Path(name).parent), []).append(ROOT / name)
    parts = [HEADING, "Written by `python tools/file_index.py`."]
    for folder, files in sorted(folders.items()):
        purpose = describe(ROOT / folder / "__init__.py")
        parts.append(f"**`{folder}/`** {purpose}".rstrip())
        lines = [
            f"- `{file.name}` {describe(file)}" for file in files if file.name != "__init__.py"
        ]
        parts.append("\n".join(line.rstrip() for line in lines))
    return "\n\n".join(filter(None, parts)) + "\n"


def describe(file: Path) -> str:
    """Return the first paragraph of a Python file's docstring, and "" for other files."""
    if file.suffix != ".py" or not file.is_file():
        return ""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def main() -> None:
    """Replace the list in the document."""
    text = DOCUMENT.read_text(encoding="utf-8").split(HEADING)[0]
    DOCUMENT.write_text(text + file_index(), encoding="utf-8")


if __name__ == "__main__":
    main()
