"""What can go wrong between a request to a judge and its verdict."""

from __future__ import annotations


class JudgeError(RuntimeError):
    """There is no verdict for one request; `on_failure` says what that means."""


class JudgeRefusedError(RuntimeError):
    """The endpoint, key or model is wrong: no request can succeed, so this stops the run whatever `on_failure` says."""


class CallFailedError(JudgeError):
    """One call failed.

    Attributes:
        retryable: whether the same call may succeed later.
        dead: whether this is what a dead endpoint looks like (counts towards the circuit breaker).
        retry_after_s: seconds that the endpoint asked to wait.
    """

    def __init__(
        self, message: str, *, retryable: bool = True, dead: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.retryable, self.dead, self.retry_after_s = retryable, dead, retry_after_s
