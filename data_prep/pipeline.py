"""From a ThinkVG dataset to training files: scan, convert, split, write, audit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from data_prep.audit import build_audit, write_audit
from data_prep.convert import Context, PartStats
from data_prep.coordinates import Frame
from data_prep.dealing import write_files
from data_prep.errors import InputError
from data_prep.exclusion import Exclusion, check_exclusion, read_exclusion
from data_prep.files import remove_leftovers
from data_prep.findings_table import check_coverage, read_findings
from data_prep.frame_choice import choose_frame
from data_prep.gallery import choose_rows, read_rows
from data_prep.lock import alone_in
from data_prep.pictures import (
    MISSING,
    Picture,
    download_command,
    find_pictures,
    missing_urls,
    write_missing,
)
from data_prep.prompts import PromptTemplates, load_templates
from data_prep.publishing import check_whole, publish, refuse_own_source
from data_prep.rows import Mapper
from data_prep.scan import Scan, scan
from data_prep.settings import Settings
from data_prep.sources import Source, open_source
from data_prep.sources.base import stamp
from data_prep.splits import limited_rows, split_patients
from data_prep.statistics import Tally
from data_prep.tokens import load_tokenizer
from data_prep.work import convert_all, open_work, open_workers, remove_work


def prepare(settings: Settings) -> dict[str, Any]:
    """Runs the whole preparation and returns the audit. Raises InputError, in one line."""
    with ExitStack() as held:
        return _prepare(settings, held)


def _prepare(settings: Settings, held: ExitStack) -> dict[str, Any]:
    """`prepare`, which holds the output folder from when it first writes there."""
    source = open_source(settings.source)
    if not source.rows:
        raise InputError(f"{source.label} has no rows")
    refuse_own_source(source.files, settings.out)
    captions = read_findings(settings.findings) if settings.findings else None
    exclusion = read_exclusion(settings.exclude)
    templates = load_templates(settings.prompts)
    if settings.tokenizer:
        load_tokenizer(settings.tokenizer)
    kept = limited_rows(source.rows, settings.limit, settings.seed)
    with open_workers(settings.workers, source.rows) as workers:
        found = scan(source, kept, is_spread="auto" in (settings.frame, settings.fit))
        notes = _check_lists(settings, found, captions, exclusion)
        pictures = find_pictures(
            found.names, settings.images, settings.workers, workers.map if workers else map
        )
        choice = choose_frame(settings, found, pictures)
        mapper = Mapper(choice.frame, settings.family, settings.min_pixels, settings.max_pixels)
        settings.out.mkdir(parents=True, exist_ok=True)
        held.enter_context(alone_in(settings.out))
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
    written = write_files(settings, source, work, parts, stats, splits, values)
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
        repeats=written.repeats,
        splits=splits,
        pictures=pictures,
        missing=len(missing),
        evidence=choice.evidence,
        doubts=[*choice.doubts, *notes],
    )
    write_audit(written.folder, audit, shown)
    write_missing(written.folder, missing)
    check_whole(written.folder, written.files)
    publish(settings.out, written.folder)
    remove_work(work)
    if not written.files:
        raise InputError(_nothing_usable(settings, source, stats, missing))
    return audit


def _nothing_usable(
    settings: Settings, source: Source, stats: PartStats, missing: Sequence[str]
) -> str:
    reason, count = stats.rejects.most_common(1)[0]
    text = f"no row of {source.label} is usable, {count} are rejected as {reason}: "
    if reason == "missing_image" and missing:
        listed = settings.out / MISSING
        return (
            f"{text}name the folder that image_path is relative to (--images {settings.images}), "
            f"or fetch the images listed in {listed}: {download_command(listed, settings.images)}"
        )
    return f"{text}see {settings.out / 'audit.html'}"


def _check_lists(
    settings: Settings, found: Scan, captions: Mapping[str, str] | None, exclusion: Exclusion
) -> list[str]:
    """What --findings and --exclude leave out, a line each; InputError where they name nothing."""
    notes: list[str] = []
    is_whole = settings.limit is None
    if settings.findings and captions is not None:
        notes += check_coverage(captions, settings.findings, found.names, is_whole)
    if settings.exclude:
        notes += check_exclusion(exclusion, settings.exclude, found.names, is_whole)
    return notes


def _describe_run(
    settings: Settings,
    source: Source,
    templates: PromptTemplates,
    frame: Frame,
    pictures: Mapping[str, Picture | str],
) -> dict[str, object]:
    """All that parts depend on; the numbers of workers and the split are not among it."""
    plain = [
        (
            name,
            picture if isinstance(picture, str) else (picture.path, picture.size, picture.original),
        )
        for name, picture in sorted(pictures.items())
    ]
    seen = hashlib.sha256(repr(plain).encode("utf-8", "surrogatepass"))
    stamped = {
        name: stamp(path) if path else None
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
