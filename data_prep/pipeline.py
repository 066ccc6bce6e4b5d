"""From a ThinkVG dataset to training files: read, map, split, write, audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from data_prep.audit import build_audit, write_audit
from data_prep.coordinates import Frame, parse_frame
from data_prep.findings_table import findings_of, read_findings
from data_prep.frames import ThinEvidence, infer_frame
from data_prep.prompts import PromptTemplate, load_template
from data_prep.rows import Example, Mapper, ParsedRow, RowFault, parse_row
from data_prep.settings import Settings
from data_prep.source import (
    COLUMNS,
    InputError,
    Picture,
    find_pictures,
    read_source,
    source_files,
)
from data_prep.splits import SPLITS, fraction_rows, limited_rows, split_patients
from data_prep.tables import (
    Row,
    prompt_text,
    rollout_row,
    rollout_schema,
    sft_row,
    sft_schema,
    write_rows,
    write_table,
)
from data_prep.tokens import load_tokenizer, summarise, token_lengths


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before a file is written."""

    examples: list[Example]
    split_of: dict[str, str]
    rejects: dict[int, str]
    kept: int
    frame: Frame
    frame_evidence: str


def prepare(settings: Settings) -> dict[str, Any]:
    """Runs the whole preparation and returns the audit. Raises InputError, in one line."""
    files = source_files(settings.source)
    table = read_source(files)
    captions = read_findings(settings.findings) if settings.findings else None
    tokenizer = load_tokenizer(settings.tokenizer) if settings.tokenizer else None
    template = load_template()
    prepared = _convert(table, settings)
    settings.out.mkdir(parents=True, exist_ok=True)
    _write_rejects(settings, table, prepared.rejects)
    values = _metadata(settings, template, prepared, table)
    rows = _training_rows(settings, template, prepared, captions)
    _check_conservation(table.num_rows, prepared, rows)
    audit = build_audit(
        settings=settings,
        values=values,
        files=files,
        source_rows=table.num_rows,
        kept=prepared.kept,
        rejects=prepared.rejects,
        examples=prepared.examples,
        split_of=prepared.split_of,
        frame_evidence=prepared.frame_evidence,
    )
    if prepared.examples:
        audit["files"] = _write_training_files(settings, rows, values, captions is not None)
    if tokenizer is not None:
        audit["tokens"] = _count_tokens(tokenizer, settings, template, prepared.examples)
    write_audit(settings.out, audit, prepared.examples)
    if not prepared.examples:
        reason, count = Counter(prepared.rejects.values()).most_common(1)[0]
        raise InputError(
            f"no row of {settings.source} is usable, {count} are rejected as {reason}: see "
            f"{settings.out / 'audit.html'}"
        )
    return audit


def _convert(table: pa.Table, settings: Settings) -> Prepared:
    if table.num_rows == 0:
        raise InputError(f"{settings.source} has no rows")
    kept = limited_rows(table.num_rows, settings.limit, settings.seed)
    records = table.select(list(COLUMNS)).take(kept).to_pylist()
    rejects: dict[int, str] = {}
    parsed = []
    for index, record in tqdm(zip(kept, records, strict=True), "reading rows", len(kept)):
        try:
            parsed.append(parse_row(record, index))
        except RowFault as fault:
            rejects[index] = str(fault)
    found = find_pictures((row.image_path for row in parsed), settings.images, settings.workers)
    frame, evidence = _frame(settings, parsed, found)
    mapper = Mapper(frame, settings.family, settings.min_pixels, settings.max_pixels)
    examples = []
    for row in tqdm(parsed, "mapping boxes"):
        picture = found[row.image_path]
        try:
            if isinstance(picture, str):
                raise RowFault(picture)
            examples.append(mapper.example(row, picture))
        except RowFault as fault:
            rejects[row.source_index] = str(fault)
    split_of = split_patients(
        [example.parsed.patient for example in examples],
        settings.val,
        settings.test,
        settings.seed,
    )
    return Prepared(examples, split_of, rejects, len(kept), frame, evidence)


def _frame(
    settings: Settings, parsed: Iterable[ParsedRow], found: dict[str, Picture | str]
) -> tuple[Frame, str]:
    if settings.frame != "auto":
        return Frame(parse_frame(settings.frame), settings.fit), "as given by --frame"
    boxes = []
    for row in parsed:
        picture = found[row.image_path]
        if isinstance(picture, Picture):
            boxes += [(box, picture.size) for box in row.boxes()]
    try:
        size, evidence = infer_frame(boxes)
    except ThinEvidence as doubt:
        raise InputError(str(doubt)) from None
    return Frame(size, settings.fit), evidence


def _training_rows(
    settings: Settings,
    template: PromptTemplate,
    prepared: Prepared,
    captions: dict[str, str] | None,
) -> dict[str, list[tuple[Row, Row | None]]]:
    """For each split its rows, in source order: the rollout row and the SFT row if there is one."""
    rows: dict[str, list[tuple[Row, Row | None]]] = {split: [] for split in SPLITS}
    bounds = {"min_pixels": settings.min_pixels, "max_pixels": settings.max_pixels}
    for example in prepared.examples:
        parsed = example.parsed
        split = prepared.split_of[parsed.patient]
        extra_info = {
            "index": parsed.source_index,
            "split": split,
            "question": example.question,
            "patient": parsed.patient,
            "study": parsed.study,
            "image_path": parsed.image_path,
        }
        if captions is not None:
            extra_info["findings"] = findings_of(captions, parsed.image_path, parsed.study)
        prompt = prompt_text(example, template, settings.family.coordinates)
        shared = (example, prompt, {"image": example.picture.path, **bounds}, extra_info)
        sft = sft_row(*shared) if example.response is not None else None
        rows[split].append((rollout_row(*shared), sft))
    return rows


def _write_training_files(
    settings: Settings,
    rows: dict[str, list[tuple[Row, Row | None]]],
    values: Row,
    with_findings: bool,
) -> dict[str, int]:
    """Writes every training file and returns the number of rows in each."""
    selections = {split: rows[split] for split in SPLITS}
    for part, positions in fraction_rows(len(rows["train"]), settings.seed).items():
        selections[f"train-1of{part}"] = [rows["train"][position] for position in positions]
    written = {}
    for name, chosen in tqdm(selections.items(), "writing"):
        split = name.split("-")[0]
        described = {**values, "split": split, "fraction": name.partition("-")[2] or "full"}
        tables = {name: (rollout_schema(with_findings), [rollout for rollout, _ in chosen])}
        if split != "test":
            supervised = [sft for _, sft in chosen if sft is not None]
            tables[f"sft_{name}"] = (sft_schema(with_findings), supervised)
        for file, (schema, content) in tables.items():
            write_rows(settings.out / f"{file}.parquet", content, schema, described)
            written[f"{file}.parquet"] = len(content)
    return written


def _write_rejects(settings: Settings, table: pa.Table, rejects: dict[int, str]) -> None:
    """The rejected rows as they came, with `source_index` and `reason`."""
    indices = sorted(rejects)
    rejected = table.take(pa.array(indices, pa.int64()))
    for name, column in (
        ("source_index", pa.array(indices, pa.int64())),
        ("reason", pa.array([rejects[index] for index in indices], pa.string())),
    ):
        if name in rejected.column_names:
            rejected = rejected.drop_columns([name])
        rejected = rejected.append_column(name, column)
    write_table(settings.out / "rejects.parquet", rejected)


def _metadata(
    settings: Settings, template: PromptTemplate, prepared: Prepared, table: pa.Table
) -> Row:
    """What training must know to use the files; written into each of them."""
    size = prepared.frame.size
    values: Row = {
        "model_family": settings.family.name,
        "coordinates": settings.family.coordinates,
        "factor": settings.family.factor,
        "min_pixels": settings.min_pixels,
        "max_pixels": settings.max_pixels,
        "frame": "original" if size is None else f"{size[0]}x{size[1]}",
        "fit": settings.fit,
        "prompt_template": template.name,
        "prompt_version": template.version,
        "seed": settings.seed,
    }
    notice = (table.schema.metadata or {}).get(b"notice")
    if notice is not None:
        values["notice"] = notice.decode()
    return values


def _check_conservation(
    source_rows: int, prepared: Prepared, rows: dict[str, list[tuple[Row, Row | None]]]
) -> None:
    left_out = source_rows - prepared.kept
    out = sum(map(len, rows.values())) + len(prepared.rejects) + left_out
    if out != source_rows:
        raise RuntimeError(f"{source_rows} rows came in and {out} are accounted for")


def _count_tokens(
    tokenizer: Any, settings: Settings, template: PromptTemplate, examples: list[Example]
) -> dict[str, Any]:
    """Lengths of the user's message (its image included) and of the response."""
    prompts = [prompt_text(one, template, settings.family.coordinates) for one in examples]
    texts = token_lengths(tokenizer, [prompt.replace("<image>", "") for prompt in prompts])
    cell = settings.family.factor**2
    images = [
        one.ground_truth.image_size[0] * one.ground_truth.image_size[1] // cell for one in examples
    ]
    responses = [one.response for one in examples if one.response is not None]
    return {
        "tokenizer": str(settings.tokenizer),
        "prompt": summarise([a + b for a, b in zip(texts, images, strict=True)]),
        "image": summarise(images),
        "response": summarise(token_lengths(tokenizer, responses)),
    }
