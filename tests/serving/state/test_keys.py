"""Keys: made once, kept as hashes, limited by the minute."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from burnish.cli import main
from burnish.serving.errors import ApiError
from burnish.serving.state import audit, keys
from burnish.serving.state.keys import Key, Limiter
from burnish.serving.state.tables import Table
from tests.refused import refused


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    engine = create_engine(f"sqlite:///{tmp_path / 'state.db'}")
    Table.metadata.create_all(engine)
    with Session(engine) as opened:
        yield opened
    engine.dispose()


def test_a_key_from_first_to_last(session: Session, tmp_path: Path) -> None:
    key, secret = keys.make(session, "cli", "laptop", ["tune", "infer"], requests=60)
    session.commit()
    assert keys.known(session, secret) == key
    assert key == Key(key.id, "laptop", frozenset({"infer", "tune"}), 60, None)
    assert [row.id for row in keys.listed(session)] == [key.id]
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret.rsplit("-", 1)[-1].encode() not in stored
    assert secret.encode() not in stored
    keys.revoke(session, "cli", key.id)
    keys.revoke(session, "cli", key.id)
    assert keys.known(session, secret) is None
    assert not keys.any_active(session)
    assert keys.listed(session)[0].revoked_at is not None
    assert audit.verify(session) is None
    actions = [line.split('"action": "')[1].split('"')[0] for line in audit.export(session)]
    assert actions == ["key.make", "key.revoke"]


def test_the_first_key_says_what_it_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for name in ("one", "two"):
        main(["keys", "make", name, "--folder", str(tmp_path / "data")])
        said.append(bool(capsys.readouterr().err))
    assert said == [True, False]


def test_keys_stay_required_until_they_are_turned_off(session: Session) -> None:
    assert not keys.required(session)
    keys.turn_off(session, "cli")  # is off already, so nothing is logged
    key, _ = keys.make(session, "cli", "one", ["infer"])
    keys.revoke(session, "cli", key.id)
    assert keys.required(session)
    keys.turn_off(session, "cli")
    assert not keys.required(session)
    keys.make(session, "cli", "two", ["infer"])
    assert keys.required(session)
    actions = [json.loads(line)["action"] for line in audit.export(session)]
    assert actions == ["key.make", "key.revoke", "keys.off", "key.make"]


def test_the_command_line_says_whether_keys_are_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> tuple[str, str]:
        main(["keys", *words, "--folder", str(tmp_path / "data")])
        said = capsys.readouterr()
        return said.out, said.err

    key = json.loads(run("make", "one", "--json")[0])
    assert "keys are on" in run("list")[1]
    assert "`burnish keys off`" in run("revoke", key["id"])[1]
    assert "keys are on" in run("list")[1]
    assert "keys are off" in run("off")[1]
    listed, state = run("list", "--json")
    assert json.loads(listed)[0]["id"] == key["id"]
    assert "keys are off" in state
    assert run("make", "two")[1]
    assert "keys are on" in run("list")[1]


def test_secrets_that_are_none(session: Session) -> None:
    _, secret = keys.make(session, "cli", "one", ["infer"])
    _, other = keys.make(session, "cli", "two", ["infer"])
    swapped = "-".join([*secret.split("-")[:3], other.split("-", 3)[3]])
    changed = secret[:-1] + ("a" if secret[-1] != "a" else "b")
    for wrong in ["", "sk-none", swapped, changed, secret + "a", secret[:-1], secret + "\n", "é"]:
        assert keys.known(session, wrong) is None
    assert keys.known(session, secret) is not None


def test_scopes() -> None:
    assert Key("k", "n", frozenset({"infer"})).may("infer")
    assert not Key("k", "n", frozenset({"infer", "tune"})).may("admin")
    assert Key("k", "n", frozenset({"admin"})).may("tune")


@pytest.mark.parametrize(
    ("scopes", "limit", "code", "values"),
    [
        (["infre"], None, "unknown_scope", {"scope": "infre"}),
        ([], None, "no_scope", {}),
        (["infer"], 0, "not_positive", {"value": 0}),
    ],
)
def test_keys_that_cannot_be_made(
    session: Session, scopes: list[str], limit: int | None, code: str, values: dict[str, Any]
) -> None:
    with refused(code, **values):
        keys.make(session, "cli", "n", scopes, tokens=limit)
    with refused("unknown_key_id", key="key_1"):
        keys.revoke(session, "cli", "key_1")


def test_keys_that_cannot_be_of_a_project(session: Session) -> None:
    admin, _ = keys.make(session, "cli", "n", ["admin"])
    with refused("admin_of_project", key=admin.id):
        keys.restrict_to_project(session, "cli", admin.id, "team")
    key, _ = keys.make(session, "cli", "n", ["infer"])
    for name in ("", "x" * 65):
        with refused("bad_name", key="project", value=name):
            keys.restrict_to_project(session, "cli", key.id, name)
    with refused("unknown_key_id", key="key_1"):
        keys.restrict_to_project(session, "cli", "key_1", "team")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_requests_a_minute_by_hand() -> None:
    clock = Clock()
    limiter, key = Limiter(clock), Key("k", "n", frozenset(), requests=3)
    left = [limiter.admit(key)["x-ratelimit-remaining-requests"] for _ in range(3)]
    assert left == ["2", "1", "0"]
    clock.now = 5.0  # a quarter of a request has come back: 3 a minute are one in 20 s
    with pytest.raises(ApiError) as caught:
        limiter.admit(key)
    error = caught.value
    assert (error.status, error.code, error.kind) == (429, "rate_limit_exceeded", "requests")
    assert error.headers == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "55s",
        "retry-after": "15",
        "retry-after-ms": "15000",
    }
    clock.now = 20.0
    assert limiter.admit(key)["x-ratelimit-reset-requests"] == "1m0s"
    other = Key("other", "n", frozenset(), requests=3)
    assert limiter.admit(other)["x-ratelimit-remaining-requests"] == "2"
    assert limiter.admit(Key("free", "n", frozenset())) == {}


def test_tokens_are_taken_when_they_are_known() -> None:
    clock = Clock()
    limiter, key = Limiter(clock), Key("k", "n", frozenset(), tokens=600)
    assert limiter.admit(key)["x-ratelimit-remaining-tokens"] == "600"
    limiter.spend(key, 900)
    with pytest.raises(ApiError) as caught:
        limiter.admit(key)
    assert caught.value.kind == "tokens"
    assert caught.value.headers["retry-after"] == "31"  # 301 tokens at 10 a second
    clock.now = 31.0
    assert limiter.admit(key)["x-ratelimit-remaining-tokens"] == "10"
