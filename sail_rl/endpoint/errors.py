"""The errors that can prevent a judge's verdict."""

from __future__ import annotations


class JudgeError(RuntimeError):
    """One request has no verdict; `on_failure` says how the run continues."""


class JudgeRefusedError(RuntimeError):
    """The endpoint, key or model is wrong, so that no request can succeed; this stops the run despite `on_failure`."""


class CallFailedError(JudgeError):
    """One call failed.

    Attributes:
        retryable: whether the same call may succeed later.
        dead: whether the endpoint seems dead, which counts towards the circuit breaker.
        retry_after_s: seconds that the endpoint asked to wait, if any.
    """

    def __init__(
        self, message: str, *, retryable: bool = True, dead: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.retryable, self.dead, self.retry_after_s = retryable, dead, retry_after_s
