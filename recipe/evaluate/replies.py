"""Read chat completions as the responses of a model, and count what a server changed in them."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from data_prep.program import InputError
from llm_client.server import counted, reasoning_of, writable
from recipe.evaluate.generation import Response

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion
    from openai.types.chat.chat_completion import Choice

_ANSWER = re.compile(r"<(answer|location)\b", re.IGNORECASE)
_RESTORED = "the server's reasoning parser took <think> out of the text; it was put back"
_WITHHELD = "the server withheld the text (finish_reason content_filter)"
_UNOPENED = (
    "closed a <think> that they do not open: where the server's chat template opens it in the "
    "prompt, set server.response_prefix=\"'<think>'\""
)
_CUT = (
    "ended before data.max_response_length: the server's context (vLLM: --max-model-len) or a "
    "limit of its own is shorter"
)


class ReplyReader:
    """Read the texts of chat completions, and count those that the server changed or cut off."""

    def __init__(self, limit: int, tokenizer: Any = None, prefix: str = "") -> None:
        """Set up the counts, for answers of up to `limit` tokens that begin with `prefix`.

        The tokenizer decodes the tokens, if the server sends them.
        """
        self._limit, self._tokenizer, self._prefix = limit, tokenizer, prefix
        self._counts: Counter[str] = Counter()
        self._shown: set[str] = set()

    def responses(self, reply: "ChatCompletion", samples: int) -> list[Response]:
        """Return the responses of a reply, in the order of their samples.

        Raises:
            InputError: the number of texts is not `samples`, or the beginning of a text is unknown.
        """
        choices = sorted(reply.choices, key=lambda choice: choice.index)
        cut = [choice.finish_reason == "length" for choice in choices]
        texts = [self.text(choice) for choice in choices]
        if len(texts) != samples:
            raise InputError(
                f"server: {len(texts)} answers where {samples} were asked for: it does not know "
                "the field n; evaluate with sampling.samples=1 at most"
            )
        written = counted(reply, "completion_tokens")
        if all(cut) and 0 < written < self._limit * samples:
            self._counts[_CUT] += samples
        return [Response(text, is_cut) for text, is_cut in zip(texts, cut, strict=True)]

    def lines(self) -> list[str]:
        """Return what the server changed, each with the number of answers."""
        return [f"{count} answers: {reason}" for reason, count in sorted(self._counts.items())]

    def new_lines(self) -> Iterator[str]:
        """Yield the lines whose reason no earlier call has yielded."""
        for reason in sorted(self._counts.keys() - self._shown):
            self._shown.add(reason)
            yield f"{self._counts[reason]} answers: {reason}"

    def text(self, choice: "Choice") -> str:
        """Return the text of a choice, also of one that is not complete.

        Raises:
            InputError: its beginning is unknown.
        """
        return writable(self._text(choice))

    def _text(self, choice: "Choice") -> str:
        tokens, message = getattr(choice, "token_ids", None), choice.message
        if self._tokenizer is not None and isinstance(tokens, list):
            return self._with_prefix(str(self._tokenizer.decode(tokens, skip_special_tokens=True)))
        reasoning = reasoning_of(choice)
        if reasoning:
            self._counts[_RESTORED] += 1
            return _restored(reasoning, message.content or "")
        if choice.finish_reason == "content_filter":
            self._counts[_WITHHELD] += 1
        return self._with_prefix(message.content or message.refusal or "")

    def _with_prefix(self, text: str) -> str:
        response = f"{self._prefix}{text}"
        if "</think>" in response.partition("<think>")[0]:
            self._counts[_UNOPENED] += 1
        return response


def _restored(reasoning: str, content: str) -> str:
    """Put back the tags that a server's reasoning parser removed."""
    if content:
        return f"<think>{reasoning}</think>{content}"
    # The model wrote no </think>. Whether it wrote <think> is unknown, and an answer in the text
    # counts only if it did not.
    if _ANSWER.search(reasoning):
        raise InputError(
            "server: its reasoning parser took an answer for reasoning: start it without the "
            "parser (vLLM: --reasoning-parser), or give model.path=FOLDER of the served model, "
            "so that vLLM's tokens can be read"
        )
    return f"<think>{reasoning}"
