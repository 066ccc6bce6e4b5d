"""Tables that accompany the rows: a list of images to exclude, and findings for the judge."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq

from data_prep.pictures import patient_and_study
from data_prep.program import InputError
from data_prep.sources.files import is_text

KEYS = ("image_path", "study")
"""Columns that say which image or study a text of findings describes."""
_READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".parquet": pq.read_table,
    # Findings may have several lines.
    ".csv": lambda path: pacsv.read_csv(
        path, parse_options=pacsv.ParseOptions(newlines_in_values=True)
    ),
    ".jsonl": pajson.read_json,
}
_NUMBER = re.compile(r"\.\d+")
_DIGITS = re.compile(r"\d{6,}")
_SEPARATOR = re.compile(r"[,;\t]")


class Exclusion:
    """Names of images, studies and patients to exclude, in lower case, by entry of a list.

    False if there are none.
    """

    def __init__(self, entries: Mapping[str, frozenset[str]] | None = None) -> None:
        self._entries = dict(entries or {})
        self._names = frozenset(name for names in self._entries.values() for name in names)

    def __len__(self) -> int:
        return len(self._entries)

    def has(self, image_path: str, patient: str, study: str) -> bool:
        names = (_stem(image_path), patient, study)
        return any(name in self._names for name in names if name)

    def unknown(self, image_paths: Iterable[str]) -> list[str]:
        """Return the entries that match none of these images."""
        known: set[str] = set()
        for path in image_paths:
            known.add(_stem(path))
            known.update(patient_and_study(path) or ())
        return [entry for entry, names in self._entries.items() if not names & known]


def read_exclusion(path: Path | None) -> Exclusion:
    """Read a list of entries, separated by lines, commas, semicolons or tabs; None: an empty list.

    Empty lines and those that begin with # are skipped. An entry is an image path, a DICOM name
    (with or without suffix), a study (`s…`) or a patient (`p…`); a number without a letter can be
    either of them.

    Raises:
        InputError: The file is not readable or holds no entry.
    """
    if path is None:
        return Exclusion()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--exclude {path} does not read: {error}") from None
    parts = (part for line in lines if not line.startswith("#") for part in _SEPARATOR.split(line))
    entries = {entry: _names_of(entry) for part in parts if (entry := part.strip().strip("\"'"))}
    if not entries:
        raise InputError(f"--exclude {path} holds no entry: write an image path, study or patient")
    return Exclusion(entries)


def _stem(path: str) -> str:
    """Return the name of an image without its suffix, in lower case.

    Names of DICOM files have dots: a part of digits is no suffix.
    """
    name = PurePosixPath(path.lower()).name
    return name if _NUMBER.fullmatch(PurePosixPath(name).suffix) else PurePosixPath(name).stem


def _names_of(entry: str) -> frozenset[str]:
    """Return the names that an entry may mean, in lower case."""
    name = _stem(entry)
    if _DIGITS.fullmatch(name):
        return frozenset((name, f"p{name}", f"s{name}"))
    return frozenset((name,))


def check_exclusion(
    exclusion: Exclusion, path: Path, image_paths: Iterable[str], is_complete: bool
) -> list[str]:
    """Return a remark on entries that match no row; refuse a list that matches none of all rows."""
    unknown = exclusion.unknown(image_paths)
    if not unknown:
        return []
    first = ", ".join(unknown[:3])
    if len(unknown) == len(exclusion) and is_complete:
        raise InputError(
            f"--exclude {path}: none of its {len(exclusion)} entries names a row, such as {first}: "
            "write image paths, DICOM names, studies (s…) or patients (p…)"
        )
    return [f"{len(unknown)} of {len(exclusion)} entries of --exclude name no row, such as {first}"]


def read_findings(path: Path) -> dict[str, str]:
    """Return findings by image path, from `pNN/` on, or by study, such as "s50414267".

    The table is parquet, CSV or JSON lines, with the column `findings`, and `image_path` or `study`
    or both; `study` counts if `image_path` is empty.

    Raises:
        InputError: The file is anything else, or has two different findings for a key.
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
    findings: dict[str, str] = {}
    for *names, text in zip(*keys, _texts(table, "findings", path), strict=True):
        name = next(filter(None, names), "")
        if not name or not text or not text.strip():
            continue
        if findings.setdefault(name, text.strip()) != text.strip():
            raise InputError(f"--findings {path} has two different findings for {name}: keep one")
    if not findings:
        raise InputError(f"--findings {path} holds no findings: fill it, or leave the option out")
    return findings


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
            # The type that Arrow infers for a CSV column that is not UTF-8.
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
    to_key = _study if name == "study" else _image
    return [to_key(text.strip()) if text else "" for text in _texts(table, name, path)]


def _image(path: str) -> str:
    return path.lstrip("/").removeprefix("files/")


def _study(name: str) -> str:
    return f"s{name}" if name.isdecimal() else name.lower()


def findings_of(table: Mapping[str, str], image_path: str, study: str) -> str | None:
    """Return the findings of an image, or of its study; None if the table has none."""
    return table.get(_image(image_path)) or table.get(study)


def check_coverage(
    table: Mapping[str, str], path: Path, image_paths: Collection[str], is_complete: bool
) -> list[str]:
    """Return a remark on images without findings; refuse a table with none for any of all rows."""
    missing = 0
    for image in image_paths:
        study = (patient_and_study(image) or ("", ""))[1]
        missing += findings_of(table, image, study) is None
    if missing == len(image_paths) and is_complete:
        raise InputError(
            f"--findings {path} names none of the {missing} images: its first key is "
            f"{next(iter(table))}, an image is {min(image_paths, default='none')}"
        )
    return [f"{missing} of {len(image_paths)} images have no findings"] if missing else []
