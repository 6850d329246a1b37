"""All that is kept of a person, in their own hands."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from ninja import Router

from conversations import account
from conversations.api.auth import principal
from conversations.api.schemas import ErasedOut, ErrorOut

router = Router(tags=["Account"])


@router.delete("/account-data", response={200: ErasedOut, (401, 403, 409, 503): ErrorOut})
async def erase_account_data(request: HttpRequest) -> dict[str, Any]:
    """Erase all conversations of one's own for good, with a receipt; the account stays.

    A running answer is stopped first. Where one of them is on hold, nothing is erased.
    """
    receipt = await account.erase_account_data(owner_id=principal(request).user_id)
    return {
        "erased_at": timezone.now(),
        "receipt": receipt.ledger_number,
        "subject": receipt.subject,
        "counts": receipt.counts,
    }
