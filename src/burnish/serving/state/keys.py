"""API keys: their scopes, projects and rate limits."""

import hashlib
import hmac
import math
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from burnish.errors import UserError
from burnish.serving.errors import ApiError
from burnish.serving.state import audit
from burnish.serving.state.tables import KeyRow, SwitchRow

Scope = Literal["infer", "tune", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

_FORM = re.compile(r"sk-burnish-([0-9a-f]{16})-([\w-]{43})", re.ASCII)
_SWITCH = "keys"
_MINUTE = 60.0
_LONGEST = 64


@dataclass(frozen=True, slots=True)
class Key:
    """A key that was shown and is known. `admin` may do what the other scopes may.

    `project` is the one that it is confined to; None: the whole organization.
    """

    id: str
    name: str
    scopes: frozenset[str]
    requests: int | None = None
    tokens: int | None = None
    project: str | None = None

    def may(self, scope: Scope) -> bool:
        """Whether the key has the scope; `admin` includes all others."""
        return scope in self.scopes or "admin" in self.scopes


def make(
    session: Session,
    actor: str,
    name: str,
    scopes: Collection[str],
    requests: int | None = None,
    tokens: int | None = None,
) -> tuple[Key, str]:
    """Create a key, and return it with its secret, which is not stored; from now on keys are
    required.

    Raises:
        UserError: a scope is unknown or none is named, or a limit is no positive number.
    """
    strange = sorted(set(scopes) - set(SCOPES))
    if strange or not scopes:
        remedy = f"choose from {', '.join(SCOPES)}"
        if not strange:
            raise UserError("the key has no scope", remedy, code="no_scope")
        raise UserError(
            f"the scope {strange[0]!r} does not exist",
            remedy,
            code="unknown_scope",
            scope=strange[0],
        )
    for limit in (requests, tokens):
        if limit is not None and limit < 1:
            raise UserError(
                f"the limit is {limit} per minute",
                "use a positive number, or omit the limit",
                code="not_positive",
                value=limit,
            )
    part, secret, salt = secrets.token_hex(8), secrets.token_urlsafe(32), secrets.token_bytes(16)
    row = KeyRow(
        f"key_{part}",
        name,
        salt,
        _hash(salt, secret),
        sorted(set(scopes)),
        int(time.time()),
        requests,
        tokens,
    )
    session.add(row)
    _switch(session, is_on=True)
    audit.append(session, actor, "key.make", row.id, {"name": name, "scopes": row.scopes})
    return _key(row), f"sk-burnish-{part}-{secret}"


def restrict_to_project(session: Session, actor: str, id: str, project: str) -> None:
    """Restrict a key to one project: it sees the project's own files, uploads and jobs, and may use
    the models of its jobs and those with a permission for it.

    Raises:
        UserError: there is no such key, it may administer the organization, or the project has no
            name of 1 to 64 characters.
    """
    row = _found(session, id)
    if "admin" in row.scopes:
        raise UserError(
            f"the key {id} has the scope admin, which applies to the whole organization",
            "omit the project or the scope",
            code="admin_of_project",
            key=id,
        )
    if not 1 <= len(project) <= _LONGEST:
        raise UserError(
            f"{project!r} is not a valid project name",
            f"use 1 to {_LONGEST} characters",
            code="bad_name",
            key="project",
            value=project,
        )
    row.project = project
    session.flush()
    audit.append(session, actor, "key.confine", id, {"project": project})


def _found(session: Session, id: str) -> KeyRow:
    row = session.scalar(select(KeyRow).where(KeyRow.id == id))
    if row is None:
        raise UserError(
            f"the key {id} does not exist",
            "choose a key from `burnish keys list`",
            code="unknown_key_id",
            key=id,
        )
    return row


def listed(session: Session) -> list[KeyRow]:
    """Return all keys, revoked ones included, in the order of their creation."""
    return list(session.scalars(select(KeyRow).order_by(KeyRow.seq)))


def revoke(session: Session, actor: str, id: str) -> None:
    """Revoke a key at once; revoking it again changes nothing.

    Raises:
        UserError: there is no such key.
    """
    row = _found(session, id)
    if row.revoked_at is None:
        row.revoked_at = int(time.time())
        session.flush()
        audit.append(session, actor, "key.revoke", id)


def known(session: Session, secret: str) -> Key | None:
    """Return the key of a secret; None if it is unknown or revoked."""
    matched = _FORM.fullmatch(secret)
    if matched is None:
        return None
    row = session.scalar(select(KeyRow).where(KeyRow.id == f"key_{matched[1]}"))
    salt, kept = (row.salt, row.hash) if row is not None else (bytes(16), bytes(32))
    # The same work for an id that does not exist, and the same time wherever the hashes differ.
    same = hmac.compare_digest(_hash(salt, matched[2]), kept)
    return _key(row) if row is not None and same and row.revoked_at is None else None


def any_active(session: Session) -> bool:
    """Whether there is a key that is not revoked."""
    first = select(KeyRow.seq).where(KeyRow.revoked_at.is_(None)).limit(1)
    return session.scalar(first) is not None


def required(session: Session) -> bool:
    """Whether every request needs a key: from the creation of the first key until `turn_off`."""
    return bool(session.scalar(select(SwitchRow.is_on).where(SwitchRow.name == _SWITCH)))


def turn_off(session: Session, actor: str) -> None:
    """Allow requests from the server's own machine without a key, until the next key is created."""
    if required(session):
        _switch(session, is_on=False)
        audit.append(session, actor, "keys.off", _SWITCH)


def _switch(session: Session, *, is_on: bool) -> None:
    session.merge(SwitchRow(_SWITCH, is_on, int(time.time())))
    session.flush()


def _hash(salt: bytes, secret: str) -> bytes:
    # A secret of 256 random bits cannot be guessed, so the hash may be quick: it runs each time.
    return hashlib.sha256(salt + secret.encode()).digest()


def _key(row: KeyRow) -> Key:
    return Key(row.id, row.name, frozenset(row.scopes), row.requests, row.tokens, row.project)


class _Bucket:
    """So many a minute: fills evenly, holds a minute's worth, and may be overdrawn."""

    def __init__(self, size: int, now: float) -> None:
        self.size, self.left, self.at = size, float(size), now

    def fill(self, now: float) -> None:
        """Refill the bucket up to the time `now`."""
        self.left = min(self.size, self.left + (now - self.at) * self.size / _MINUTE)
        self.at = now

    def seconds_until(self, left: float) -> float:
        """Return the seconds until the bucket holds `left`."""
        return max(0.0, (left - self.left) * _MINUTE / self.size)


class Limiter:
    """Each key's requests and tokens a minute, in this process's memory.

    Tokens are known when an answer is done, so they are taken then: a key whose last answer was
    longer than what it had left waits until that is made up for.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def admit(self, key: Key) -> dict[str, str]:
        """Take one request, and return the rate limit headers.

        Raises:
            ApiError: 429, with what is left and how long to wait.
        """
        with self._lock:
            buckets = self._of(key)
            for name, bucket in buckets.items():
                if bucket.left < 1:
                    raise _too_many(name, bucket, _headers(buckets))
            if "requests" in buckets:
                buckets["requests"].left -= 1
            return _headers(buckets)

    def spend(self, key: Key, tokens: int) -> None:
        """Take the tokens of an answer and its prompt."""
        with self._lock:
            bucket = self._of(key).get("tokens")
            if bucket is not None:
                bucket.left -= tokens

    def _of(self, key: Key) -> dict[str, _Bucket]:
        now, result = self._clock(), {}
        for name, size in (("requests", key.requests), ("tokens", key.tokens)):
            if size is not None:
                bucket = self._buckets.setdefault((key.id, name), _Bucket(size, now))
                bucket.fill(now)
                result[name] = bucket
        return result


def _headers(buckets: dict[str, _Bucket]) -> dict[str, str]:
    headers = {}
    for name, bucket in buckets.items():
        headers[f"x-ratelimit-limit-{name}"] = str(bucket.size)
        headers[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(bucket.left)))
        headers[f"x-ratelimit-reset-{name}"] = _duration(bucket.seconds_until(bucket.size))
    return headers


def _too_many(name: str, bucket: _Bucket, headers: dict[str, str]) -> ApiError:
    wait = bucket.seconds_until(1.0)
    headers["retry-after"] = str(math.ceil(wait))
    headers["retry-after-ms"] = str(math.ceil(1000 * wait))
    return ApiError(
        429,
        f"Rate limit reached on {name} per minute: limit {bucket.size}. "
        f"Please try again in {_duration(wait)}.",
        kind=name,
        code="rate_limit_exceeded",
        headers=headers,
    )


def _duration(seconds: float) -> str:
    """As the API writes it: 120ms, 2.5s, 1m30s."""
    if seconds < 1:
        return f"{math.ceil(1000 * seconds)}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f}m{math.ceil(rest)}s" if minutes else f"{round(rest, 1):g}s"
