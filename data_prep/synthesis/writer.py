"""Asks the model for one row until what it writes passes, or it has had its tries."""

from __future__ import annotations

import json
from typing import Any

from data_prep.synthesis.checks import Fault, Limits, faults
from data_prep.synthesis.journal import Outcome
from data_prep.synthesis.settings import Server
from data_prep.synthesis.tasks import SCHEMA, Task, read_reply
from reward.judge.faults import BreakerOpen, JudgeFault, PermanentFault
from reward.judge.patience import PatientClient

# Faults of one request; any other permanent one would meet every row.
_OF_ONE_REQUEST = (400, 413, 422)
_LONGEST_DETAIL = 2000


class RowUnanswered(Exception):
    """The server failed for a row; the row says nothing of it, and is tried again."""


class Writer:
    """Writes the reasoning of rows, many at a time."""

    def __init__(
        self, client: PatientClient, server: Server, prompt: str, limits: Limits, tries: int
    ) -> None:
        self._client, self._server = client, server
        self._prompt, self._limits, self._tries = prompt, limits, tries

    async def write(self, task: Task) -> Outcome:
        """The outcome of a row.

        Raises:
            RowUnanswered: the server gave no reply.
            PermanentFault: the server refuses every request, for want of a key or a model.
        """
        messages = [
            {"role": "system", "content": self._prompt},
            {"role": "user", "content": task.document()},
        ]
        index, tokens = task.row.source_index, [0, 0]
        found: list[Fault] = []
        said = ""
        for attempt in range(1, self._tries + 1):
            try:
                said = await self._ask(messages, attempt, tokens)
            except PermanentFault as fault:
                if fault.status not in _OF_ONE_REQUEST:
                    raise
                return Outcome(index, "", "refused", str(fault), attempt, *tokens)
            except JudgeFault as fault:
                raise RowUnanswered(str(fault)) from None
            reply = read_reply(said)
            found = faults(reply, task, self._limits)
            if reply is not None and not found:
                return Outcome(index, reply.reasoning, "", "", attempt, *tokens)
            hints = "\n".join(f"- {fault.hint}" for fault in found)
            messages[2:] = [
                {"role": "assistant", "content": said[:_LONGEST_DETAIL]},
                {"role": "user", "content": f"That cannot be used:\n{hints}\nWrite it again."},
            ]
        detail = f"{'; '.join(fault.hint for fault in found)} | {said}"
        return Outcome(index, "", found[0].code, detail[:_LONGEST_DETAIL], self._tries, *tokens)

    async def _ask(self, messages: list[dict[str, str]], attempt: int, tokens: list[int]) -> str:
        body = json.dumps(await self._body(messages, attempt)).encode()
        try:
            reply = await self._client.request(lambda slot: slot.complete(body))
        except BreakerOpen as fault:
            raise RowUnanswered(str(fault)) from None
        tokens[0] += reply.prompt_tokens
        tokens[1] += reply.completion_tokens
        return reply.text

    async def _body(self, messages: list[dict[str, str]], attempt: int) -> dict[str, Any]:
        server = self._server
        body: dict[str, Any] = {
            "model": await self._client.model_name(),
            "messages": messages,
            "temperature": server.temperature,
            "seed": server.seed + attempt - 1,
            "max_tokens": server.max_tokens,
        }
        if server.structured_output == "json_schema":
            form = {"name": "reasoning", "strict": True, "schema": SCHEMA}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        elif server.structured_output == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body
