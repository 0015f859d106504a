"""The peers' side of the training bench: TRL's trainers and transformers' Trainer.

They get the tokens, the mask of the loss and the adapter's start that Burnish gets. `default` takes
the rows shuffled; the other sides take the batches of like length that Burnish takes.
"""

import random
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from train_works import ANSWER_TOKENS, ANSWERS, COMPARED, RATE, Work
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from burnish.training.host_memory import peak_memory_mb


def run(work: Work, side: str, steps: int) -> dict[str, Any]:
    """Rate, peak memory and losses."""
    model = work.model()
    items = [item for batch in work.batches(model.tokenizer, steps) for item in batch]
    if side == "default":
        random.Random(0).shuffle(items)
    losses = Losses(COMPARED.get(work.objective, ("", "loss"))[1])
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        options = every_trainer(work, folder, len(items) // work.batch)
        trainer = TRAINERS[work.objective](model, items, options, side)
        trainer.add_callback(losses)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    tokens = sum(item.size for item in items)
    return {
        "tokens_per_second": tokens / seconds,
        "peak_mb": peak_memory_mb(),
        "losses": losses.seen,
    }


def every_trainer(work: Work, folder: str, steps: int) -> dict[str, Any]:
    """Arguments that every trainer takes."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": work.batch,
        "max_steps": steps,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "bf16": torch.cuda.is_available(),
        "use_cpu": not torch.cuda.is_available(),
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }


class Losses(TrainerCallback):
    """What is compared of every step."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.seen: list[float] = []

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        if logs and self.key in logs:
            self.seen.append(float(logs[self.key]))


class InOrder:
    """A trainer that takes rows as they come, and as they are tokenised."""

    train_dataset: Any

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


def sft(model: Any, items: list[Any], options: dict[str, Any], side: str) -> Any:
    class Ordered(InOrder, SFTTrainer):
        pass

    rows = [
        {
            "input_ids": list(row.tokens),
            "labels": [t if w else -100 for t, w in zip(row.tokens, row.weights, strict=True)],
        }
        for row in items
    ]
    config = SFTConfig(**options, max_length=None, padding_free=side == "padding-free")
    return Ordered(
        model=model.module,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=model.tokenizer,
    )


def dpo(model: Any, items: list[Any], options: dict[str, Any], _: str) -> Any:
    class Ordered(InOrder, DPOTrainer):
        pass

    rows = []
    for pair in items:
        prompt = pair.chosen.weights.index(1.0)
        rows.append(
            {
                "prompt_ids": list(pair.chosen.tokens[:prompt]),
                "chosen_ids": list(pair.chosen.tokens[prompt:]),
                "rejected_ids": list(pair.rejected.tokens[prompt:]),
            }
        )
    return Ordered(
        model=model.module,
        args=DPOConfig(**options, max_length=None, beta=0.1),
        train_dataset=Dataset.from_list(rows),
        processing_class=model.tokenizer,
    )


def grpo(model: Any, items: list[Any], options: dict[str, Any], _: str) -> Any:
    """A row an answer; sampling and rewarding are replaced by what is there already."""

    class Ordered(InOrder, GRPOTrainer):
        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            return sampled_batch(inputs, model.tokenizer.pad_token_id)

    rows = [
        {
            "prompt": "",
            "prompt_ids": list(item.prompt),
            "completion_ids": list(row.tokens[len(item.prompt) :]),
            "advantage": advantage,
        }
        for item in items
        for row, advantage in zip(item.rows, item.advantages, strict=True)
    ]
    options["per_device_train_batch_size"] *= ANSWERS
    config = GRPOConfig(
        **options,
        num_generations=ANSWERS,
        steps_per_generation=1,
        max_completion_length=ANSWER_TOKENS,
        beta=0.0,
    )
    return Ordered(
        model=model.module,
        args=config,
        reward_funcs=lambda completions, **_: [0.0 for _ in completions],
        train_dataset=Dataset.from_list(rows),
        processing_class=model.tokenizer,
    )


def sampled_batch(inputs: list[dict[str, Any]], padding: int) -> dict[str, Any]:
    """What TRL's sampling returns: prompts padded at the left, answers at the right."""
    batch: dict[str, Any] = {}
    for name, at_left in (("prompt", True), ("completion", False)):
        rows = [row[f"{name}_ids"] for row in inputs]
        longest = max(map(len, rows))
        fill = [[padding] * (longest - len(row)) for row in rows]
        void = [[0] * len(part) for part in fill]
        ones = [[1] * len(row) for row in rows]
        pairs = [(fill, rows), (void, ones)] if at_left else [(rows, fill), (ones, void)]
        for kind, (first, second) in zip(("ids", "mask"), pairs, strict=True):
            joined = [a + b for a, b in zip(first, second, strict=True)]
            batch[f"{name}_{kind}"] = torch.tensor(joined)
    batch["advantages"] = torch.tensor([row["advantage"] for row in inputs])
    batch["num_items_in_batch"] = batch["completion_mask"].sum()
    return batch


def classify(model: Any, items: list[Any], options: dict[str, Any], _: str) -> Any:
    class Ordered(InOrder, Trainer):
        pass

    numbers = model.module.config.label2id
    rows = [{"input_ids": list(item.tokens), "label": numbers[item.label]} for item in items]
    return Ordered(
        model=model.module,
        args=TrainingArguments(**options),
        train_dataset=Dataset.from_list(rows),
        data_collator=DataCollatorWithPadding(model.tokenizer),
    )


TRAINERS = {"sft": sft, "dpo": dpo, "grpo": grpo, "classify": classify}
