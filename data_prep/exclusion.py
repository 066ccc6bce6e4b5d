"""The list of images that are kept out of the data, such as a benchmark's test images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from data_prep.errors import InputError
from data_prep.pictures import patient_and_study

_MIMIC_PART = re.compile(r"p\d{6,}|s\d{6,}")
_DIGITS = re.compile(r"\d{6,}")
_BETWEEN = re.compile(r"[,;\t]")


class Exclusion:
    """Names of images, studies and patients. Truthy where it names any.

    `entries` holds, for each entry of a list, the names it may stand for, in lower case.
    """

    def __init__(self, entries: Mapping[str, frozenset[str]] | None = None) -> None:
        self._entries = dict(entries or {})
        self._names = frozenset(name for names in self._entries.values() for name in names)

    def __len__(self) -> int:
        return len(self._entries)

    def has(self, image_path: str, patient: str, study: str) -> bool:
        """Whether the image, its study or its patient is on the list."""
        if not self._names:
            return False
        stem = PurePosixPath(image_path).stem.lower()
        return any(name in self._names for name in (stem, patient, study) if name)

    def unknown(self, image_paths: Iterable[str]) -> list[str]:
        """The entries that name none of these images."""
        seen: set[str] = set()
        for path in image_paths:
            seen.add(PurePosixPath(path).stem.lower())
            seen.update(patient_and_study(path) or ())
        return [entry for entry, names in self._entries.items() if not names & seen]


def read_exclusion(path: Path | None) -> Exclusion:
    """Reads a list: an entry a line, or several with commas between them.

    Empty lines and those that begin with # are passed over. An entry is an image path, a DICOM
    name (with or without ending), a study (`s…`) or a patient (`p…`); a number without letter is
    both. Raises InputError for a file that does not read or holds no entry.
    """
    if path is None:
        return Exclusion()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--exclude {path} does not read: {error}") from None
    parts = (part for line in lines if not line.startswith("#") for part in _BETWEEN.split(line))
    entries = {entry: _names(entry) for part in parts if (entry := part.strip().strip("\"'"))}
    if not entries:
        raise InputError(f"--exclude {path} holds no entry: write an image path, study or patient")
    return Exclusion(entries)


def _names(entry: str) -> frozenset[str]:
    last = PurePosixPath(entry.lower()).name
    name = last if _MIMIC_PART.fullmatch(last) else PurePosixPath(last).stem
    if _DIGITS.fullmatch(name):
        return frozenset((name, f"p{name}", f"s{name}"))
    return frozenset((name,))


def check_exclusion(
    exclusion: Exclusion, path: Path, image_paths: Iterable[str], is_whole: bool
) -> list[str]:
    """A remark where entries name no row. Raises InputError where none does.

    With a limit (`is_whole` false) the rows that are named may be among those left out.
    """
    unknown = exclusion.unknown(image_paths)
    if not unknown:
        return []
    some = ", ".join(unknown[:3])
    if len(unknown) == len(exclusion) and is_whole:
        raise InputError(
            f"--exclude {path}: none of its {len(exclusion)} entries names a row, such as {some}: "
            "write image paths, DICOM names, studies (s…) or patients (p…)"
        )
    return [f"{len(unknown)} of {len(exclusion)} entries of --exclude name no row, such as {some}"]
