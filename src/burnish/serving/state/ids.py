"""Names of what is kept: ids that nobody can guess, and the names of tuned models."""

import re
import secrets
import string

_LETTERS = string.ascii_letters + string.digits
_LONG, _SHORT = 24, 8


def new_id(prefix: str) -> str:
    """Such as `file-3kQ...`; the API's prefixes end in a dash or an underscore."""
    return prefix + "".join(secrets.choice(_LETTERS) for _ in range(_LONG))


def tuned_name(base: str, organization: str, suffix: str | None, job_id: str) -> str:
    """`ft:<base>:<org>:<suffix>:<id>`, the same each time that it is asked for."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", (suffix or "").lower())
    return f"ft:{base}:{organization}:{plain}:{job_id[-_SHORT:]}"


def checkpoint_name(tuned: str, step: int) -> str:
    return f"{tuned}:ckpt-step-{step}"
