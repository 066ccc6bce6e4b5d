"""``python -m phantom.study.shuffled DATA OUT``: a copy of prepared data with exchanged pictures.

Every training row gets the picture of another patient; validation and test do not change. A model
trained on it can learn what is usual but nothing about a picture's content, so an evaluation must
find it no better than its controls.
"""

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.program import InputError, refuse_other_folder, whole_folder
from recipe.evaluate.controls import other_patients
from recipe.program import one_line_at_the_end

SEED = 0


def shuffle_pictures(table: pa.Table) -> pa.Table:
    """Return the rows with other patients' pictures, with the same types and metadata."""
    images = table["images"].to_pylist()
    patients = [str(extra["patient"]) for extra in table["extra_info"].to_pylist()]
    index = table.schema.get_field_index("images")
    field = table.schema.field(index)
    exchanged = [images[source] for source in other_patients(patients, SEED)]
    return table.set_column(index, field, pa.array(exchanged, field.type))


def convert(source: Path, out: Path) -> None:
    """Write copies of all parquet files, training rows with other patients' pictures.

    Raises:
        InputError: there are no parquet files, or `out` holds other files.
    """
    files = [path for path in sorted(source.glob("*.parquet")) if path.stem != "rejects"]
    if not files:
        raise InputError(f"{source}: no parquet files of data_prep.thinkvg")
    if out.resolve() == source.resolve():
        raise InputError(f"{out}: name another folder than that of the data")
    refuse_other_folder(out, "train.parquet")
    with whole_folder(out) as unfinished:
        for path in files:
            table = pq.read_table(path)
            if path.stem.startswith(("train", "sft_train")):
                table = shuffle_pictures(table)
            pq.write_table(table, unfinished / path.name)


def main() -> None:
    """Read the command line and write the copy."""
    parser = argparse.ArgumentParser(prog="python -m phantom.study.shuffled", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of data_prep.thinkvg")
    parser.add_argument("out", type=Path, help="folder to write")
    options = parser.parse_args()
    with one_line_at_the_end():
        convert(options.data, options.out)


if __name__ == "__main__":
    main()
