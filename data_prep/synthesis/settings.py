"""The options of `data_prep.synthesize`, and the settings that they give."""

import argparse
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

from pydantic import Field

from data_prep.program import InputError
from data_prep.synthesis.tasks import PROMPT, Limits
from llm_client.server import (
    Count,
    JsonServerSettings,
    Positive,
    StructuredOutput,
    check_packages,
)

EPILOG = """\
The findings are a table (parquet, CSV or JSON lines) with the columns `findings` and `image_path`
or `study`. They describe what is seen where, with boxes in the frame of the rows:
"The left lung [63, 20, 98, 80] shows an opacity." Data is only sent to --base-url, which must be
this machine unless you allow others. See docs/synthesize.md."""


class Server(JsonServerSettings):
    """The settings of the server, its sampling and its retries."""

    timeout_s: Positive = 120.0
    max_concurrency: Count = 32
    max_tokens: Count = 1024
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.6

    @classmethod
    def option(cls, key: str) -> str:
        return f"--{key.replace('_', '-')}"


@dataclass(frozen=True)
class Settings:
    """The checked options."""

    source: str
    findings: Path
    out: Path
    server: Server
    limits: Limits
    prompt: Path
    tries: int
    limit: int | None
    give_up: bool
    prices: tuple[float, float] | None


_SAME_NAME = ("source", "findings", "out", "prompt", "tries", "limit", "give_up")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.synthesize",
        description="Writes ThinkVG-style reasoning for GEMeX-style rows, with any "
        "OpenAI-compatible model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--source", required=True, help="the rows, as for data_prep.thinkvg")
    add("--findings", type=Path, required=True, help="table of region-annotated findings")
    add("--out", type=Path, required=True, help="folder to write; a stopped run is resumed in it")
    add("--prompt", type=Path, default=PROMPT, help="instructions (configs/synthesis/prompt.txt)")
    add("--tries", type=int, default=3, help="replies for a row until one passes (3)")
    add("--least-words", type=int, default=Limits.least, help=f"of a reasoning ({Limits.least})")
    add("--most-words", type=int, default=Limits.most, help=f"of a reasoning ({Limits.most})")
    add("--limit", type=int, help="the first rows only")
    add("--give-up", action="store_true", help="reject rows for which the server fails again")
    add(
        "--prices",
        type=float,
        nargs=2,
        metavar=("IN", "OUT"),
        help="of a million tokens read and written, for the report of costs",
    )
    _add_server_options(parser)
    return parser


def _add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add the keys of `Server`; an option that is not used keeps its default there."""
    add = partial(parser.add_argument, default=argparse.SUPPRESS)
    forms = get_args(StructuredOutput)
    add("--base-url", required=True, help="the server, such as http://127.0.0.1:8000/v1")
    add("--model", help="its name (the only one that the server offers)")
    add("--api-key-env", metavar="NAME", help="environment variable that holds the server's key")
    add("--trusted-hosts", nargs="*", metavar="HOST", help="of your own cluster")
    add("--data-may-leave", action="store_true", help="allow any address")
    add("--temperature", type=float, help="(0.6)")
    add("--seed", type=int, help="of the sampling; each try has the next one (0)")
    add("--max-tokens", type=int, help="(1024)")
    add("--structured-output", choices=forms, help=f"the form of a reply in requests ({forms[0]})")
    add(
        "--extra-body",
        metavar="JSON",
        help='more fields of the request; null leaves one out, such as {"top_k": null}',
    )
    add("--max-concurrency", type=int, help="requests at a time (32)")
    add("--timeout-s", type=float, help="seconds for one attempt (120)")
    add("--attempts", type=int, help="of a request that fails (4)")
    add("--backoff-s", type=float, help="seconds of the first wait (0.5)")
    add("--breaker-failures", type=int, help="rows that fail (16)")


def settings_from(options: argparse.Namespace) -> Settings:
    _check_numbers(options)
    if options.out.exists() and not options.out.is_dir():
        raise InputError(f"--out {options.out} is a file: name a folder")
    return Settings(
        server=_server(options),
        limits=Limits(options.least_words, options.most_words),
        prices=tuple(options.prices) if options.prices else None,
        **{name: getattr(options, name) for name in _SAME_NAME},
    )


def _server(options: argparse.Namespace) -> Server:
    values = {key: value for key, value in vars(options).items() if key in Server.model_fields}
    try:
        if "extra_body" in values:
            values["extra_body"] = json.loads(values["extra_body"])
    except ValueError as error:
        raise InputError(f"--extra-body is not JSON ({error})") from None
    try:
        check_packages()
        server = Server.parse(values)
        server.api_key()
    except ValueError as error:
        raise InputError(str(error)) from None
    return server


def _check_numbers(options: argparse.Namespace) -> None:
    for name, least in {"tries": 1, "least_words": 0, "limit": 1}.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError(f"{Server.option(name)} is {value}: give {least} or more")
    if options.most_words < options.least_words:
        raise InputError(
            f"--most-words {options.most_words} is less than --least-words {options.least_words}"
        )
    if options.prices and min(options.prices) < 0:
        raise InputError(f"--prices are {options.prices}: give numbers from 0")
