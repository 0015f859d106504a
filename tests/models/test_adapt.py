"""Every method by its truths: what learns, loss falls, saved = reloaded, base = base, resumed."""

import copy
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from burnish.errors import ModelError
from burnish.models.adapt import (
    METHODS,
    add_bottleneck,
    add_lora,
    add_prefix,
    load_adapter,
    load_weights,
    save_weights,
)
from burnish.models.branches import Network, Row, branch_logprobs
from burnish.models.language_model import LanguageModel
from burnish.models.packing import packed_states
from burnish.training.batches import Batches
from burnish.training.loop import Loop, Settings
from burnish.training.objectives.sft import Sft
from tests.refused import refused

LORA = {"rank": 4, "alpha": 8}
WHOLE = ("full", "last-n")
# row: method, its options, a learning rate at which the tiny model learns
METHOD_ROWS: dict[str, tuple[str, dict[str, Any], float]] = {
    "full": ("full", {}, 3e-3),
    "last-n": ("last-n", {"layers": 1}, 3e-3),
    "lora": ("lora", LORA, 3e-2),
    "rslora": ("other tool", {"use_rslora": True}, 3e-2),
    "dora": ("other tool", {"use_dora": True}, 3e-2),
    "lora on attention": ("lora", LORA | {"target_modules": "attention"}, 3e-2),
    "lora on mlp": ("lora", LORA | {"target_modules": "mlp"}, 3e-2),
    "lora on a layer": ("other tool", {"layers_to_transform": [1]}, 3e-2),
    "ia3": ("ia3", {}, 1e-1),
    "prefix": ("prefix", {"num_virtual_tokens": 4}, 1e-1),
    "houlsby": ("bottleneck", {"size": 8, "after": "both"}, 3e-2),
    "pfeiffer": ("bottleneck", {"size": 8, "after": "mlp"}, 3e-2),
}
ADAPTERS = [row for row in METHOD_ROWS if METHOD_ROWS[row][0] not in WHOLE]
IN_PEFT = [row for row in METHOD_ROWS if METHOD_ROWS[row][0] not in (*WHOLE, "bottleneck")]
LORAS = [row for row in METHOD_ROWS if METHOD_ROWS[row][0] in ("lora", "other tool")]
TOKENS = torch.tensor([[1, 5, 9, 33, 2, 17]])


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def adapted(row: str, seed: int = 0) -> Any:
    return made(row, llama(), seed)


def made(row: str, model: Any, seed: int = 0) -> Any:
    """The row's method on a model; adapters of other tools may have what no recipe asks for."""
    method, options, _ = METHOD_ROWS[row]
    if method != "other tool":
        return METHODS[method](model, seed=seed, **options)
    torch.manual_seed(seed)
    maps = [name for part in LAYER_MAPS.values() for name in part]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=maps, task_type="CAUSAL_LM", **options)
    with warnings.catch_warnings(action="ignore"):
        return get_peft_model(model, config)


def moved(row: str) -> Any:
    """Adapted, and away from its start in all that learns."""
    model = adapted(row)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def hidden(model: Any) -> torch.Tensor:
    """What the house computes with: the backbone behind `Network.start`."""
    network = Network(model)
    with torch.no_grad():
        return network.extend(network.start(), TOKENS.tolist(), [0], left=False)[1]


def rows(count: int = 24) -> list[Row]:
    chance = torch.Generator().manual_seed(3)
    drawn = []
    for index in range(count):
        tokens = [1, 2, 3, *torch.randint(4, 61, (4 + index % 5,), generator=chance).tolist()]
        drawn.append(Row(tokens, [0.0] * 4 + [1.0] * (len(tokens) - 4)))
    return drawn


def loop(folder: Path, row: str, epochs: int, model: Any = None) -> tuple[Loop, list[float]]:
    losses: list[float] = []
    training = Loop(
        model or adapted(row),
        Batches({"train": rows()}, 4, 1, epochs, 0),
        Sft(),
        Settings(METHOD_ROWS[row][2], evaluations=2),
        {"validation": rows(6)},
        folder,
        lambda phase, values: losses.append(values["loss"]) if phase == "train" else None,
    )
    return training, losses


def learning(model: Any) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


LAYER_MAPS = {"self_attn": ["q_proj", "k_proj", "v_proj", "o_proj"]}
LAYER_MAPS["mlp"] = ["gate_proj", "up_proj", "down_proj"]
LORA_PART = "base_model.model.model.layers.{}.{}.{}.{}.default{}"


def expected_names(row: str) -> set[str]:
    """The names of all that may learn, written down by hand."""
    plain = {name for name, _ in llama().named_parameters()}
    both = range(2)
    if row == "full":
        return plain
    if row == "last-n":
        return {name for name in plain if name.startswith("model.layers.1.")}
    if row == "prefix":
        return {"prompt_encoder.default.embedding.weight"}
    if row == "ia3":
        names = [("self_attn", "k_proj"), ("self_attn", "v_proj"), ("mlp", "down_proj")]
        return {LORA_PART.format(i, p, m, "ia3_l", "") for i in both for p, m in names}
    if row in ("houlsby", "pfeiffer"):
        places = ["mlp/down_proj"] + (["self_attn/o_proj"] if row == "houlsby" else [])
        return {
            f"adapters.{i}:{place}.{which}.{kind}"
            for i, place, which, kind in itertools.product(
                both, places, ("down", "up"), ("weight", "bias")
            )
        }
    parts = {"lora on attention": ["self_attn"], "lora on mlp": ["mlp"]}.get(row, LAYER_MAPS)
    layers = [1] if row == "lora on a layer" else both
    kinds = [("lora_A", ".weight"), ("lora_B", ".weight")]
    kinds += [("lora_magnitude_vector", ".weight")] if row == "dora" else []
    return {
        LORA_PART.format(i, part, name, kind, end)
        for i in layers
        for part in parts
        for name in LAYER_MAPS[part]
        for kind, end in kinds
    }


@pytest.mark.parametrize("row", METHOD_ROWS)
def test_only_the_intended_parameters_learn(row: str) -> None:
    assert set(learning(adapted(row))) == expected_names(row)


@pytest.mark.parametrize("row", [row for row in METHOD_ROWS if row != "prefix"])
def test_it_starts_as_the_base(row: str) -> None:
    """A prefix cannot: whatever it holds is attended to."""
    torch.testing.assert_close(hidden(adapted(row)), hidden(llama()))


@pytest.mark.parametrize("row", METHOD_ROWS)
def test_loss_falls(row: str, tmp_path: Path) -> None:
    made, losses = loop(tmp_path, row, epochs=12)
    before = {name: p.detach().clone() for name, p in made.model.named_parameters()}
    made.run()
    assert sum(losses[-6:]) < 0.93 * sum(losses[:6])
    for name, parameter in made.model.named_parameters():
        assert parameter.requires_grad or torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("row", METHOD_ROWS)
def test_saved_and_reloaded_is_equal(row: str, tmp_path: Path) -> None:
    model = moved(row)
    save_weights(model, tmp_path)
    if METHOD_ROWS[row][0] in WHOLE:
        again: Any = llama()
        load_weights(again, tmp_path)
    else:
        again = load_adapter(llama(), tmp_path)
        assert not learning(again)
    assert not torch.allclose(hidden(model), hidden(llama()), atol=1e-3)
    assert torch.equal(hidden(again.eval()), hidden(model))


@pytest.mark.parametrize("row", ADAPTERS)
def test_base_is_exactly_the_base(row: str) -> None:
    model = moved(row)
    network = Network(model)
    before, learns = hidden(model), set(learning(model))
    with network.base():
        assert torch.equal(hidden(model), hidden(llama()))
    assert torch.equal(hidden(model), before)
    assert set(learning(model)) == learns


@pytest.mark.parametrize("row", METHOD_ROWS)
def test_a_tuned_model_steps_back_to_its_base(row: str) -> None:
    """A LanguageModel keeps what a whole method or a merge changes in place."""
    model = LanguageModel(llama(), None, name="tiny", source_sha256="0")  # type: ignore[arg-type]
    with model.keeping_base():
        model.module = made(row, model.module).eval()
        with torch.no_grad():
            for parameter in learning(model.module).values():
                parameter.add_(0.05)
    tuned = hidden(model.module)
    with model.base():
        assert torch.equal(hidden(model.module), hidden(llama()))
    assert torch.equal(hidden(model.module), tuned)
    assert not torch.equal(tuned, hidden(llama()))


@pytest.mark.parametrize("row", METHOD_ROWS)
def test_resumed_is_bit_identical(row: str, tmp_path: Path) -> None:
    straight, _ = loop(tmp_path / "straight", row, epochs=2)
    straight.run()
    broken, _ = loop(tmp_path / "broken", row, epochs=2)
    original = broken.listen

    def stop(phase: str, values: dict[str, Any]) -> None:
        original(phase, values)
        if phase == "train" and values["step"] == 8:
            raise KeyboardInterrupt

    broken.listen = stop
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    again, losses = loop(tmp_path / "broken", row, epochs=2, model=adapted(row, seed=9))
    again.run(resume=True)
    assert len(losses) < 12
    for name, parameter in learning(straight.model).items():
        assert torch.equal(learning(again.model)[name], parameter), name


@pytest.mark.parametrize("row", [*LORAS, "ia3"])
def test_merged_equals_the_adapter(row: str) -> None:
    model = moved(row)
    expected = hidden(model)
    merged = copy.deepcopy(model).merge_and_unload()
    torch.testing.assert_close(hidden(merged), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("row", IN_PEFT)
def test_plain_peft_loads_the_folder(row: str, tmp_path: Path) -> None:
    model = moved(row)
    save_weights(model, tmp_path)
    plain = PeftModel.from_pretrained(llama(), str(tmp_path)).eval()
    with torch.no_grad():
        logits = plain(input_ids=TOKENS).logits
    found = Network(model).logits(hidden(model)[0])
    torch.testing.assert_close(found, logits[0], atol=1e-5, rtol=1e-5)


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    scalings = {
        row: adapted(row).base_model.model.model.layers[0].mlp.up_proj.scaling["default"]
        for row in ("lora", "rslora")
    }
    assert scalings == {"lora": 8 / 4, "rslora": 8 / 4**0.5}


def gemma() -> Gemma3ForCausalLM:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"],
        pad_token_id=0,
    )
    return Gemma3ForCausalLM(config).eval()


@pytest.mark.parametrize("family", [llama, gemma])
@pytest.mark.parametrize("trunk", [0, 5])
def test_prefix_equals_plain_peft_with_gradients(family: Callable[[], Any], trunk: int) -> None:
    """Grouped-query and multi-query heads, with and without a trunk of tokens behind the prefix."""
    model = add_prefix(family(), seed=0, num_virtual_tokens=3)
    start = [7, 3, 8, 2, 9][:trunk]
    batch = [
        Row([*start, *tail], [0.0] * max(1, trunk) + [1.0] * (len(tail) - (trunk == 0)))
        for tail in ([4, 5, 6], [11, 12, 13, 14, 15], [21, 22])
    ]
    weight = model.prompt_encoder["default"].embedding.weight
    plain = torch.zeros(())
    for row in batch:
        tokens = torch.tensor([list(row.tokens)])
        logprobs = model(input_ids=tokens).logits[0, :-1].log_softmax(-1)
        picked = logprobs.gather(1, tokens[0, 1:, None])[:, 0]
        plain = plain - (picked * torch.tensor(list(row.weights[1:]))).sum()
    plain.backward()
    expected, weight.grad = weight.grad.clone(), None
    found = branch_logprobs(Network(model), batch)
    loss = -(found.values_N * found.weights_N).sum()
    loss.backward()
    torch.testing.assert_close(loss, plain, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(weight.grad, expected, atol=1e-5, rtol=1e-4)
    assert expected.abs().max() > 1e-3
    packed = packed_states(Network(model), batch)
    values = Network(model).logprobs(packed.hidden_N_H, packed.targets_N)
    torch.testing.assert_close(-(values * packed.weights_N).sum(), plain, atol=1e-4, rtol=1e-5)


def test_prefix_starts_as_real_tokens() -> None:
    """Its first place is one of the 61 tokens' keys at the first position."""
    model = add_prefix(llama(), seed=0, num_virtual_tokens=3)
    plain = llama()
    cache = Network(model).start().cache
    assert cache is not None
    firsts = (
        Network(plain)
        .extend(Network(plain).start(), [[token] for token in range(61)], [0] * 61, left=True)[0]
        .cache
    )
    assert firsts is not None
    gaps = (firsts.layers[1].keys[:, :, 0] - cache.layers[1].keys[0, :, 0]).abs().amax((1, 2))
    assert gaps.min() < 1e-6


def bert() -> Any:
    torch.manual_seed(0)
    return BertModel(
        BertConfig(
            vocab_size=61,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
    ).eval()


def distilbert() -> Any:
    torch.manual_seed(0)
    return DistilBertModel(
        DistilBertConfig(vocab_size=61, dim=32, hidden_dim=48, n_layers=2, n_heads=4)
    ).eval()


def gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4)).eval()


BERT_ATTENTION = {"attention.self.query", "attention.self.key", "attention.self.value"}
BERT_ATTENTION |= {"attention.output.dense"}
BERT_MLP = {"intermediate.dense", "output.dense"}
DISTIL_ATTENTION = {f"attention.{name}_lin" for name in ("q", "k", "v", "out")}
DISTIL_MLP = {"ffn.lin1", "ffn.lin2"}


@pytest.mark.parametrize(
    ("family", "target", "maps"),
    [
        (bert, "attention", BERT_ATTENTION),
        (bert, "mlp", BERT_MLP),
        (bert, "all-linear", BERT_ATTENTION | BERT_MLP),
        (distilbert, "attention", DISTIL_ATTENTION),
        (distilbert, "mlp", DISTIL_MLP),
        (gpt2, "attention", {"attn.c_attn", "attn.c_proj"}),
    ],
)
def test_lora_finds_the_layers_of_other_families(
    family: Callable[[], Any], target: Any, maps: set[str]
) -> None:
    model = add_lora(family(), seed=0, **LORA, target_modules=target)
    found = {
        name.split(".1.", 1)[1].split(".lora_A")[0]
        for name in learning(model)
        if name.endswith("lora_A.default.weight") and ".1." in name
    }
    assert found == maps


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")  # by IA3
@pytest.mark.parametrize("family", [bert, distilbert, gpt2])
def test_bottleneck_and_ia3_on_other_families(family: Callable[[], Any]) -> None:
    expected = family()(input_ids=TOKENS)[0]
    for method in ("ia3", "bottleneck"):
        options = {"size": 4, "after": "both"} if method == "bottleneck" else {}
        model = METHODS[method](family(), seed=0, **options).eval()
        torch.testing.assert_close(model(input_ids=TOKENS)[0], expected)
        model(input_ids=TOKENS)[0].pow(2).sum().backward()
        assert all(p.grad is not None for p in learning(model).values())


def test_what_a_model_does_not_have_is_a_sentence() -> None:
    with refused("too_many_layers", ModelError, layers=3, available=2):
        METHODS["last-n"](llama(), seed=0, layers=3)
    with refused("no_cache", ModelError, model=type(bert()).__name__):
        add_prefix(bert(), seed=0, num_virtual_tokens=2)


def test_an_adapter_for_another_base_says_what_differs(tmp_path: Path) -> None:
    save_weights(add_lora(llama(), seed=0, **LORA), tmp_path)
    wider = LlamaForCausalLM(LlamaConfig(**{**llama().config.to_dict(), "hidden_size": 64}))
    with refused("wrong_base", ModelError, path=str(tmp_path)) as error:
        load_adapter(wider, tmp_path)
    assert error.value.fields["reason"].startswith("size mismatch for base_model")


def test_bottleneck_for_another_base_is_a_sentence(tmp_path: Path) -> None:
    save_weights(add_bottleneck(llama(), seed=0, size=4, after="mlp"), tmp_path)
    with refused("wrong_base", ModelError, path=str(tmp_path)):
        load_adapter(gpt2(), tmp_path)
