"""From a ThinkVG dataset to training files: scan, convert, split, write, audit."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_prep.audit import build_audit, write_audit
from data_prep.convert import Context, PartStats, part_file, read_stream, rejects_file
from data_prep.coordinates import Frame, parse_frame
from data_prep.errors import InputError
from data_prep.exclusion import read_exclusion
from data_prep.files import remove_leftovers
from data_prep.findings_table import read_findings
from data_prep.frames import ThinEvidence, infer_fit, infer_frame
from data_prep.gallery import choose_rows, read_rows
from data_prep.pictures import Picture, find_pictures, missing_urls, write_missing
from data_prep.prompts import PromptTemplates, load_templates
from data_prep.rows import Mapper
from data_prep.scan import Scan, sampled_boxes, scan
from data_prep.settings import Settings
from data_prep.sources import Source, open_source
from data_prep.splits import SPLITS, limited_rows, split_patients
from data_prep.statistics import Tally
from data_prep.tables import Layout
from data_prep.tokens import load_tokenizer
from data_prep.work import convert_all, open_work, open_workers, remove_work
from data_prep.writing import RowFile, Splitter, TrainingFiles

AUDIT = "audit.json"


@dataclass(frozen=True)
class FrameChoice:
    """The frame that boxes are read in, and what is known for and against it."""

    frame: Frame
    evidence: str
    doubts: list[str]


def prepare(settings: Settings) -> dict[str, Any]:
    """Runs the whole preparation and returns the audit. Raises InputError, in one line."""
    source = open_source(settings.source)
    if not source.rows:
        raise InputError(f"{source.label} has no rows")
    captions = read_findings(settings.findings) if settings.findings else None
    exclusion = read_exclusion(settings.exclude)
    templates = load_templates(settings.prompts)
    if settings.tokenizer:
        load_tokenizer(settings.tokenizer)
    kept = limited_rows(source.rows, settings.limit, settings.seed)
    with open_workers(settings.workers, source.rows) as workers:
        found = scan(source, kept, is_spread="auto" in (settings.frame, settings.fit))
        pictures = find_pictures(found.names, settings.images, settings.workers)
        choice = choose_frame(settings, found, pictures)
        mapper = Mapper(choice.frame, settings.family, settings.min_pixels, settings.max_pixels)
        settings.out.mkdir(parents=True, exist_ok=True)
        remove_leftovers(settings.out)
        described = _describe_run(settings, source, templates, choice.frame, pictures)
        work = open_work(settings.out, described)
        context = Context(
            mapper, pictures, templates, captions, exclusion, settings.tokenizer, work
        )
        parts, stats, most_boxes = convert_all(source, kept, context, workers)
    splits = split_patients(
        stats.patients, settings.val, settings.test, settings.seed, settings.stratify
    )
    values = _metadata(settings, templates, choice.frame, source)
    written = write_files(settings, source, work, parts, stats, splits, values, captions)
    _check_conservation(source.rows, stats, written.tallies, kept)
    missing = missing_urls(pictures)
    shown = read_rows(work, choose_rows(most_boxes))
    audit = build_audit(
        settings=settings,
        values=values,
        source=source,
        stats=stats,
        tallies=written.tallies,
        files=written.files,
        keys=written.keys,
        splits=splits,
        pictures=pictures,
        missing=len(missing),
        evidence=choice.evidence,
        doubts=choice.doubts,
    )
    write_missing(settings.out, missing)
    _publish(settings.out, written.folder, audit, shown)
    remove_work(work)
    if not written.files:
        reason, count = stats.rejects.most_common(1)[0]
        raise InputError(
            f"no row of {source.label} is usable, {count} are rejected as {reason}: see "
            f"{settings.out / 'audit.html'}"
        )
    return audit


def choose_frame(
    settings: Settings, found: Scan, pictures: Mapping[str, Picture | str]
) -> FrameChoice:
    """The frame and fit as given or inferred; what is given is checked against the boxes.

    Raises InputError where something is to be inferred and the evidence is thin.
    """
    boxes = sampled_boxes(found.sample, pictures)
    seen, doubts = [], []
    try:
        size, evidence = infer_frame(boxes)
        if settings.frame == "auto":
            seen.append(evidence)
        elif size != parse_frame(settings.frame):
            doubts.append(f"--frame {settings.frame} is at odds with the boxes ({evidence})")
    except ThinEvidence as doubt:
        if settings.frame == "auto":
            raise InputError(str(doubt)) from None
        size = None
    if settings.frame != "auto":
        size = parse_frame(settings.frame)
        seen.append("frame as given by --frame")
    if size is None:
        return FrameChoice(Frame(None), "; ".join(seen), doubts)
    try:
        fit, evidence = infer_fit(boxes, size)
        if settings.fit == "auto":
            seen.append(evidence)
        elif fit != settings.fit and not doubts:
            doubts.append(f"--fit {settings.fit} is at odds with the boxes ({evidence})")
    except ThinEvidence as doubt:
        if settings.fit == "auto":
            raise InputError(str(doubt)) from None
        fit = "stretch"
    if settings.fit != "auto":
        fit = "pad" if settings.fit == "pad" else "stretch"
        seen.append("fit as given by --fit")
    return FrameChoice(Frame(size, fit), "; ".join(seen), doubts)


@dataclass(frozen=True)
class Written:
    """What was written beside the final files, not yet under its name."""

    folder: Path
    files: dict[str, int]
    tallies: dict[str, Tally]
    keys: np.ndarray  # (rows, 2): hashes of image and question, and of these and the answer


def write_files(
    settings: Settings,
    source: Source,
    work: Path,
    parts: int,
    stats: PartStats,
    splits: Mapping[str, str],
    values: Mapping[str, Any],
    captions: Mapping[str, str] | None,
) -> Written:
    """Writes the rejects and, where there is any accepted row, every training file."""
    folder = work / "files"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    layout = Layout(
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
        with_findings=captions is not None,
        with_tokens=settings.tokenizer is not None,
        embed_images=settings.embed_images,
    )
    train_rows = sum(
        sum(counts.values())
        for patient, counts in stats.patients.items()
        if splits[patient] == "train"
    )
    splitter = Splitter(splits, train_rows, settings.seed)
    training = TrainingFiles(folder, layout, values) if stats.patients else None
    rejects: RowFile | None = None
    tallies = {split: Tally() for split in SPLITS}
    keys = np.empty((sum(map(sum, (c.values() for c in stats.patients.values()))), 2), np.uint64)
    place = 0
    with ThreadPoolExecutor(settings.workers) as pool:
        for number in tqdm(range(parts), "writing", unit="part", mininterval=1):
            faulty = read_stream(rejects_file(work, number))
            if rejects is None:
                path = folder / "rejects.parquet"
                schema = faulty.schema.with_metadata(source.schema.metadata)
                rejects = RowFile(path, schema, None, 4096)
            rejects.add(faulty)
            flat = read_stream(part_file(work, number)).replace_schema_metadata(None)
            if training is None or not flat.num_rows:
                continue
            for column, name in enumerate(("question_key", "answer_key")):
                keys[place : place + flat.num_rows, column] = flat[name].to_numpy()
            place += flat.num_rows
            for split, rows, levels in splitter.deal(flat):
                tallies[split].add(rows)
                training.add(split, rows, levels, pool)
    if rejects is not None:
        rejects.close()
    return Written(folder, training.close() if training else {}, tallies, keys)


def _publish(out: Path, folder: Path, audit: dict[str, Any], shown: list[dict[str, Any]]) -> None:
    """Gives every file its final name, the audit's last: where it is, the others are of its run."""
    (out / AUDIT).unlink(missing_ok=True)
    write_audit(folder, audit, shown)
    names = sorted(path.name for path in folder.iterdir())
    for name in sorted(names, key=lambda name: (name == AUDIT, name)):
        os.replace(folder / name, out / name)


def _describe_run(
    settings: Settings,
    source: Source,
    templates: PromptTemplates,
    frame: Frame,
    pictures: Mapping[str, Picture | str],
) -> dict[str, object]:
    """All that parts depend on; the numbers of workers and the split are not among it."""
    seen = hashlib.sha256()
    for name, picture in sorted(pictures.items()):
        seen.update(f"{name}|{picture}\n".encode("utf-8", "surrogatepass"))
    stamped = {
        name: f"{path.resolve()}|{path.stat().st_mtime_ns}" if path else None
        for name, path in (
            ("findings", settings.findings),
            ("exclude", settings.exclude),
            ("tokenizer", settings.tokenizer),
        )
    }
    return {
        "source": source.identity(),
        "pictures": seen.hexdigest(),
        "frame": repr(frame),
        "family": settings.family.name,
        "pixels": [settings.min_pixels, settings.max_pixels],
        "limit": [settings.limit, settings.seed if settings.limit else None],
        "prompts": templates.version,
        **stamped,
    }


def _metadata(
    settings: Settings, templates: PromptTemplates, frame: Frame, source: Source
) -> dict[str, Any]:
    """What training must know to use the files; written into each of them."""
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
    notice = (source.schema.metadata or {}).get(b"notice")
    if notice is not None:
        values["notice"] = notice.decode()
    return values


def _check_conservation(
    source_rows: int, stats: PartStats, tallies: Mapping[str, Tally], kept: np.ndarray | None
) -> None:
    left_out = 0 if kept is None else source_rows - len(kept)
    out = sum(tally.rows for tally in tallies.values()) + stats.rejects.total() + left_out
    if out != source_rows:
        raise RuntimeError(f"{source_rows} rows came in and {out} are accounted for")
