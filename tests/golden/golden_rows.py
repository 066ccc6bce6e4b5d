"""The golden rows: `data_prep.json`, what the preparation makes of phantom sets.

For each phantom set: digests of its rows and pictures. For each run of `data_prep.thinkvg`: a
digest of every row of every file (files of a fraction as numbers of their rows in the whole file),
the files' metadata and the counts of the audit. Digests are of the values that a reader of the
parquet gets, so a file may be laid out in another way. Folders are replaced by their names.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from data_prep.images import main as images_main
from data_prep.thinkvg import main as thinkvg_main
from phantom.draw.__main__ import main as phantom_main

DATA_PREP = Path(__file__).with_name("data_prep.json")
MIXED = "--shapes mixed --long-side 160"
# Texts of the audit, whose wording may change.
_TEXTS = ("frame_evidence", "doubts")

Fingerprint = dict[str, Any]


@dataclass(frozen=True)
class Phantom:
    """A phantom set: options of the command, and what is done to its folder afterwards."""

    options: str
    change: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Run:
    """A run of the preparation; `{set}` in the options is the folder of the phantom set."""

    phantom: str
    options: str = ""
    images: str = "files"
    source: str = ""


def add_exclusion(folder: Path) -> None:
    """Write a list with a patient, a study, an image and a name of nothing."""
    paths = sorted(str(path.relative_to(folder)) for path in folder.glob("files/p9[0-8]/*/*/*.jpg"))
    patient, study, image = paths[0].split("/")[2], paths[7].split("/")[3], paths[15]
    text = f"# kept out\n{patient}\n{study}, {image}\ns12345678\n"
    (folder / "exclude.txt").write_text(text, encoding="utf-8")


def deepen(folder: Path) -> None:
    """Give every third picture 16 bits, and make copies of all pictures."""
    for path in sorted(folder.glob("files/*/*/*/*.jpg"))[::3]:
        with Image.open(path) as picture:
            values = np.asarray(picture).astype(np.uint16) * 16
        Image.fromarray(values).save(path, "PNG")
    copies = ["--out", str(folder / "copies"), "--long-side", "96", "--workers", "1"]
    assert images_main(["--images", str(folder / "files"), *copies]) == 0


def break_lines(folder: Path) -> None:
    """Write the rows as JSON lines, some of which do not read."""
    rows = pq.read_table(folder / "data").to_pylist()
    lines = [json.dumps(row) for row in rows]
    broken = ['{"question": "Is it', '{"some": "keys"}', "[1, 2]", '{"question": "\\ud800"}']
    for number, line in enumerate(broken):
        lines.insert(10 * number, line)
    lines.insert(45, lines[46].replace("lung", "\\ud800"))
    shutil.rmtree(folder / "data")
    (folder / "data").mkdir()
    (folder / "data" / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


DIRTY = "--images 36 --dirty 0.6 --faults all --odd 0.25 --beyond 0.15 --seed 1"
PHANTOMS = {
    "plain": Phantom("--images 60"),
    "dirty": Phantom(DIRTY, add_exclusion),
    "gemex": Phantom(f"{DIRTY} --form gemex"),
    "conversations": Phantom(f"{DIRTY} --form conversations"),
    "lines": Phantom("--images 20 --dirty 0.1 --odd 0.5 --seed 2", break_lines),
    "mixed": Phantom(f"--images 50 --rows 400 --seed 3 {MIXED}"),
    "padded": Phantom(f"--images 50 --rows 500 --seed 4 --frame 224 --fit pad {MIXED}"),
    "wide": Phantom(f"--images 30 --seed 5 --frame 400x300 {MIXED} --dirty 0.2"),
    "original": Phantom(f"--images 40 --rows 300 --seed 6 --frame original {MIXED}"),
    "long": Phantom("--images 20 --rows 120 --seed 7 --regions all --words 80"),
    "deep": Phantom(f"--images 24 --seed 8 --frame original {MIXED}", deepen),
}
DEMO = "--min-pixels 12544 --max-pixels 15680"
RUNS = {
    "demo": Run("plain", f"{DEMO} --val 0.1 --test 0.2"),
    "default options": Run("plain"),
    "limited, with images inside": Run("plain", "--limit 40 --seed 5 --embed-images --test 0.2"),
    "stratified": Run("plain", "--stratify always --val 0.2 --test 0.2 --seed 2"),
    "without validation": Run("plain", "--val 0 --test 0 --stratify never"),
    "enlarged, qwen3_vl": Run(
        "plain", "--model-family qwen3_vl --min-pixels 160000 --max-pixels 300000"
    ),
    "wrong frame": Run("plain", "--frame 224"),
    "dirty": Run("dirty", "--val 0.1 --test 0.1"),
    "dirty, qwen3_vl": Run("dirty", "--model-family qwen3_vl --val 0.1 --test 0.1"),
    "left out": Run("dirty", "--leave-out compares,hedges --test 0.2"),
    "left out, hedges": Run("dirty", "--leave-out hedges --test 0.2"),
    "excluded, with findings": Run(
        "dirty", "--exclude {set}/exclude.txt --findings {set}/findings.parquet --test 0.2"
    ),
    "gemex": Run("gemex", "--val 0.1 --test 0.1"),
    "conversations": Run("conversations", "--model-family qwen3_vl --val 0.1 --test 0.1"),
    "lines": Run("lines", "--test 0.2", source="data/train.jsonl"),
    "inferred, stretched": Run("mixed", "--frame auto"),
    "inferred, padded": Run("padded", "--frame auto"),
    "given, padded": Run("padded", f"--frame 224 --fit pad --model-family qwen3_vl {DEMO}"),
    "given, wide": Run("wide", "--frame 400x300 --fit stretch --test 0.2"),
    "original": Run("original", "--frame original"),
    "inferred, original": Run("original", "--frame auto --model-family qwen3_vl"),
    "long": Run("long", "--test 0.2"),
    "deep": Run("deep", "--frame original --test 0.2"),
    "copies": Run("deep", "--frame original --test 0.2", images="copies"),
}


def draw_phantom(name: str, folder: Path) -> Fingerprint:
    """Make a phantom set in `folder` and return the digests of what it holds."""
    phantom = PHANTOMS[name]
    assert phantom_main(["--out", str(folder), "--workers", "1", *phantom.options.split()]) == 0
    fingerprint: Fingerprint = {}
    for path in sorted(folder.glob("data/*")) + sorted(folder.glob("*.parquet")):
        rows = _rows_of(path)
        fingerprint[path.relative_to(folder).as_posix()] = {
            "rows": len(rows),
            "columns": _columns(rows),
        }
    pictures = sorted(folder.glob("files/**/*.jpg"))
    fingerprint["pictures"] = {
        "rows": len(pictures),
        "pixels": digest(list(map(_pixels, pictures)), 16),
    }
    if phantom.change:
        phantom.change(folder)
    return fingerprint


def prepare_rows(name: str, phantom: Path, out: Path) -> Fingerprint:
    """Prepare a phantom set and return the fingerprint of all that comes out.

    Args:
        name: of the run, a key of `RUNS`.
        phantom: folder of its phantom set.
        out: folder to write.
    """
    run = RUNS[name]
    arguments = ["--source", str(phantom / run.source), "--images", str(phantom / run.images)]
    options = run.options.replace("{set}", str(phantom)).split()
    assert thinkvg_main([*arguments, "--out", str(out), "--workers", "1", *options]) == 0
    folders = {str(phantom.resolve()): "SET", str(phantom): "SET", str(out): "OUT"}
    return {"files": _files(out, folders), "audit": _audit(out / "audit.json", folders)}


def _files(out: Path, folders: Mapping[str, str]) -> Fingerprint:
    """The fingerprint of each file in a folder."""
    files: Fingerprint = {}
    for path in sorted(out.glob("[!.]*")):
        if path.suffix == ".parquet" and "-" not in path.stem:
            files[path.name] = _parquet(path, folders)
        elif path.suffix == ".txt":
            lines = sorted(path.read_text(encoding="utf-8").splitlines())
            files[path.name] = {"rows": len(lines), "lines": digest(lines, 16)}
        elif path.suffix != ".parquet":
            files[path.name] = {}
    for path in sorted(out.glob("*-*.parquet")):
        whole = files[f"{path.stem.partition('-')[0]}.parquet"]
        files[path.name] = _fraction(path, whole, folders)
    return files


def _parquet(path: Path, folders: Mapping[str, str]) -> Fingerprint:
    rows = read_rows(path, folders)
    return {
        "rows": len(rows),
        "columns": _columns(rows),
        "digests": " ".join(map(digest, rows)),
        "metadata": _metadata(path),
    }


def _fraction(path: Path, whole: Fingerprint, folders: Mapping[str, str]) -> Fingerprint:
    """The numbers of a file's rows in the file that it is a fraction of; -1: not there."""
    numbers = {value: number for number, value in enumerate(whole["digests"].split())}
    rows = [numbers.get(digest(row), -1) for row in read_rows(path, folders)]
    metadata = _metadata(path)
    changed = {key: metadata[key] for key in metadata if metadata[key] != whole["metadata"][key]}
    return {"rows": len(rows), "row_numbers": rows, "metadata": changed}


def read_rows(path: Path, folders: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the rows of a parquet file as plain values, with names in place of folders."""
    rows: list[dict[str, Any]] = [plain(row, folders) for row in pq.read_table(path).to_pylist()]
    return rows


def plain(value: Any, folders: Mapping[str, str]) -> Any:
    """Return a value without nulls and folders, and with what its JSON strings and bytes hold."""
    if isinstance(value, dict):
        return {
            key: plain(json.loads(inner) if key == "ground_truth" else inner, folders)
            for key, inner in value.items()
            if inner is not None
        }
    if isinstance(value, list):
        return [plain(inner, folders) for inner in value]
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, float):
        return round(value, 9)  # the last digit may be the processor's
    if isinstance(value, str):
        for folder, name in folders.items():
            value = value.replace(folder, name)
    return value


def digest(value: Any, length: int = 8) -> str:
    """Return the beginning of the SHA-256 of a value's JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _columns(rows: list[dict[str, Any]]) -> dict[str, str]:
    """A digest of each column."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: digest([row.get(name) for row in rows]) for name in names}


def _rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return read_rows(path, {})
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return list(json.loads(text))
    return [json.loads(line) for line in text.splitlines()]


def _pixels(path: Path) -> Any:
    try:
        with Image.open(path) as picture:
            return [path.name, picture.size, hashlib.sha256(picture.tobytes()).hexdigest()]
    except OSError:
        return [path.name, "broken"]


def _metadata(path: Path) -> dict[str, Any]:
    metadata = pq.read_schema(path).metadata or {}
    values: dict[str, Any] = json.loads(metadata.get(b"thinkvg", b"{}"))
    return values


def _audit(path: Path, folders: Mapping[str, str]) -> dict[str, Any]:
    """The audit without its texts: numbers and parameters."""
    audit = json.loads(path.read_text(encoding="utf-8"))
    audit["doubts"] = len(audit["doubts"])
    audit["parameters"] = {
        key: value for key, value in audit["parameters"].items() if key not in _TEXTS
    }
    cleaned: dict[str, Any] = plain(audit, folders)
    return cleaned


def compare_fingerprints(golden: Fingerprint, actual: Fingerprint, path: str = "") -> list[str]:
    """Return a line for each difference, which names file, row, column or count."""
    lines: list[str] = []
    for key in golden | actual:
        where = f"{path} {key}".strip()
        if key not in actual or key not in golden:
            lines.append(f"{where}: {'not golden' if key in actual else 'missing'}")
        elif golden[key] == actual[key]:
            continue
        elif key == "digests":
            lines += _compare_rows(golden[key].split(), actual[key].split(), path)
        elif isinstance(golden[key], dict) and isinstance(actual[key], dict):
            lines += compare_fingerprints(golden[key], actual[key], where)
        else:
            lines.append(f"{where}: golden {golden[key]}, now {actual[key]}")
    return lines


def _compare_rows(golden: list[str], actual: list[str], file: str) -> list[str]:
    if sorted(golden) == sorted(actual):
        return [f"{file}: the same rows in another order"]
    added = [number for number, value in enumerate(actual) if value not in set(golden)]
    lost = [number for number, value in enumerate(golden) if value not in set(actual)]
    lines = []
    if added:
        lines.append(f"{file}: rows {added[:20]} of {len(actual)} are not golden")
    if lost:
        lines.append(f"{file}: golden rows {lost[:20]} of {len(golden)} are missing")
    return lines
