"""Which weights LoRA adapts: each of them learns, is saved and merges; the others are named."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from burnish.errors import ModelError
from burnish.models.adapt import add_lora, load_adapter, merge_adapters, save_weights
from burnish.models.lora_targets import (
    DROPOUT,
    INDEXER,
    READ_DIRECTLY,
    ROUTER,
    SHARED,
    lora_targets,
)
from tests.models.families import tiny_model
from tests.refused import refused

TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10, 33, 44, 55, 66]])
SIZE = 100
# One of each way in which targets differ: by family, what is left and why.
LEFT = {
    "gpt2": {},
    "gpt_oss": {"mlp.router": ROUTER},
    "llama4_text": {"feed_forward.router": ROUTER},
    "phimoe": {"mlp.router": ROUTER},
    "dbrx": {
        "ffn.router.layer": ROUTER,
        **{f"ffn.experts.mlp.{name}": READ_DIRECTLY for name in ("w1", "v1", "w2")},
    },
    "mamba2": {"mixer.out_proj": READ_DIRECTLY},
    "nemotron_h": {"mixer.out_proj": READ_DIRECTLY, "mixer.gate": ROUTER},
    "falcon_h1": {"mamba.out_proj": READ_DIRECTLY},
    "deepseek_v3": {"mlp.gate": ROUTER},
    "qwen3_next": {"mlp.gate": ROUTER, "mlp.shared_expert_gate": ROUTER},
    "jetmoe": {"mlp.router.layer": ROUTER, "self_attention.experts.router.layer": ROUTER},
}
FUSED = {
    "gpt_oss": {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"},
    "llama4_text": {"feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj"},
    "phimoe": {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"},
    "nemotron_h": {"mixer.experts.up_proj", "mixer.experts.down_proj"},
    "qwen3_next": {
        "mlp.experts.gate_up_proj",
        "mlp.experts.down_proj",
        *(f"mlp.shared_expert.{name}_proj.weight" for name in ("gate", "up", "down")),
    },
    "jetmoe": {
        *(f"mlp.{end}put_linear.weight" for end in ("in", "out")),
        *(f"self_attention.experts.{end}put_linear.weight" for end in ("in", "out")),
    },
}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=TOKENS).logits
    return found


def moved(family: str) -> Any:
    """The family's model with an adapter that is away from its start."""
    model = add_lora(tiny_model(family, SIZE), rank=4, alpha=8, seed=0).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("family", LEFT)
def test_what_is_left_is_named_with_its_reason(family: str) -> None:
    targets = lora_targets(tiny_model(family, SIZE))
    assert dict(targets.left) == LEFT[family]
    assert FUSED.get(family, set()) <= set(targets.parameters)
    assert targets.notable is bool(LEFT[family] or targets.parameters)
    assert all(name in targets.sentence() for name in LEFT[family])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("family", LEFT)
def test_all_that_it_adapts_learns_and_merges(family: str, tmp_path: Path) -> None:
    """Plain PEFT reads the saved adapter; the merged model, saved and loaded, says the same."""
    model = moved(family)
    model(input_ids=TOKENS).logits.logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
    expected = logits(model)
    assert not torch.allclose(expected, logits(tiny_model(family, SIZE)), atol=1e-3)
    save_weights(model, tmp_path / "adapter")
    reopened = load_adapter(tiny_model(family, SIZE), tmp_path / "adapter").eval()
    assert torch.equal(logits(reopened), expected)
    plain = PeftModel.from_pretrained(tiny_model(family, SIZE), str(tmp_path / "adapter")).eval()
    assert torch.equal(logits(plain), expected)
    merged = merge_adapters(reopened)
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(again), expected, atol=1e-4, rtol=1e-4)


def test_a_weight_that_layers_share_is_left() -> None:
    """Two adapters on one weight could not both be merged into it."""
    left = lora_targets(tiny_model("zamba2", SIZE)).left
    assert left["shared_transformer.self_attn.q_proj"] == SHARED
    assert left["mamba.out_proj"] == READ_DIRECTLY
    one = tiny_model("zamba2", SIZE, layers_block_type=["mamba", "mamba", "hybrid", "mamba"])
    assert SHARED not in lora_targets(one).left.values()


def test_an_indexer_is_left() -> None:
    left = lora_targets(tiny_model("deepseek_v32", SIZE)).left
    assert {path for path, why in left.items() if why == INDEXER} == {
        f"self_attn.indexer.{name}" for name in ("wq_b", "wk", "weights_proj")
    }


def test_with_dropout_the_fused_experts_are_left() -> None:
    targets = lora_targets(tiny_model("gpt_oss", SIZE), dropout=0.1)
    assert not targets.parameters
    assert targets.left["mlp.experts.down_proj"] == DROPOUT
    add_lora(tiny_model("gpt_oss", SIZE), rank=4, alpha=8, seed=0, dropout=0.1)
    with refused("no_target_layers", ModelError, target="mlp"):
        lora_targets(tiny_model("gpt_oss", SIZE), "mlp", dropout=0.1)


def test_a_second_adapter_finds_the_same_targets() -> None:
    model = tiny_model("qwen3_next", SIZE)
    alone = lora_targets(model)
    add_lora(model, rank=4, alpha=8, seed=0)
    assert lora_targets(model) == alone
