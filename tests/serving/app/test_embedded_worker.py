"""The worker that a server starts beside itself works as the server was told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from burnish.cli.options import engine_of, settings_of
from burnish.errors import RecipeError
from burnish.serving.app import listen
from burnish.serving.jobs.process import LOCAL, PATIENCE
from tests.refused import refused


def test_values_and_engine_are_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Sequence[str]] = []

    class Started:
        def __init__(self, command: Sequence[str], **_: Any) -> None:
            started.append(command)

        def poll(self) -> None: ...

        def terminate(self) -> None: ...

        def wait(self, seconds: float) -> None:
            assert seconds > PATIENCE, "it is killed before its job is"

    monkeypatch.setattr(listen.subprocess, "Popen", Started)
    given = ["training.workers=2", "evaluate.general=null"]
    settings = settings_of(tmp_path, None, given, "acme-corp")
    for engine in (LOCAL, ("burnish.serving.jobs.run_on_ray", "gpu:6379")):
        with listen.embedded_worker(settings, None, engine):
            pass
    plain, ray = (" ".join(command) for command in started)
    assert "--organization acme-corp" in plain
    assert "--set training.workers=2 --set evaluate.general=null --parent" in plain
    assert "--engine ray --address gpu:6379 --parent" in ray


def test_the_encoder_is_no_base_that_learns(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, ["smollm2-135m", "all-minilm-l6-v2"])
    assert dict(settings.models) == {"smollm2-135m": "smollm2-135m"}


def test_the_encoder_may_have_other_names(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, ["text-embedding-3-small=all-minilm-l6-v2"])
    assert settings.embedders == ("all-minilm-l6-v2", "text-embedding-3-small")
    assert settings.models == settings_of(tmp_path, None).models
    names = ["tiny=smollm2-135m", "ada=all-minilm-l6-v2"]
    assert dict(settings_of(tmp_path, names).models) == {"tiny": "smollm2-135m"}


def test_a_wrong_value_is_said_before_anything_starts(tmp_path: Path) -> None:
    with refused("out_of_range", RecipeError, key="training.workers", value=0):
        settings_of(tmp_path, None, ["training.workers=0"])
    with refused("unknown_key", RecipeError, key="training.worker", closest="training.workers"):
        settings_of(tmp_path, None, ["training.worker=2"])
    with refused("bad_name", key="organization", value="a:b"):
        settings_of(tmp_path, None, organization="a:b")
    with refused("name_reserved", name="all-minilm-l6-v2", source="smollm2-135m"):
        settings_of(tmp_path, ["all-minilm-l6-v2=smollm2-135m"])
    with refused("option_unused", option="--address", value="gpu:6379"):
        engine_of("local", "gpu:6379")
