"""What staff may do so far: revoke access tokens, look at what is set aside, read what people think
of answers, and see what runs by itself.

The view of conversations comes later.
"""

from __future__ import annotations

from conversations.admin.feedback import FeedbackAdmin
from conversations.admin.quarantine import QuarantinedMessageAdmin
from conversations.admin.tokens import AccessTokenAdmin
from conversations.admin.worker import TaskRunAdmin

__all__ = ["AccessTokenAdmin", "FeedbackAdmin", "QuarantinedMessageAdmin", "TaskRunAdmin"]
