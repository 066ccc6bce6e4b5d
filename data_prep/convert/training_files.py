"""Examples to training files: the rows of each file, their counts, the parquet files in place."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from data_prep.convert.examples import with_reasons
from data_prep.pictures import MISSING
from data_prep.program import InputError, encode_metadata
from data_prep.settings import Settings
from data_prep.splits import FRACTIONS, SPLITS, fraction_levels

# Width of a histogram's bins, by column: in characters, words or tokens.
STEPS = {
    "response_chars": 100,
    "reasoning_words": 10,
    "prompt_tokens": 32,
    "response_tokens": 32,
}


def count_rows_of_patients(rows: pa.Table) -> dict[str, Counter[str]]:
    groups = rows.group_by(["patient", "question_type"]).aggregate([([], "count_all")])
    counts: dict[str, Counter[str]] = {}
    for group in groups.to_pylist():
        patient = counts.setdefault(group["patient"], Counter())
        patient[group["question_type"]] = group["count_all"]
    return counts


def count_repeats(rows: pa.Table) -> dict[str, int]:
    """Count rows that repeat a question about an image, and those with another answer."""
    questions = rows.group_by(["image_path", "question"]).aggregate([("answer", "count_distinct")])
    answers = sum(questions["answer_count_distinct"].to_pylist())
    return {
        "rows": rows.num_rows - questions.num_rows,
        "other_answers": answers - questions.num_rows,
    }


def count_values(column: pa.ChunkedArray) -> Counter[Any]:
    """Count how often each value occurs; nulls are left out."""
    counted = pc.value_counts(column.drop_null())
    values, counts = counted.flatten()
    return Counter(dict(zip(values.to_pylist(), counts.to_pylist(), strict=True)))


def values_of(column: pa.ChunkedArray) -> np.ndarray:
    """Return the values of a column of numbers without nulls."""
    return column.drop_null().to_numpy()


def describe_split(rows: pa.Table) -> dict[str, Any]:
    types, regions = rows["question_type"], rows["regions"]
    answers = {
        kind: count_values(rows["answer"].filter(pc.equal(types, kind)))
        for kind in ("closed", "single", "multi")
    }
    lengths = {name: describe_lengths(values_of(rows[name])) for name in STEPS}
    return {
        "rows": rows.num_rows,
        "patients": pc.count_distinct(rows["patient"]).as_py(),
        "images": pc.count_distinct(rows["image_path"]).as_py(),
        "question_types": in_order(count_values(types)),
        "boxes_per_row": in_order(count_values(pc.list_value_length(regions))),
        "reasoning_boxes_per_row": in_order(count_values(rows["think_boxes"])),
        "closed_answers": in_order(answers["closed"]),
        "single_answers": in_order(answers["single"]),
        "multi_answers": most_common(answers["multi"], 15),
        "regions": most_common(count_values(pc.utf8_lower(pc.list_flatten(regions))), 40),
        "lengths": {name: described for name, described in lengths.items() if described["n"]},
        "agreement": _describe_agreement(rows),
    }


def _describe_agreement(rows: pa.Table) -> dict[str, Any]:
    """Describe how well the boxes of the answers agree with those cited in the reasoning."""
    overlaps = values_of(rows["cited_iou"])
    tenths = Counter(np.minimum(overlaps // 0.1, 9).astype(int).tolist())
    return {
        "final_boxes": pc.list_flatten(rows["regions"]).length(),
        "cited_exactly": pc.sum(rows["cited_boxes"], min_count=0).as_py(),
        "rows_by_mean_iou": {f"{tenth / 10:.1f}": tenths[tenth] for tenth in range(10)},
    }


def in_order(counts: Mapping[Any, int]) -> dict[str, int]:
    """Return counts for JSON, sorted by value."""
    return {str(value): count for value, count in sorted(counts.items())}


def most_common(counts: Mapping[str, int], number: int) -> dict[str, int]:
    """Return the most frequent values, ties sorted by name, and the sum of the rest as "other"."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    frequent = dict(ordered[:number])
    if rest := sum(count for _, count in ordered[number:]):
        frequent["other"] = rest
    return frequent


def describe_lengths(lengths: np.ndarray) -> dict[str, Any]:
    """Return number, extremes, mean and percentiles of lengths."""
    if not len(lengths):
        return {"n": 0}
    p50, p95, p99 = np.quantile(lengths, (0.5, 0.95, 0.99), method="inverted_cdf").tolist()
    return {
        "n": len(lengths),
        "min": int(lengths.min()),
        "mean": round(float(lengths.mean()), 2),
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "max": int(lengths.max()),
    }


def histogram(lengths: np.ndarray, step: int) -> dict[str, int]:
    """Count lengths in bins of `step`, doubled until about forty bins cover the range."""
    if not len(lengths):
        return {}
    while (lengths.max() - lengths.min()) // step > 40:
        step *= 2
    bins = lengths // step
    first = int(bins.min())
    counts = np.bincount(bins - first).tolist()
    return {str((first + number) * step): count for number, count in enumerate(counts)}


# Both kinds of file also have `extra_info`.
ROLLOUT_COLUMNS = ("data_source", "prompt", "images", "ability", "reward_model")
SFT_COLUMNS = ("messages", "images")
SFT_PREFIX = "sft_"
AUDIT = "audit.json"
REJECTS = "rejects.parquet"
ROW_GROUP = 4096
EMBEDDED_ROW_GROUP = 256  # an image takes several hundred kilobytes


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """Make a folder in `out` for unfinished files, without those of a killed run."""
    folder = out / ".work"
    rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        rmtree(folder, ignore_errors=True)


def file_names() -> list[str]:
    """Return the names of a run's training files, without their ending."""
    rollout = [*SPLITS, *(f"train-1of{part}" for part in FRACTIONS)]
    names = [prefix + name for name in rollout for prefix in ("", SFT_PREFIX)]
    names.remove(f"{SFT_PREFIX}test")  # there is no SFT on the test split
    return names


def output_names() -> list[str]:
    """Return the names of all files that a run may write."""
    return [*(f"{name}.parquet" for name in file_names()), REJECTS, "audit.html", MISSING, AUDIT]


def refuse_own_source(sources: Sequence[str], out: Path) -> None:
    """Raise InputError if the run would overwrite or remove a file of its source."""
    for name in sources:
        path = Path(name).resolve()
        if path.parent == out and path.name in output_names():
            raise InputError(f"--out {out} would overwrite the source {path}: name another folder")


def choose_files(examples: pa.Table, split_of: Mapping[str, str], seed: int) -> dict[str, pa.Array]:
    """Return a mask of the rows of each training file, by its name, over all `examples`."""
    is_accepted = pc.is_null(examples["reason"]).to_numpy()
    patients = examples["patient"].to_pylist()
    splits = np.array([split_of.get(patient, "") for patient in patients])
    masks = {split: is_accepted & (splits == split) for split in SPLITS}
    levels = np.zeros(len(splits), dtype=np.uint8)
    levels[masks["train"]] = fraction_levels(int(masks["train"].sum()), seed)
    masks |= {f"train-1of{part}": levels >= part for part in FRACTIONS}
    # A row without reasoning has no response to learn.
    has_response = pc.is_valid(examples["messages"]).to_numpy()
    masks |= {f"{SFT_PREFIX}{name}": mask & has_response for name, mask in masks.items()}
    return {name: pa.array(masks[name]) for name in file_names()}


def write_training_files(
    folder: Path,
    examples: pa.Table,
    masks: Mapping[str, pa.Array],
    settings: Settings,
    metadata: Mapping[str, Any],
    more_info: Sequence[str] = (),
    synthetic: bool = False,
) -> dict[str, int]:
    """Write the rows of each mask to the file of that name; return the rows written by file.

    `metadata` is what training must know to use the files, `more_info` are more columns for
    `extra_info`; files of `synthetic` data say so.
    """
    extra_info = ["index", "split", "question", "patient", "study", "image_path", *more_info]
    extra_info += ["findings"] if settings.findings else []
    extra_info += ["prompt_tokens", "response_tokens"] if settings.tokenizer else []

    def write(name: str) -> int:
        split, _, fraction = name.removeprefix(SFT_PREFIX).partition("-")
        values = {**metadata, "split": split, "fraction": fraction or "full"}
        about = encode_metadata(values, synthetic)
        columns = SFT_COLUMNS if name.startswith(SFT_PREFIX) else ROLLOUT_COLUMNS

        def finish(rows: pa.Table) -> pa.Table:
            bar.update(rows.num_rows)
            named = rows.append_column("split", pa.repeat(pa.scalar(split), rows.num_rows))
            arrays = [named[field].combine_chunks() for field in extra_info]
            structs = pa.StructArray.from_arrays(arrays, names=extra_info)
            rows = rows.select(columns).append_column("extra_info", structs)
            return _embed_images(rows) if settings.embed_images else rows

        rows = examples.select([*columns, *(set(extra_info) - {"split"})])
        group = EMBEDDED_ROW_GROUP if settings.embed_images else ROW_GROUP
        return write_rows(folder / f"{name}.parquet", rows, masks[name], about, group, finish)

    total = sum(pc.sum(mask).as_py() for mask in masks.values())
    with (
        tqdm(total=total, desc="writing rows", unit="row", mininterval=1) as bar,
        ThreadPoolExecutor(settings.workers) as pool,
    ):
        counts = pool.map(write, masks)
        return {f"{name}.parquet": count for name, count in zip(masks, counts, strict=True)}


def write_rejects(path: Path, rows: pa.Table, examples: pa.Table, metadata: Any) -> None:
    """Write the rejected source rows with their indices, reasons and the source's metadata."""
    reasons = examples["reason"]
    rows = with_reasons(rows, examples["index"].to_pylist(), reasons.to_pylist())
    write_rows(path, rows, pc.is_valid(reasons), metadata, ROW_GROUP)


def write_rows(
    path: Path,
    rows: pa.Table,
    mask: pa.Array | pa.ChunkedArray,
    metadata: Mapping[bytes, bytes] | None,
    group: int,
    finish: Callable[[pa.Table], pa.Table] = lambda rows: rows,
) -> int:
    """Write the rows of a mask to a parquet file, `group` rows at a time; return how many.

    `finish` makes the columns of the file from those of `rows`. `Dataset.to_parquet` is not used
    since it cannot write metadata.
    """
    schema = finish(rows.slice(0, 0)).schema.with_metadata(metadata)
    positions = np.flatnonzero(mask.to_numpy(zero_copy_only=False))
    with pq.ParquetWriter(path, schema) as file:
        for start in range(0, len(positions), group):
            first, last = positions[start], positions[start : start + group][-1] + 1
            chosen = rows.slice(first, last - first).filter(mask.slice(first, last - first))
            file.write_table(finish(chosen).replace_schema_metadata(metadata), row_group_size=group)
    return len(positions)


def _embed_images(rows: pa.Table) -> pa.Table:
    embedded = [
        [{"bytes": Path(image.pop("image")).read_bytes(), **image} for image in images]
        for images in rows["images"].to_pylist()
    ]
    fields = [("bytes", pa.binary()), ("min_pixels", pa.int64()), ("max_pixels", pa.int64())]
    position = rows.schema.get_field_index("images")
    return rows.set_column(position, "images", pa.array(embedded, pa.list_(pa.struct(fields))))


def check_whole(folder: Path, counts: Mapping[str, int]) -> None:
    """Raise InputError if a file does not hold the rows that were written to it."""
    for name, count in counts.items():
        try:
            rows = pq.read_metadata(folder / name).num_rows
        except (OSError, pa.ArrowInvalid):
            rows = None
        if rows != count:
            raise InputError(
                f"{folder / name} does not hold the {count} rows that were written: another "
                "program changes files there; start again"
            )


def publish(out: Path, folder: Path) -> None:
    """Move a run's files to `out`; the audit comes last, so if it exists, the files are complete.

    The files of an earlier run are removed first, so files of two runs are never mixed.
    """
    names = [path.name for path in folder.iterdir()]
    for name in reversed(output_names()):
        (out / name).unlink(missing_ok=True)
    for name in sorted(names, key=lambda name: (name == AUDIT, name)):
        os.replace(folder / name, out / name)
