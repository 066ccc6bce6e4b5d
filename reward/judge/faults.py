"""What can go wrong with a judge. None of it says anything about the response."""


class JudgeFault(Exception):
    """The judge gave no verdict. The message is one line and holds no text of the request."""


class TransientFault(JudgeFault):
    """Another attempt may succeed; not before `retry_after` seconds where the server says so."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentFault(JudgeFault):
    """The same request would fail again. `status` is the server's, None where it is none."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class BreakerOpen(JudgeFault):
    """The judge failed so often that it is left alone for a while."""
