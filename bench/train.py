"""Training speed and memory against TRL's SFTTrainer: same model, rows, LoRA, batches and steps.

    python bench/train.py [--repeats 3] [--steps 20]

Each run is a process of its own, one after the other, so that peak memory is each one's own. TRL
gets the tokens and the loss mask that Burnish learns from, in the same order, so that both do the
same work and the losses can be compared step by step. Prints medians and writes nothing.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RECIPE = Path(__file__).parents[1] / "recipes" / "support-routing" / "recipe.yaml"
BATCH = 8
RATE = 1e-3


def prepared_batches(steps: int) -> list[list[Any]]:
    """The rows of the first steps, as the loop would take them."""
    from burnish.data.load import load
    from burnish.data.render import render_all
    from burnish.models.branches import Row
    from burnish.models.load import load_tokenizer
    from burnish.models.sources import resolve
    from burnish.recipe import load_recipe
    from burnish.training.batches import Batches

    recipe = load_recipe(RECIPE)
    examples = load(recipe.data, recipe.seed).train
    rendered, _ = render_all(examples, load_tokenizer(resolve(recipe.model)), None)
    rows = [Row(row.tokens, row.weights) for row in rendered]
    batches = Batches(rows, BATCH, 1, 10, recipe.seed)
    # The last batch of an epoch is short; TRL would fill it up, so it is left out for both.
    full = (batches.step(number)[0] for number in range(batches.steps))
    return [batch for batch in full if len(batch) == BATCH][:steps]


def model_with_lora() -> Any:
    from burnish.models.adapt import add_lora
    from burnish.models.load import load_model

    model = load_model("smollm2-135m")
    model.module = add_lora(
        model.module, rank=16, alpha=32, dropout=0.0, target="all-linear", seed=0
    )
    return model


def burnish_run(steps: int) -> dict[str, Any]:
    import torch

    from burnish.training.loop import Loop, Settings
    from burnish.training.objectives import OBJECTIVES

    batches = prepared_batches(steps)

    class Prepared:
        """The same batches for both sides."""

        def __init__(self) -> None:
            self.steps = len(batches)

        def step(self, number: int) -> list[list[Any]]:
            return [batches[number]]

    model = model_with_lora()
    torch.manual_seed(0)
    losses: list[float] = []

    def listen(phase: str, values: dict[str, Any]) -> None:
        if phase == "train":
            losses.append(values["loss"])

    settings = Settings(RATE, schedule="constant", warmup=0, evaluations=0, checkpoints=1)
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(model.module, Prepared(), OBJECTIVES["sft"], settings, [], Path(folder), listen)  # type: ignore[arg-type]
        started = time.perf_counter()
        loop.run()
        seconds = time.perf_counter() - started
    return result(batches, losses, seconds)


def trl_run(steps: int) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    batches = prepared_batches(steps)
    model = model_with_lora()
    rows = [
        {
            "input_ids": list(row.tokens),
            "labels": [t if w else -100 for t, w in zip(row.tokens, row.weights, strict=True)],
        }
        for batch in batches
        for row in batch
    ]

    class InOrder(SFTTrainer):
        """TRL's trainer, the rows in our order."""

        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    class Losses(TrainerCallback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            if logs and "loss" in logs:
                self.seen.append(logs["loss"])

    losses = Losses()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = InOrder(
            model=model.module,
            args=SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=BATCH,
                max_steps=len(batches),
                learning_rate=RATE,
                lr_scheduler_type="constant",
                max_grad_norm=1.0,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                bf16=False,
                use_cpu=not torch.cuda.is_available(),
                gradient_checkpointing=False,
                dataset_kwargs={"skip_prepare_dataset": True},
                disable_tqdm=True,
                max_length=None,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=model.tokenizer,
            callbacks=[losses],
        )
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    return result(batches, losses.seen, seconds)


def result(batches: list[list[Any]], losses: list[float], seconds: float) -> dict[str, Any]:
    """Tokens are those of the rows, padding not counted."""
    tokens = sum(len(row.tokens) for batch in batches for row in batch)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"tokens_per_second": tokens / seconds, "peak_mb": memory, "losses": losses}


SIDES = {"burnish": burnish_run, "trl": trl_run}


def measured(side: str, steps: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(SIDES[given.side](given.steps)))
        return
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for repeat in range(given.repeats):
        for side in SIDES:
            found[side].append(measured(side, given.steps))
            print(
                f"{repeat + 1} {side:8} {found[side][-1]['tokens_per_second']:8.1f} tokens/s",
                flush=True,
            )
    medians = {
        side: {
            key: statistics.median(run[key] for run in runs)
            for key in ("tokens_per_second", "peak_mb")
        }
        for side, runs in found.items()
    }
    ours, theirs = medians["burnish"], medians["trl"]
    pairs = zip(found["burnish"][0]["losses"], found["trl"][0]["losses"], strict=True)
    print("side      tokens/s   peak MB")
    for side, values in medians.items():
        print(f"{side:8} {values['tokens_per_second']:9.1f} {values['peak_mb']:9.0f}")
    print(f"speed   {ours['tokens_per_second'] / theirs['tokens_per_second']:.2f} times TRL's")
    print(f"memory  {ours['peak_mb'] / theirs['peak_mb']:.2f} of TRL's")
    print(
        f"largest loss difference in {given.steps} steps: {max(abs(a - b) for a, b in pairs):.2e}"
    )


if __name__ == "__main__":
    main()
