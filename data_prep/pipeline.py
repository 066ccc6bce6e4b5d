"""From a ThinkVG dataset to training files: read this first.

scan the source  ->  find the pictures  ->  choose the frame
convert every row to an example or a reject code, in worker processes
split by patient  ->  write the training files and the rejects  ->  write the audit
move all files to the folder of output
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.audit import build_audit, choose_rows, read_rows, write_audit
from data_prep.convert.examples import ABOUT, Converter, Scan, convert_rows, scan
from data_prep.convert.training_files import (
    AUDIT,
    REJECTS,
    check_whole,
    choose_files,
    count_rows_of_patients,
    publish,
    refuse_own_source,
    work_folder,
    write_rejects,
    write_training_files,
)
from data_prep.coordinates import Frame
from data_prep.earlier import read_splits, trained_before
from data_prep.frames import choose_frame
from data_prep.pictures import (
    DEEP,
    MISSING,
    Picture,
    copy_command,
    download_command,
    find_pictures,
    missing_urls,
)
from data_prep.program import InputError, alone_in, write_list
from data_prep.rows.example import Mapper
from data_prep.rows.prompts import PromptTemplates, load_templates, load_tokenizer
from data_prep.settings import Settings
from data_prep.sources.files import Source, open_source
from data_prep.sources.side_tables import (
    Exclusion,
    check_coverage,
    check_exclusion,
    read_exclusion,
    read_findings,
)
from data_prep.splits import SPLITS, limited_rows, split_patients

UNUSABLE = "unusable"
"""Folder for the audit of a run without a usable row, where the folder has files already."""


@dataclass(frozen=True)
class Plan:
    """What is decided before any row is converted."""

    converter: Converter
    metadata: dict[str, Any]  # what training must know to use the files
    frame_evidence: str  # how the frame and the fit are known
    doubts: list[str]  # what a user should check, one line each
    known_splits: Mapping[str, str]  # of the patients in --splits-of


def prepare(settings: Settings) -> dict[str, Any]:
    """Run the whole preparation and return the audit."""
    source = open_source(settings.source)
    if not source.rows:
        raise InputError(f"{source.label} has no rows")
    refuse_own_source(source.files, settings.out)
    plan = _make_plan(settings, source)
    settings.out.mkdir(parents=True, exist_ok=True)
    with alone_in(settings.out), work_folder(settings.out) as work:
        rows, examples = convert_rows(source, plan.converter, settings.workers, work)
        audit = _write_files(settings, source, plan, rows, examples, work / "files")
        if audit["files"]:
            publish(settings.out, work / "files")
            shutil.rmtree(settings.out / UNUSABLE, ignore_errors=True)
            return audit
        folder = settings.out
        if (folder / AUDIT).is_file():
            folder /= UNUSABLE  # the files of an earlier run stay
            folder.mkdir(exist_ok=True)
        publish(folder, work / "files")
        raise InputError(_nothing_usable(settings, source, audit, folder))


def _make_plan(settings: Settings, source: Source) -> Plan:
    """Read the tables beside the source, scan its rows, measure its pictures, choose the frame."""
    known_splits = _known_splits(settings)
    findings = read_findings(settings.findings) if settings.findings else {}
    exclusion = read_exclusion(settings.exclude)
    templates = load_templates(settings.prompts)
    if settings.tokenizer:
        load_tokenizer(settings.tokenizer)
    indices = limited_rows(source.rows, settings.limit, settings.seed)
    scanned = scan(source, indices, is_spread="auto" in (settings.frame, settings.fit))
    notes = _check_lists(settings, scanned, findings, exclusion)
    pictures = find_pictures(scanned.names, settings.images, settings.workers)
    try:
        choice = choose_frame(settings, scanned, pictures)
    except InputError as error:
        raise InputError(f"{error}{_missing_evidence(settings, pictures)}") from None
    converter = Converter(
        indices=indices,
        mapper=Mapper(choice.frame, settings.family, settings.min_pixels, settings.max_pixels),
        pictures=pictures,
        templates=templates,
        findings=findings,
        exclusion=exclusion,
        tokenizer=settings.tokenizer,
        leave_out=settings.leave_out,
    )
    metadata = file_metadata(settings, templates, choice.frame)
    if (notice := (source.schema.metadata or {}).get(b"notice")) is not None:
        metadata["notice"] = notice.decode()
    return Plan(converter, metadata, choice.evidence, [*choice.doubts, *notes], known_splits)


def _known_splits(settings: Settings) -> dict[str, str]:
    if settings.splits_of is None:
        return {}
    try:
        return read_splits(settings.splits_of)
    except InputError as error:
        raise InputError(f"--splits-of: {error}") from None


def _missing_evidence(settings: Settings, pictures: Mapping[str, Picture | str]) -> str:
    """List the missing pictures, without which the frame is not known; say how to fetch them."""
    missing = missing_urls(pictures)
    if not missing:
        return ""
    settings.out.mkdir(parents=True, exist_ok=True)
    listed = settings.out / MISSING
    write_list(listed, missing)
    return (
        f", or fetch the {len(missing)} missing images, listed in {listed}: "
        f"{download_command(listed, settings.images)}"
    )


def _write_files(
    settings: Settings,
    source: Source,
    plan: Plan,
    rows: pa.Table,
    examples: pa.Table,
    folder: Path,
) -> dict[str, Any]:
    """Split the examples, write every file of the run to a new folder, and return the audit."""
    folder.mkdir()
    about = examples.select(ABOUT)
    accepted = about.filter(pc.is_null(about["reason"]))
    accepted, split_of = _assign_splits(settings, plan.known_splits, accepted)
    write_rejects(folder / REJECTS, rows, examples, source.schema.metadata)
    counts = {}
    if split_of:
        masks = choose_files(examples, split_of, settings.seed)
        counts = write_training_files(
            folder, examples, masks, settings, plan.metadata, synthetic=source.synthetic
        )
    _check_conservation(about, counts)
    missing = missing_urls(plan.converter.pictures)
    write_list(folder / MISSING, missing)
    audit = {
        "parameters": _parameters(settings, source, plan),
        "doubts": [*plan.doubts, *trained_before(settings.out, split_of)],
        **build_audit(settings, source.rows, about, accepted, plan.converter.pictures),
        "missing_images_listed": len(missing),
        "files": counts,
    }
    write_audit(folder, audit, read_rows(examples, choose_rows(accepted)))
    check_whole(folder, counts)
    return audit


def _assign_splits(
    settings: Settings, known: Mapping[str, str], accepted: pa.Table
) -> tuple[pa.Table, dict[str, str]]:
    """Return the accepted rows with a column `split`, and the split of each patient.

    Patients of `known` have that split; the others are drawn.
    """
    rows = count_rows_of_patients(accepted)
    drawn = {patient: counts for patient, counts in rows.items() if patient not in known}
    shares = (settings.val, settings.test, settings.seed, settings.stratify)
    split_of = {patient: known[patient] for patient in rows if patient in known}
    split_of |= split_patients(drawn, *shares)
    splits = [split_of[patient] for patient in accepted["patient"].to_pylist()]
    return accepted.append_column("split", pa.array(splits, pa.string())), split_of


def _parameters(settings: Settings, source: Source, plan: Plan) -> dict[str, Any]:
    of_rows = {"val", "test", "stratify", "splits_of", "limit", "exclude", "leave_out"}
    names = {*of_rows, "images", "findings"}
    return {
        **plan.metadata,
        **settings.model_dump(mode="json", include=names),
        "frame_option": settings.frame,
        "fit_option": settings.fit,
        "frame_evidence": plan.frame_evidence,
        "source": source.files,
    }


def _nothing_usable(
    settings: Settings, source: Source, audit: Mapping[str, Any], folder: Path
) -> str:
    """Say why no row is usable; `folder` has the audit and the lists of this run."""
    reason, count = max(audit["rejects"].items(), key=lambda item: item[1])
    text = f"no row of {source.label} is usable, {count} are rejected as {reason}: "
    if folder != settings.out:
        text = f"{settings.out} is as it was: {text}"
    if reason == "missing_image" and audit["missing_images_listed"]:
        listed = folder / MISSING
        return (
            f"{text}name the folder that image_path is relative to (--images {settings.images}), "
            f"or fetch the images listed in {listed}: {download_command(listed, settings.images)}"
        )
    if reason == DEEP:
        return (
            f"{text}make copies with 8 bits a channel and name their folder as --images: "
            f"{copy_command(settings.images)}"
        )
    return f"{text}see {folder / 'audit.html'}"


def _check_lists(
    settings: Settings, scanned: Scan, findings: Mapping[str, str], exclusion: Exclusion
) -> list[str]:
    """Return remarks on --findings and --exclude; raise InputError if they match no row."""
    notes: list[str] = []
    is_complete = settings.limit is None
    if settings.findings:
        notes += check_coverage(findings, settings.findings, scanned.names, is_complete)
    if settings.exclude:
        notes += check_exclusion(exclusion, settings.exclude, scanned.names, is_complete)
    return notes


def file_metadata(settings: Settings, templates: PromptTemplates, frame: Frame) -> dict[str, Any]:
    """Return what training must know to use the files; it is written into each of them."""
    size = frame.size
    values: dict[str, Any] = {
        "model_family": settings.family.name,
        "coordinates": settings.family.coordinates,
        "factor": settings.family.factor,
        "min_pixels": settings.min_pixels,
        "max_pixels": settings.max_pixels,
        "frame": "original" if size is None else f"{size[0]}x{size[1]}",
        "fit": frame.fit,
        "prompt_template": templates.name,
        "prompt_version": templates.version,
        "seed": settings.seed,
    }
    if settings.tokenizer is not None:
        values["tokenizer"] = str(settings.tokenizer)
    return values


def _check_conservation(examples: pa.Table, counts: Mapping[str, int]) -> None:
    written = sum(counts.get(f"{split}.parquet", 0) for split in SPLITS)
    rejected = pc.sum(pc.is_valid(examples["reason"])).as_py()
    if written + rejected != len(examples):
        raise RuntimeError(
            f"{len(examples)} rows came in and {written + rejected} are accounted for"
        )
