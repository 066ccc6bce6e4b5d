"""The list of images that are kept out of the data, such as a benchmark's test images."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from data_prep.errors import InputError

_MIMIC_PART = re.compile(r"p\d{6,}|s\d{6,}")


class Exclusion:
    """Names of images, studies and patients. Truthy where it names any."""

    def __init__(self, names: frozenset[str] = frozenset()) -> None:
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def has(self, image_path: str, patient: str, study: str) -> bool:
        """Whether the image, its study or its patient is on the list."""
        if not self._names:
            return False
        stem = PurePosixPath(image_path).stem
        return any(name in self._names for name in (stem, patient, study) if name)


def read_exclusion(path: Path | None) -> Exclusion:
    """Reads a list, an entry a line; empty lines and those that begin with # are passed over.

    An entry is an image path, a DICOM name (with or without ending), a study (`s…`) or a patient
    (`p…`). Raises InputError for a file that does not read or holds no entry.
    """
    if path is None:
        return Exclusion()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--exclude {path} does not read: {error}") from None
    entries = [line.strip().strip("\"',") for line in lines]
    names = {_name(entry) for entry in entries if entry and not entry.startswith("#")}
    if not names:
        raise InputError(f"--exclude {path} holds no entry: write an image path, study or patient")
    return Exclusion(frozenset(names))


def _name(entry: str) -> str:
    last = PurePosixPath(entry).name
    return last if _MIMIC_PART.fullmatch(last) else PurePosixPath(last).stem
