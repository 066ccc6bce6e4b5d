"""The checked options of `data_prep.thinkvg`."""

import argparse
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from data_prep.coordinates import MODEL_FAMILIES, ModelFamily, parse_frame
from data_prep.program import InputError, is_utf8
from data_prep.rows.answers import BEYOND
from data_prep.splits import STRATIFY

EPILOG = """\
Writes {train,val,test}.parquet, sft_{train,val}.parquet, nested fractions of both training files
(train-1of2.parquet to -1of16), rejects.parquet, audit.json and audit.html into --out, and
missing_images.txt where pictures are missing. Rows at fault go to rejects.parquet with a reason;
the exit code is 2 where the input as a whole is at fault. A run that was killed leaves nothing half
written; the same command starts again."""

Share = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """The options of a run of `data_prep.thinkvg`."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    source: str
    images: Path
    out: Path
    frame: str
    fit: str
    family: ModelFamily
    min_pixels: int = Field(ge=1)
    max_pixels: int
    val: Share
    test: Share
    stratify: str
    splits_of: Path | None = None
    limit: int | None = Field(ge=1)
    seed: int = Field(ge=0)
    workers: int = Field(ge=1)
    prompts: str
    tokenizer: Path | None
    findings: Path | None
    exclude: Path | None
    leave_out: tuple[str, ...]
    embed_images: bool

    @field_validator("frame")
    @classmethod
    def _check_frame(cls, frame: str) -> str:
        if frame != "auto":
            try:
                parse_frame(frame)
            except ValueError as error:
                raise ValueError(f"--frame: {error}") from None
        return frame

    @field_validator("images")
    @classmethod
    def _check_images(cls, folder: Path) -> Path:
        if not folder.is_dir():
            raise ValueError(f"--images {folder} is not a folder")
        return _resolve("images", folder)

    @field_validator("out")
    @classmethod
    def _check_out(cls, folder: Path) -> Path:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--out {folder} is a file: name a folder")
        return _resolve("out", folder)

    @field_validator("leave_out", mode="before")
    @classmethod
    def _read_codes(cls, text: str | None) -> tuple[str, ...]:
        """Read the codes of `--leave-out` and put them in the order of `BEYOND`."""
        codes = [code.strip() for code in text.split(",")] if text is not None else []
        for code in codes:
            if code not in BEYOND:
                raise ValueError(
                    f"--leave-out {text!r}: {code!r} is none of {', '.join(BEYOND)}; "
                    "write several with a comma between"
                )
        return tuple(code for code in BEYOND if code in codes)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.max_pixels < max(self.min_pixels, self.family.factor**2):
            raise ValueError(
                f"--max-pixels is {self.max_pixels}: give at least --min-pixels "
                f"({self.min_pixels}) and {self.family.factor**2}, one token of {self.family.name}"
            )
        if self.val + self.test >= 1:
            raise ValueError(
                f"--val {self.val:g} and --test {self.test:g} leave nothing to train on"
            )
        return self


def _resolve(option: str, folder: Path) -> Path:
    path = folder.resolve()
    if not is_utf8(path):
        raise ValueError(f"--{option} {str(path)!a} is a name that is no UTF-8: rename it")
    return path


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.thinkvg",
        description="Turns the ThinkVG dataset into parquet for SFT and for rollouts.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--source",
        required=True,
        metavar="PATH|hub:NAME[@REVISION]",
        help="a parquet, JSON or JSON lines file, a folder of data/*.parquet or of such files, or "
        "a dataset on the hub (its revision: configs/hub.yaml)",
    )
    add("--images", type=Path, required=True, help="the folder that image_path is relative to")
    add("--out", type=Path, required=True, help="folder to write")
    _add_coordinates(parser)
    add("--val", type=float, default=0.05, help="share of patients for validation (0.05)")
    add("--test", type=float, default=0.05, help="share of patients for the test (0.05)")
    add(
        "--stratify",
        choices=STRATIFY,
        default="auto",
        help="give each split the same shares of question types: always, never, or (auto) in "
        "splits of 1,000 rows and more",
    )
    add(
        "--splits-of",
        type=Path,
        metavar="FOLDER",
        help="a prepared folder: its patients stay in their splits, and only others are drawn",
    )
    add(
        "--exclude", type=Path, help="file of image paths, DICOM names, studies or patients to skip"
    )
    add(
        "--leave-out",
        metavar=",".join(BEYOND),
        help="answers that one image cannot give: those that compare with an earlier examination, "
        "those that hedge, or both (none; they are counted)",
    )
    add("--limit", type=int, help="use this many source rows, chosen by the seed (all)")
    add("--seed", type=int, default=0, help="of splits, fractions and the limit (0)")
    add("--workers", type=int, default=2, help="processes that convert rows (2)")
    add("--prompts", default="thinkvg", metavar="NAME", help="templates in configs/prompts/NAME")
    add("--tokenizer", type=Path, help="model folder, to write each row's length in tokens (off)")
    add("--findings", type=Path, help="table of findings by image_path or study, for the judge")
    add("--embed-images", action="store_true", help="write images as bytes, not as paths")
    return parser


def _add_coordinates(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--frame",
        default="336",
        metavar="336|224|WxH|original|auto",
        help="the space of the dataset's boxes (336); auto infers it from them",
    )
    add(
        "--fit",
        choices=("stretch", "pad", "auto"),
        help="how pictures were brought into the frame (stretch; auto where --frame is)",
    )
    add(
        "--model-family",
        choices=tuple(MODEL_FAMILIES),
        default="qwen2_5_vl",
        help="whose coordinates to write (qwen2_5_vl)",
    )
    add("--min-pixels", type=int, help="lower bound of a resized picture's area (4 tokens)")
    add("--max-pixels", type=int, help="upper bound of a resized picture's area (1280 tokens)")


def settings_from(options: argparse.Namespace) -> Settings:
    """Fill in defaults and check the options; one InputError names all that are wrong."""
    values = vars(options).copy()
    family = MODEL_FAMILIES[values.pop("model_family")]
    low, high = family.default_pixels
    if options.min_pixels is None:
        values["min_pixels"] = low
    if options.max_pixels is None:
        values["max_pixels"] = max(high, values["min_pixels"])
    if options.fit is None:
        values["fit"] = "auto" if options.frame == "auto" else "stretch"
    elif options.frame == "original":
        raise InputError(f"--fit {options.fit} says nothing of --frame original: leave it out")
    try:
        return Settings(family=family, **values)
    except ValidationError as error:
        raise InputError("; ".join(_describe(fault) for fault in error.errors())) from None


def _describe(fault: ErrorDetails) -> str:
    """Describe a fault that pydantic reports in the words of the command line."""
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":  # from a check above, which names the option
        return message
    option = str(fault["loc"][0]).replace("_", "-")
    return f"--{option} is {fault['input']}: {message.replace('Input', 'it', 1)}"
