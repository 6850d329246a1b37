"""The rows: one log per conversation, its turns, what is attached, who may come in, what ran, and
what became of what is gone.
"""

from conversations.models.access import AccessToken, Throttle
from conversations.models.attachments import Attachment
from conversations.models.cleanups import Cleanup, CleanupPage
from conversations.models.feedback import Feedback
from conversations.models.holds import UserHold
from conversations.models.ledger import LedgerEntry, OpenRemoval
from conversations.models.messages import ChatMessage, QuarantinedMessage
from conversations.models.operations import Measurement, TaskRun
from conversations.models.reads import StaffRead
from conversations.models.sessions import USUAL_BUDGET, ChatSession
from conversations.models.turns import ChatTurn, RecordedEvents

__all__ = [
    "USUAL_BUDGET",
    "AccessToken",
    "Attachment",
    "ChatMessage",
    "ChatSession",
    "ChatTurn",
    "Cleanup",
    "CleanupPage",
    "Feedback",
    "LedgerEntry",
    "Measurement",
    "OpenRemoval",
    "QuarantinedMessage",
    "RecordedEvents",
    "StaffRead",
    "TaskRun",
    "Throttle",
    "UserHold",
]
