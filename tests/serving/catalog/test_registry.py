"""Bases are loaded when they are asked for, one at a time."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from burnish.serving.catalog.registry import EMBEDDER, ModelRegistry
from burnish.serving.catalog.served_model import ServedModel
from burnish.serving.state.database import Database
from tests.serving.api_refused import api_refused


def test_a_loaded_base_does_not_wait_for_one_that_loads(tmp_path: Path) -> None:
    loads, go_on = threading.Event(), threading.Event()
    opened: list[str] = []

    def load(source: str) -> ServedModel:
        opened.append(source)
        if source == "slow":
            loads.set()
            assert go_on.wait(10)
        engine: Any = SimpleNamespace(close=lambda seconds: None)
        return ServedModel(engine, None, engine, source)

    database: Any = None
    engines = ModelRegistry(database, tmp_path, {"a": "quick", "b": "slow"}, opened=load)
    engines.target("a")
    waiting = [threading.Thread(target=engines.target, args=("b",)) for _ in range(2)]
    for thread in waiting:
        thread.start()
    assert loads.wait(10)
    found: list[ServedModel] = []
    asking = threading.Thread(target=lambda: found.append(engines.target("a")))
    asking.start()
    asking.join(5)
    go_on.set()
    assert [target.fingerprint for target in found] == ["quick"]
    for thread in waiting:
        thread.join()
    assert opened == ["quick", "slow"]


def test_the_encoder_answers_under_each_of_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("burnish.serving.catalog.registry.Embedder", lambda *given: given)
    database = Database(f"sqlite:///{tmp_path / 'state.db'}")
    names = (EMBEDDER, "text-embedding-3-small")
    engines = ModelRegistry(database, tmp_path, {"a": "quick"}, embedders=names)
    assert {engines.embedder(name) for name in names} == {(EMBEDDER, "auto")}
    assert [model.id for model in engines.listed()] == ["a", *names]
    assert all(engines.is_base(name) for name in names)
    for name in names:
        with api_refused("model_not_generative", name, param="model"):
            engines.target(name)
    with api_refused("model_not_embedding", "a", EMBEDDER, param="model"):
        engines.embedder("a")
    database.close()
