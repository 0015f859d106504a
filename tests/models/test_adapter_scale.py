"""Scale 0 is the base, scale 1 what was learnt, and between them lies what PEFT would say."""

import copy
from pathlib import Path

import pytest
import torch
from peft.tuners.lora.layer import LoraLayer

from burnish.errors import ModelError
from burnish.models.adapt import add_lora, save_weights
from burnish.models.adapter_scale import AdapterScale, is_scalable
from burnish.models.load import load_model
from burnish.models.weight_snapshot import WeightSnapshot
from tests.models.test_adapt import METHOD_ROWS, WHOLE, hidden, llama, moved
from tests.refused import refused

SCALABLE = [row for row in METHOD_ROWS if row != "prefix"]


def scaled(row: str) -> tuple[object, AdapterScale]:
    model = moved(row)
    if METHOD_ROWS[row][0] not in WHOLE:
        return model, AdapterScale(model)
    kept = WeightSnapshot(list(llama().parameters()))
    kept._pairs = [
        (parameter, before)
        for parameter, (_, before) in zip(model.parameters(), kept.pairs, strict=True)
    ]
    kept.drop_unchanged()
    return model, AdapterScale(model, kept)


@pytest.mark.parametrize("row", SCALABLE)
def test_scale_0_is_the_base(row: str) -> None:
    model, scale = scaled(row)
    with scale.at(0.0):
        torch.testing.assert_close(hidden(model), hidden(llama()), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(hidden(model), hidden(llama()), atol=1e-3)


@pytest.mark.parametrize("row", SCALABLE)
def test_scale_1_is_what_was_learnt_bit_for_bit(row: str) -> None:
    model, scale = scaled(row)
    before = hidden(model)
    for step in (0.3, 1.25, 0.0):
        with scale.at(step):
            assert not torch.equal(hidden(model), before)
    assert torch.equal(hidden(model), before)


@pytest.mark.parametrize("row", ["lora", "rslora"])
@pytest.mark.parametrize("share", [0.5, 1.25])
def test_a_part_of_lora_is_pefts_own_scale(row: str, share: float) -> None:
    model, scale = scaled(row)
    other = copy.deepcopy(model)
    for module in other.modules():  # type: ignore[attr-defined]
        if isinstance(module, LoraLayer):
            module.set_scale("default", share)
    with scale.at(share):
        torch.testing.assert_close(hidden(model), hidden(other), atol=1e-5, rtol=1e-5)


def test_half_of_wholly_tuned_weights_is_the_mean() -> None:
    model, scale = scaled("full")
    learnt = {name: p.detach().clone() for name, p in model.named_parameters()}  # type: ignore[attr-defined]
    with scale.at(0.5):
        for name, base in llama().named_parameters():
            found = dict(model.named_parameters())[name]  # type: ignore[attr-defined]
            torch.testing.assert_close(found, (learnt[name] + base) / 2)


def test_a_slope_takes_from_the_early_layers() -> None:
    model, scale = scaled("lora")
    names = dict(model.named_parameters())  # type: ignore[attr-defined]
    first, last = (
        names[f"base_model.model.model.layers.{layer}.mlp.up_proj.lora_B.default.weight"]
        for layer in (0, 1)
    )
    before = first.detach().clone(), last.detach().clone()
    with scale.at(0.8, slope=0.5):
        torch.testing.assert_close(first, 0.4 * before[0])
        torch.testing.assert_close(last, 0.8 * before[1])


def test_a_prefix_has_no_half() -> None:
    model = moved("prefix")
    assert not is_scalable(model)
    with refused("not_scalable", ModelError, method="prefix"):
        AdapterScale(model)


def test_weights_that_changed_need_the_base() -> None:
    with refused("base_not_kept", ModelError):
        AdapterScale(moved("full"))


def test_a_model_at_a_scale_is_known_by_it(tiny_folder: Path, tmp_path: Path) -> None:
    model = load_model(str(tiny_folder), "cpu")
    with torch.no_grad():
        model.module = add_lora(model.module, rank=4, alpha=8, seed=0)
        for name, parameter in model.module.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    save_weights(model.module, tmp_path)
    model.use_weights(tmp_path)
    texts = ["where is my parcel"]
    known = {model.fingerprint}
    with model.base():
        base, known = model.nll(texts), known | {model.fingerprint}
    for scale, slope in ((0.0, 0.0), (0.5, 0.0), (0.5, 0.5)):
        with model.at_scale(scale, slope):
            assert model.fingerprint not in known
            known.add(model.fingerprint)
            assert (abs(model.nll(texts)[0].nats - base[0].nats) < 1e-3) is (scale == 0)
    assert len(known) == 5
