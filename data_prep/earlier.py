"""The split of each patient in a folder that was prepared before."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.program import InputError
from data_prep.splits import SPLITS


def patients_of(path: Path) -> set[str]:
    """Return the patients of a rollout file.

    Raises:
        InputError: its rows name none, as in files of another program.
    """
    try:
        extra = pq.ParquetFile(path).read(columns=["extra_info.patient"])["extra_info"]
        patients = set(pc.struct_field(extra, "patient").to_pylist())
    except (pa.ArrowInvalid, KeyError) as error:
        raise InputError(f"{path} names no patients ({error}): prepare the data again") from None
    return patients - {None, ""}


def read_splits(folder: Path) -> dict[str, str]:
    """Return the split of each patient in a folder of `data_prep.thinkvg`.

    Raises:
        InputError: it holds no training split, or a file of it names no patients.
    """
    if not (folder / "train.parquet").is_file():
        raise InputError(f"{folder} holds no train.parquet: name a prepared folder")
    # train last: a patient of two splits, in files of another origin, was trained on
    files = {split: folder / f"{split}.parquet" for split in reversed(SPLITS)}
    return {
        patient: split
        for split, path in files.items()
        if path.is_file()
        for patient in patients_of(path)
    }


def trained_before(folder: Path, split_of: Mapping[str, str]) -> list[str]:
    """Return a remark if patients of val and test were training patients in `folder` until now."""
    try:
        earlier = read_splits(folder)
    except InputError:
        return []  # nothing was prepared there
    moved = sum(
        earlier.get(patient) == "train" and split != "train" for patient, split in split_of.items()
    )
    if not moved:
        return []
    return [
        f"{moved} patients of val and test were training patients in {folder} until now: a model "
        "that was trained there has seen them. --splits-of FOLDER keeps the splits of a folder"
    ]
