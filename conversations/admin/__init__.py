"""What staff may do so far: find and read conversations, look at what is set aside, read what
people think of answers, revoke access tokens, see what runs by itself; and who of them has read
what.
"""

from __future__ import annotations

from conversations.admin.feedback import FeedbackAdmin
from conversations.admin.quarantine import QuarantinedMessageAdmin
from conversations.admin.reads import StaffReadAdmin
from conversations.admin.sessions import ChatSessionAdmin
from conversations.admin.tokens import AccessTokenAdmin
from conversations.admin.worker import TaskRunAdmin

__all__ = [
    "AccessTokenAdmin",
    "ChatSessionAdmin",
    "FeedbackAdmin",
    "QuarantinedMessageAdmin",
    "StaffReadAdmin",
    "TaskRunAdmin",
]
