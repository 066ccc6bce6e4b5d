"""A whole run of the synthesis, from its settings to its files."""

from __future__ import annotations

import dataclasses
from typing import Any

from data_prep.errors import InputError
from data_prep.files import remove_leftovers
from data_prep.findings_table import read_findings
from data_prep.sources import Source, open_source
from data_prep.sources.base import stamps
from data_prep.synthesis.journal import Journal
from data_prep.synthesis.output import report, write_output, write_report
from data_prep.synthesis.run import GOES_ON, Run
from data_prep.synthesis.settings import Settings
from data_prep.synthesis.tasks import prompt_version, read_prompt
from data_prep.synthesis.writer import Writer
from reward.judge.faults import JudgeFault
from reward.judge.patience import PatientClient

# What changes no reply may change between two runs.
_PATIENCE = {"base_url", "api_key_env", "timeout_s", "max_concurrency", "attempts", "backoff_s"}
_PATIENCE |= {"backoff_max_s", "breaker_failures", "breaker_cooldown_s"}


async def synthesize(settings: Settings) -> dict[str, Any]:
    """Write reasoning for all rows, then the files; returns the report."""
    prompt = read_prompt(settings.prompt, settings.limits.least, settings.limits.most)
    findings = read_findings(settings.findings)
    source = open_source(settings.source)
    settings.out.mkdir(parents=True, exist_ok=True)
    for folder in (settings.out, settings.out / "data"):
        remove_leftovers(folder)
    try:
        client = PatientClient(settings.server)
    except ValueError as error:
        raise InputError(str(error)) from None
    try:
        about = await _about(settings, client)
        with Journal(settings.out, about | _identity(settings, source)) as journal:
            writer = Writer(client, settings.server, prompt, settings.limits, settings.tries)
            rows = source.rows if settings.limit is None else min(settings.limit, source.rows)
            await Run(settings, writer, journal).all(source, findings, rows)
            write_output(settings, source, journal, about)
            found = report(settings, source, journal, about)
            write_report(settings.out, found)
    finally:
        await client.aclose()
    return found


async def _about(settings: Settings, client: PatientClient) -> dict[str, Any]:
    """What makes the replies: model, prompt, sampling, checks."""
    try:
        model = await client.model_name()
    except JudgeFault as fault:
        raise InputError(f"{settings.server.base_url}: {fault}; {GOES_ON}") from None
    server = dataclasses.asdict(settings.server)
    return {
        **{key: value for key, value in server.items() if key not in _PATIENCE},
        "model": model,
        "prompt": prompt_version(settings.prompt),
        "tries": settings.tries,
        "words": [settings.limits.least, settings.limits.most],
    }


def _identity(settings: Settings, source: Source) -> dict[str, Any]:
    """What else a journal must have been made from to be gone on with."""
    return {"source": source.identity(), "findings": stamps([settings.findings])}
