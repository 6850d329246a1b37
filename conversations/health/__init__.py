"""Whether a site can do its work, part by part, and what to do about a part that cannot.

`READINESS` is asked by `/readyz` every few seconds: no part of it grows with what is stored.
`DOCTOR` asks more, for somebody who looks into it.
"""

from conversations.health.doctor import DOCTOR
from conversations.health.findings import Check, Finding, examine
from conversations.health.readiness import READINESS

__all__ = ["DOCTOR", "READINESS", "Check", "Finding", "examine"]
