"""Where a run's data comes from: phantoms, patients, or not told by the run folder."""

import re
from collections.abc import Collection, Iterable
from typing import Any, Literal

from recipe.evaluation.questions import read_columns
from recipe.reporting.run_folder import RunFolder

Origin = Literal["phantom", "patients", "unknown"]
# The phantom set numbers its patients from here on; MIMIC-CXR's numbers all lie below.
FIRST_PHANTOM = 90_000_000


def data_origin(run: RunFolder) -> Origin:
    """`phantom` only if every patient of the run is one; a single other makes it `patients`."""
    patients: set[str] = set()
    for predictions in (*run.greedy.values(), *run.sampled.values()):
        patients |= _patients(p.extra_info for p in predictions)
    for parquet in (run.train, run.test):
        if parquet is not None:
            patients |= _patients(read_columns(parquet, ("extra_info",))["extra_info"])
    return origin_of_patients(patients)


def origin_of_patients(patients: Collection[str]) -> Origin:
    """The origin of data about these patients."""
    if not patients:
        return "unknown"
    return "phantom" if all(map(_is_phantom, patients)) else "patients"


def _patients(extras: Iterable[Any]) -> set[str]:
    return {str(extra["patient"]) for extra in extras if extra and extra.get("patient")}


def _is_phantom(patient: str) -> bool:
    number = re.fullmatch(r"p?(\d+)", patient)
    return number is not None and int(number.group(1)) >= FIRST_PHANTOM
