"""The options of the command and what they come to."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import InputError
from data_prep.synthesis.checks import Limits
from data_prep.synthesis.tasks import PROMPT
from reward.judge.address import check_address
from reward.judge.ready import PACKAGES, missing_package
from reward.judge.settings import STRUCTURED_OUTPUTS

EPILOG = """\
The findings are a table (parquet, CSV or JSON lines) with the columns `findings` and `image_path`
or `study`. A text of it tells what is seen where, with boxes in the frame of the rows:
"The left lung [63, 20, 98, 80] shows an opacity." Nothing is sent but to --base-url, which must be
this machine unless you say otherwise. docs/synthesize.md tells more."""


@dataclass(frozen=True)
class Server:
    """Where the model is, how it is asked, and how patiently: see `reward.judge.server`."""

    base_url: str | None
    model: str | None = None
    api_key_env: str | None = None
    timeout_s: float = 120.0
    max_concurrency: int = 32
    attempts: int = 4
    backoff_s: float = 0.5
    backoff_max_s: float = 20.0
    breaker_failures: int = 16
    breaker_cooldown_s: float = 30.0
    temperature: float = 0.6
    seed: int = 0
    max_tokens: int = 1024
    structured_output: str = "json_schema"

    def option(self, key: str) -> str:
        """How a key is set on the command line."""
        return option(key)


@dataclass(frozen=True)
class Settings:
    """A checked command."""

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


def option(key: str) -> str:
    """How a key of `Server` is set on the command line."""
    return f"--{key.replace('_', '-')}"


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
    add("--out", type=Path, required=True, help="folder to write; a stopped run goes on in it")
    add("--base-url", required=True, help="the server, such as http://127.0.0.1:8000/v1")
    add("--model", help="its name (the only one that the server offers)")
    add("--api-key-env", metavar="NAME", help="environment variable that holds the server's key")
    add("--trusted-hosts", nargs="*", default=[], metavar="HOST", help="of your own cluster")
    add("--data-may-leave", action="store_true", help="allow any address")
    add("--prompt", type=Path, default=PROMPT, help="instructions (configs/synthesis/prompt.txt)")
    add("--tries", type=int, default=3, help="replies for a row until one passes (3)")
    add("--least-words", type=int, default=Limits.least, help=f"of a reasoning ({Limits.least})")
    add("--most-words", type=int, default=Limits.most, help=f"of a reasoning ({Limits.most})")
    add("--limit", type=int, help="the first rows only")
    add("--temperature", type=float, default=Server.temperature, help=f"({Server.temperature})")
    add("--seed", type=int, default=0, help="of the sampling; each try has the next one (0)")
    add("--max-tokens", type=int, default=Server.max_tokens, help=f"({Server.max_tokens})")
    add(
        "--structured-output",
        choices=STRUCTURED_OUTPUTS,
        default=Server.structured_output,
        help=f"how the server is told the form of a reply ({Server.structured_output})",
    )
    add(
        "--max-concurrency",
        type=int,
        default=Server.max_concurrency,
        help="requests at a time (32)",
    )
    add("--timeout-s", type=float, default=Server.timeout_s, help="seconds for one attempt (120)")
    add("--attempts", type=int, default=Server.attempts, help="of a request that fails (4)")
    add("--backoff-s", type=float, default=Server.backoff_s, help="seconds of the first wait (0.5)")
    add("--breaker-failures", type=int, default=Server.breaker_failures, help="rows that fail (16)")
    add("--give-up", action="store_true", help="reject rows for which the server fails again")
    add(
        "--prices",
        type=float,
        nargs=2,
        metavar=("IN", "OUT"),
        help="of a million tokens read and written, for the report of costs",
    )
    return parser


def settings_from(options: argparse.Namespace) -> Settings:
    """Checks the options. Raises InputError with a line that names the one at fault."""
    _check_numbers(options)
    if options.out.exists() and not options.out.is_dir():
        raise InputError(f"--out {options.out} is a file: name a folder")
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise InputError(missing_package(package))
    try:
        check_address(options.base_url, options.data_may_leave, options.trusted_hosts, option)
    except ValueError as error:
        raise InputError(str(error)) from None
    names = Server.__dataclass_fields__
    server = Server(**{name: getattr(options, name) for name in names if hasattr(options, name)})
    return Settings(
        source=options.source,
        findings=options.findings,
        out=options.out,
        server=server,
        limits=Limits(options.least_words, options.most_words),
        prompt=options.prompt,
        tries=options.tries,
        limit=options.limit,
        give_up=options.give_up,
        prices=tuple(options.prices) if options.prices else None,
    )


def _check_numbers(options: argparse.Namespace) -> None:
    least = {"tries": 1, "least_words": 0, "max_tokens": 1, "max_concurrency": 1, "attempts": 1}
    least |= {"breaker_failures": 1, "limit": 1}
    for name, low in least.items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise InputError(f"{option(name)} is {value}: give {low} or more")
    for name in ("timeout_s", "backoff_s"):
        if not getattr(options, name) > 0:
            raise InputError(f"{option(name)} is {getattr(options, name)}: give more than 0")
    if options.most_words < options.least_words:
        raise InputError(
            f"--most-words {options.most_words} is less than --least-words {options.least_words}"
        )
    if not 0 <= options.temperature <= 2:
        raise InputError(f"--temperature is {options.temperature}: give a number from 0 to 2")
    if options.prices and min(options.prices) < 0:
        raise InputError(f"--prices are {options.prices}: give numbers from 0")
