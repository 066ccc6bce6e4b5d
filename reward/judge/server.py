"""What is to be known of an OpenAI-compatible server, whether a judge or another program asks."""

from typing import Protocol


class ServerSettings(Protocol):
    """Where a server is and how patiently it is asked.

    `attempts` are made for a request, with exponential waits from `backoff_s` to `backoff_max_s`
    seconds between them; `timeout_s` holds for one. After `breaker_failures` failed requests in a
    row the server is left alone for `breaker_cooldown_s` seconds.
    """

    @property
    def base_url(self) -> str | None: ...
    @property
    def model(self) -> str | None: ...
    @property
    def api_key_env(self) -> str | None: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def max_concurrency(self) -> int: ...
    @property
    def attempts(self) -> int: ...
    @property
    def backoff_s(self) -> float: ...
    @property
    def backoff_max_s(self) -> float: ...
    @property
    def breaker_failures(self) -> int: ...
    @property
    def breaker_cooldown_s(self) -> float: ...

    def option(self, key: str) -> str:
        """How the user sets a key, for messages: `judge.base_url`, `--base-url`."""
        ...


def judge_option(key: str) -> str:
    """A key of a judged preset."""
    return f"judge.{key}"
