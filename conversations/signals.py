"""Where other apps hear of what happens here."""

from __future__ import annotations

from typing import Final

from django.dispatch import Signal

erasing_user: Final = Signal()
"""All that is kept of one person is being erased; `user_id` says whose.

Sent inside the first and the last transaction of an erasure: in the first all rows are there still.
A receiver erases what its app keeps of that person, and returns how many rows of which kind, such
as `{"tasks": 3}`, or nothing. An error undoes the transaction, and ends the erasure there.
"""
