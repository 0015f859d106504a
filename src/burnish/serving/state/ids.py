"""Names of what is kept: ids that nobody can guess, and the names of tuned models."""

import re
import secrets
import string

_LETTERS = string.ascii_letters + string.digits
_LONG, _SHORT = 24, 8


def new_id(prefix: str) -> str:
    """Return a random id, such as `file-3kQ...`."""
    return prefix + "".join(secrets.choice(_LETTERS) for _ in range(_LONG))


def tuned_name(base: str, organization: str, suffix: str | None, job_id: str) -> str:
    """Return `ft:BASE:ORGANIZATION:SUFFIX:ID`, the same name at each call."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", (suffix or "").lower())
    return f"ft:{base}:{organization}:{plain}:{job_id[-_SHORT:]}"


def checkpoint_name(tuned: str, step: int) -> str:
    """Return the name of a checkpoint of a tuned model."""
    return f"{tuned}:ckpt-step-{step}"
