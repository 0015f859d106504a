"""The whole of one run without Burnish's abstractions: LoRA, SFT, base against tuned.

    python recipes/minimal.py MODEL_FOLDER ROWS.jsonl [STEPS]

Rows are {"text": ..., "label": ...}. It takes the steps of `burnish.training.loop.Loop` one by
one, the plain way: every row in full, one forward pass each. A test holds both equal.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH, RATE, CLIP, WARMUP = 8, 1e-3, 1.0, 0.05


def render(tokenizer: Any, text: str, label: str) -> tuple[list[int], int]:
    """Tokens of the conversation up to the stop token, and where the answer begins."""
    question = [{"role": "user", "content": text}]
    before = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    start = len(tokenizer(before, add_special_tokens=False)["input_ids"])
    whole = tokenizer(before + label, add_special_tokens=False)["input_ids"]
    return [*whole, tokenizer.eos_token_id], start


def row_loss(model: Any, tokens: list[int], start: int) -> torch.Tensor:
    """Summed negative log-likelihood (nats) of the answer, stop token included."""
    logits = model(input_ids=torch.tensor([tokens])).logits[0, start - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[start:]), reduction="sum")


def rate_at(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    warmup = round(WARMUP * steps)
    if step < warmup:
        return RATE * (step + 1) / (warmup + 1)
    return RATE * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(model: Any, rows: list[tuple[list[int], int]], steps: int) -> list[float]:
    """The loss of each step; the rows are taken in order, `BATCH` a step."""
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=RATE, weight_decay=0.0, fused=True)
    losses = []
    model.train()
    for step in range(steps):
        at = step * BATCH % len(rows)
        batch = rows[at : at + BATCH]
        learnt = sum(len(tokens) - start for tokens, start in batch)
        losses.append(0.0)
        for tokens, start in batch:
            loss = row_loss(model, tokens, start) / learnt
            loss.backward()
            losses[-1] += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(learning, CLIP)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return losses


@torch.no_grad()
def accuracy(model: Any, rows: list[tuple[list[int], int]]) -> float:
    """Share of rows whose every answer token is the likeliest one: greedy exact match."""
    model.eval()
    right = 0
    for tokens, start in rows:
        logits = model(input_ids=torch.tensor([tokens])).logits[0, start - 1 : -1]
        right += int((logits.argmax(-1) == torch.tensor(tokens[start:])).all())
    return right / len(rows)


def main(folder: str, path: str, steps: int = 60) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(0)
    model = get_peft_model(
        model,
        LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    order = torch.randperm(len(lines), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [render(tokenizer, lines[i]["text"], lines[i]["label"]) for i in order]
    test, learnt = rows[: len(rows) // 4], rows[len(rows) // 4 :]
    with model.disable_adapter():
        base = accuracy(model, test)
    losses = train(model, learnt, steps)
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    tuned = accuracy(model, test)
    print(f"accuracy on {len(test)} held-out rows: base {base:.1%}, tuned {tuned:.1%}")
    model.save_pretrained("adapter")
    print(
        "the adapter is in adapter/; whether it may be released takes a general suite: burnish run"
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
