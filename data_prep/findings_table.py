"""The table of findings that the judge reads as a caption."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq

from data_prep.errors import InputError
from data_prep.pictures import patient_and_study
from data_prep.sources.parquet_files import is_text

KEYS = ("image_path", "study")
# Findings may go over several lines.
_CSV = pacsv.ParseOptions(newlines_in_values=True)
_READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".parquet": pq.read_table,
    ".csv": lambda path: pacsv.read_csv(path, parse_options=_CSV),
    ".jsonl": pajson.read_json,
}


def read_findings(path: Path) -> dict[str, str]:
    """Findings by image path, from `pNN/` on, or by study, such as "s50414267".

    The table is parquet, CSV or JSON lines, with a column `findings` and one of `image_path`
    and `study`, or both: then `study` counts where `image_path` is empty. Raises InputError for
    anything else, and for a key with two different findings.
    """
    if not path.is_file():
        raise InputError(f"--findings {path} does not exist")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"--findings {path} is none of {', '.join(_READERS)}")
    try:
        table = reader(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"--findings {path} does not read: {str(error).splitlines()[0]}") from None
    _check_columns(table, path)
    keys = [_keys(table, name, path) for name in KEYS if name in table.column_names]
    found: dict[str, str] = {}
    for *names, text in zip(*keys, _texts(table, "findings", path), strict=True):
        name = next(filter(None, names), "")
        if not name or not text or not text.strip():
            continue
        if found.setdefault(name, text.strip()) != text.strip():
            raise InputError(f"--findings {path} has two different findings for {name}: keep one")
    if not found:
        raise InputError(f"--findings {path} holds no findings: fill it, or leave the option out")
    return found


def _check_columns(table: pa.Table, path: Path) -> None:
    names = table.column_names
    if not set(KEYS) & set(names) or "findings" not in names:
        raise InputError(
            f"--findings {path} needs the column findings and one of {', '.join(KEYS)}: it has "
            f"{', '.join(names)}"
        )
    for name in (*KEYS, "findings"):
        if names.count(name) > 1:
            raise InputError(f"--findings {path} has the column {name} twice: rename one")
        kind = table.schema.field(name).type if name in names else pa.string()
        if pa.types.is_binary(kind):
            # What Arrow makes of a column of a CSV file with other bytes.
            raise InputError(
                f"--findings {path}: the column {name} is no UTF-8: convert it (iconv -t UTF-8)"
            )
        is_number = name == "study" and pa.types.is_integer(kind)
        if not (is_text(kind) or is_number or pa.types.is_null(kind)):
            raise InputError(f"--findings {path}: the column {name} holds {kind}, not text")


def _texts(table: pa.Table, name: str, path: Path) -> list[str | None]:
    try:
        texts: list[str | None] = table[name].cast(pa.string()).to_pylist()
    except UnicodeDecodeError:
        raise InputError(
            f"--findings {path}: the column {name} is no UTF-8: convert it (iconv -t UTF-8)"
        ) from None
    return texts


def _keys(table: pa.Table, name: str, path: Path) -> list[str]:
    make = _study if name == "study" else _image
    return [make(text.strip()) if text else "" for text in _texts(table, name, path)]


def _image(path: str) -> str:
    return path.lstrip("/").removeprefix("files/")


def _study(name: str) -> str:
    return f"s{name}" if name.isdecimal() else name.lower()


def findings_of(table: Mapping[str, str], image_path: str, study: str) -> str | None:
    return table.get(_image(image_path)) or table.get(study)


def check_coverage(
    table: Mapping[str, str], path: Path, image_paths: Collection[str], is_whole: bool
) -> list[str]:
    """A remark where images have no findings. Raises InputError where none has.

    With a limit (`is_whole` false) the images that have may be among those left out.
    """
    missing = 0
    for image in image_paths:
        study = (patient_and_study(image) or ("", ""))[1]
        missing += findings_of(table, image, study) is None
    if missing == len(image_paths) and is_whole:
        raise InputError(
            f"--findings {path} names none of the {missing} images: its first key is "
            f"{next(iter(table))}, an image is {min(image_paths, default='none')}"
        )
    return [f"{missing} of {len(image_paths)} images have no findings"] if missing else []
