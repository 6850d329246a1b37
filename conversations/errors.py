"""Everything that can go wrong, in words: the docstring is what a person reads, `code` what a
program reads. The doors translate these once (`api/errors.py`); nothing here knows HTTP.
"""

from __future__ import annotations

from typing import ClassVar


class ConversationsError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    @property
    def message(self) -> str:
        """The sentence for a person: given at the raise, else the class's own."""
        return str(self.args[0]) if self.args else " ".join((self.__doc__ or "").split())


# What is asked for is not there, or not now


class NotFound(ConversationsError):
    """There is no such thing here."""

    code = "not_found"


class ThreadNotFound(NotFound):
    """There is no such conversation."""

    code = "thread_not_found"


class TurnNotFound(NotFound):
    """There is no such turn in this conversation."""

    code = "turn_not_found"


class ItemNotFound(NotFound):
    """There is no such entry in this conversation."""


class AttachmentNotFound(NotFound):
    """There is no such attachment."""


class PlanNotFound(NotFound):
    """There is no such plan."""

    code = "plan_not_found"


class Conflict(ConversationsError):
    """This does not go together with what is already there."""

    code = "conflict"


class ThreadClosed(Conflict):
    """This conversation does not take messages; start a new one."""

    code = "thread_closed"


class ThreadHeld(Conflict):
    """This conversation is on hold and cannot be changed or deleted."""

    code = "held"


class NotHeld(Conflict):
    """There is no hold here that could be lifted."""

    code = "not_held"


class ThreadBusy(Conflict):
    """A turn runs in this conversation; try again when it has ended."""

    code = "thread_busy"
    retryable = True


class PlanApplied(Conflict):
    """This plan has been applied already; its receipt is kept."""

    code = "plan_applied"


class PlanExpired(Conflict):
    """This plan is older than 24 hours; make a new one."""

    code = "plan_expired"


class CleanupRunning(Conflict):
    """Another cleanup is running; wait until it has ended."""

    code = "cleanup_running"
    retryable = True


class CleanupLost(Conflict):
    """Another process has taken this cleanup over."""

    code = "cleanup_lost"


class IdempotencyConflict(Conflict):
    """This idempotency key was used with another text."""

    code = "idempotency_conflict"


class AlreadyUploaded(Conflict):
    """This file has been uploaded already."""

    code = "already_uploaded"


class EventsGone(Conflict):
    """What this turn told is no longer kept word by word; read the conversation instead."""

    code = "events_gone"


class Invalid(ConversationsError):
    """Something in the request is not valid."""

    code = "invalid"

    def __init__(self, message: str = "", *, fields: list[dict[str, str]] | None = None) -> None:
        super().__init__(*([message] if message else []))
        self.fields = fields or []


class LedgerSealed(ConversationsError):
    """The ledger only grows: its rows are never changed or deleted."""

    code = "ledger_sealed"


class NotConfigured(ConversationsError):
    """This site is not set up for that."""

    code = "not_configured"


class Unauthenticated(ConversationsError):
    """Sign in first: the access token is missing, wrong, expired or revoked."""

    code = "unauthenticated"


class CsrfFailed(ConversationsError):
    """The CSRF token is missing or wrong."""

    code = "csrf"


class Throttled(ConversationsError):
    """Too many requests; wait a moment."""

    code = "throttled"
    retryable = True

    def __init__(self, message: str = "", *, retry_after: int = 60) -> None:
        super().__init__(*([message] if message else []))
        self.retry_after = retry_after


class QueueFull(Throttled):
    """Too many messages of this conversation are waiting; let them finish first."""

    code = "throttled"


class TooLarge(ConversationsError):
    """The request is too large."""

    code = "too_large"


# The store


class StoreError(ConversationsError):
    """The conversation store cannot be used right now."""

    code = "store_unavailable"
    retryable = True


class StoreBusy(StoreError):
    """The conversation store is busy."""


class StoreMissing(StoreError):
    """The conversation store is missing."""


class StoreSilent(StoreBusy):
    """The conversation store has not answered in time."""


class StoreReadOnly(StoreError):
    """The conversation store cannot be written right now."""


class StoreDamaged(StoreError):
    """The conversation store is damaged."""

    retryable = False


class ShuttingDown(StoreError):
    """The server is restarting; try again in a moment."""


class TransactionOpen(ConversationsError):
    """A session cannot be used inside transaction.atomic(): it writes on other connections."""

    code = "transaction_open"


class LeaseLost(ConversationsError):
    """Another process has taken this turn over, or the conversation is gone."""

    code = "lease_lost"


# A turn that failed, as the person who waits for the answer reads it


class TurnError(ConversationsError):
    """The assistant could not answer."""

    code = "assistant_failed"
    retryable = True


class ModelUnavailable(TurnError):
    """The model did not answer; try again in a moment."""

    code = "model_unavailable"


class ModelRefused(TurnError):
    """The model's provider refused the request."""

    code = "model_refused"
    retryable = False


class ModelThrottled(TurnError):
    """The model is busy; try again in a moment."""

    code = "model_throttled"


class TurnTimeout(TurnError):
    """The answer took too long and was stopped."""

    code = "turn_timeout"


class TooManySteps(TurnError):
    """The assistant took too many steps without an answer."""

    code = "max_turns"
    retryable = False


class GuardrailTripped(TurnError):
    """This was stopped by a safety rule."""

    code = "guardrail"
    retryable = False


class AgentError(TurnError):
    """The assistant could not do this."""

    code = "custom"
    retryable = False


class AgentErrorRetryable(AgentError):
    """The assistant could not do this; try again."""

    retryable = True


class TurnInterrupted(TurnError):
    """The answer was interrupted; what was written so far is kept."""

    code = "interrupted"
