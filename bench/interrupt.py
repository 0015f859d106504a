"""Kills runs at random moments, continues them, and compares them with a run that nobody stopped.

Each run goes from its rows to its verdict in a process of its own, and is killed by SIGKILL once
or several times: at any time, or while it tries itself out, writes a checkpoint, validates or
evaluates. Wherever it was stopped, it must end with the same weights bit for bit, the same losses
and the same verdict.

    python bench/interrupt.py --kills 50
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file

from burnish.runs.directory import RunDirectory
from burnish.training.loop import is_due

EVALUATIONS, CHECKPOINTS = 5, 8
OBJECTIVES: dict[str, dict[str, Any]] = {
    "sft": {"sft": {"neftune_noise_alpha": 5.0}},
    "dpo": {"dpo": {"beta": 0.2}},
    "grpo": {"grpo": {"num_generations": 4, "max_new_tokens": 8, "num_iterations": 2}},
}
# A reward that differs from answer to answer even where the model writes nonsense.
REWARD = "def variety(answers, examples):\n    return [len(set(a)) / 10 for a in answers]\n"
# One interpreter with everything imported; each run is a fork of it.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["burnish.pipeline.verbs", "burnish.training.loop", "peft"])
_LONGEST = 120.0
_POLL = 0.0005


@dataclass
class Case:
    """One objective's recipe; its runs lie in folders of their own below `folder`."""

    folder: Path
    recipe: Path

    def run(self, name: str) -> Path:
        return self.folder / name / "runs" / "run"

    def spare(self, name: str) -> Path:
        """Where that run's temporary folders lie."""
        return self.folder / name / "tmp"


@dataclass(frozen=True)
class Aim:
    """When to kill: after that share of the events still to come, while the process does that.

    Shares of events and not of seconds, so that the load of the machine moves no kill behind the
    end. `starting` has no events yet: there the share is in seconds.
    """

    share: float
    doing: str


@dataclass
class Outcome:
    """One run: where its kills fell, and how it differs from the one that nobody stopped."""

    phases: list[str] = field(default_factory=list)
    lost: str | None = None
    differences: list[str] = field(default_factory=list)


def make_case(objective: str, model: Path, folder: Path, *, rows: int, epochs: int) -> Case:
    """Rows, a small general suite, a reward and a recipe with dropout, noise and sampling."""
    folder.mkdir(parents=True)
    words = (("tent", "red", "green"), ("parcel", "green", "red"))
    asked = [
        (f"{word} number {i} please", *answers) for i in range(rows) for word, *answers in words
    ]
    lines = [{"text": text, "label": good} for text, good, _ in asked]
    if objective == "dpo":
        lines = [{"prompt": text, "chosen": good, "rejected": bad} for text, good, bad in asked]
    questions = [
        {"question": f"Parcel {i} is", "choices": [" here", " torn"], "answer": i % 2}
        for i in range(16)
    ]
    for name, written in (("rows.jsonl", lines), ("suite.jsonl", questions)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in written))
    (folder / "reward.py").write_text(REWARD)
    own = json.loads(json.dumps(OBJECTIVES[objective]))
    if objective == "grpo":
        own["grpo"]["reward"] = f"{folder / 'reward.py'}:variety"
    values = {
        "name": "run",
        "model": str(model),
        "data": {"train": "rows.jsonl"},
        "objective": objective,
        "lora": {"rank": 4, "dropout": 0.1},
        "training": {
            "epochs": epochs,
            "batch_size": 4,
            "learning_rate": 0.01,
            "evaluations": EVALUATIONS,
            "checkpoints": CHECKPOINTS,
            "early_stopping_patience": 100,
        },
        "evaluate": {
            "target": ["accuracy"],
            "general": str(folder / "suite.jsonl"),
            "max_new_tokens": 4,
        },
        **own,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return Case(folder, folder / "recipe.yaml")


def work(recipe: str, folder: str, resume: bool) -> None:
    """What a process does: one run with caches and temporary folders of its own."""
    import torch

    import burnish

    torch.set_num_threads(1)
    os.environ["BURNISH_CACHE"] = f"{folder}/cache"
    tempfile.tempdir = f"{folder}/tmp"
    burnish.run(recipe, resume=resume, quiet=True, output=f"{folder}/runs")


def straight(case: Case, name: str = "straight") -> float:
    """A run that nobody stops; returns its seconds."""
    warm = PROCESSES.Process(target=time.sleep, args=(0,), daemon=True)
    warm.start()  # the first one waits for all the imports
    warm.join()
    started = time.perf_counter()
    process = _start(case, name)
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"the run without a kill ended with exit code {process.exitcode}")
    return time.perf_counter() - started


def interrupted(case: Case, name: str, aims: Sequence[Aim], chance: random.Random) -> Outcome:
    """A run killed once for each aim that it still reaches, and continued until it is finished."""
    outcome, left = Outcome(), list(aims)
    while True:
        process = _start(case, name)
        run = case.run(name)
        seen = _count(run)
        if left and _reached(process, left.pop(0), _watch(case, name)):
            time.sleep(chance.uniform(0, 0.02))
            process.kill()
            process.join()
            if process.exitcode == 0:  # it was faster
                break
            outcome.phases.append(phase_of(case, name, seen))
            continue
        process.join(_LONGEST)
        if process.exitcode != 0:
            outcome.lost = f"exit code {process.exitcode} after a kill in {outcome.phases[-1:]}"
            process.kill()
            return outcome
        break
    outcome.differences = differences(case.run("straight"), run)
    return outcome


def phase_of(case: Case, name: str, seen: int) -> str:
    """What a killed process was doing; `seen` events were there when it started."""
    run, events = case.run(name), _events(case.run(name))
    if not run.exists():
        return "reading rows"
    state = RunDirectory.open(run).manifest().state
    if state != "training":
        return {"created": "writing rows", "trained": "evaluation"}.get(state, "report")
    if any(case.spare(name).glob("burnish-preflight-*")):
        return "preflight"
    if any(run.glob("checkpoints/.step-*")):
        return "writing a checkpoint"
    if (run / ".adapter.new").exists() or (run / "adapter").exists():
        return "keeping the adapter"
    if len(events) <= seen:
        return "opening the model"
    return "validation" if _validates(events) else "training step"


def differences(expected: Path, found: Path) -> list[str]:
    """What differs between two finished runs, weights by the sha256 of each tensor."""
    ours, theirs = (tensors(path / "adapter") for path in (found, expected))
    differ = [f"weights {key}" for key in theirs if ours.get(key) != theirs[key]]
    steps, losses = zip(*_losses(found), strict=True)
    if list(steps) != list(range(1, len(steps) + 1)):
        differ.append("steps are missing or told twice")
    if (steps, losses) != tuple(zip(*_losses(expected), strict=True)):
        differ.append("losses")
    for name in ("verdict.json", "ledger.json"):
        if (expected / name).read_text() != (found / name).read_text():
            differ.append(name)
    return differ


def tensors(adapter: Path) -> dict[str, str]:
    """The sha256 of each tensor of an adapter."""
    loaded = load_file(adapter / "adapter_model.safetensors")
    return {
        key: hashlib.sha256(value.numpy().tobytes()).hexdigest() for key, value in loaded.items()
    }


def _losses(run: Path) -> list[tuple[int, float]]:
    return [(event["step"], event["loss"]) for event in RunDirectory(run).events("train")]


def _start(case: Case, name: str) -> Any:
    shutil.rmtree(case.spare(name), ignore_errors=True)
    case.spare(name).mkdir(parents=True)
    arguments = (str(case.recipe), str(case.folder / name), case.run(name).exists())
    process = PROCESSES.Process(target=work, args=arguments, daemon=True)
    process.start()
    return process


def _reached(process: Any, aim: Aim, watch: Callable[[Aim, float], bool]) -> bool:
    """Waits until the process is where the aim says; False if it ended before."""
    started = time.perf_counter()
    while process.is_alive() and time.perf_counter() < started + _LONGEST:
        if watch(aim, time.perf_counter() - started):
            return True
        time.sleep(_POLL)
    return False


def _watch(case: Case, name: str) -> Callable[[Aim, float], bool]:
    run, seen = case.run(name), _count(case.run(name))
    wanted = _count(case.run("straight")) - seen

    def watch(aim: Aim, seconds: float) -> bool:
        if aim.doing == "starting":
            return seconds >= aim.share
        if aim.doing == "preflight":
            return any(case.spare(name).glob("burnish-preflight-*"))
        if _count(run) < seen + aim.share * wanted:
            return False
        if aim.doing == "checkpoint":
            return any(run.glob("checkpoints/.step-*"))
        return aim.doing == "any" or _validates(_events(run))

    return watch


def _count(run: Path) -> int:
    path = run / "events.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _events(run: Path) -> list[dict[str, Any]]:
    return RunDirectory(run).events()


def _validates(events: Sequence[dict[str, Any]]) -> bool:
    """Whether the last step is one that is validated, and has not been yet."""
    if not events or events[-1]["phase"] != "train":
        return False
    return is_due(events[-1]["step"], events[-1]["steps"], EVALUATIONS)


def aims(count: int, chance: random.Random) -> list[Aim]:
    """Moments spread over a run; some wait for what takes little time."""
    kinds = {"any": 10, "starting": 3, "preflight": 1, "checkpoint": 4, "validation": 2}
    chosen = chance.choices(list(kinds), weights=list(kinds.values()), k=count)
    return [Aim(chance.random(), doing) for doing in chosen]


def tiny_model(folder: Path) -> Path:
    """A Llama of two layers and a byte-level tokenizer, saved as any model folder is."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), ["<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bare.train_from_iterator(["where is my parcel", "the tent is torn, red or green"], trainer)
    template = (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
        "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare,
        bos_token=special[0],
        eos_token=special[1],
        pad_token=special[1],
        chat_template=template,
        model_max_length=512,
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measure(case: Case, kills: int, chance: random.Random) -> list[Outcome]:
    """Runs of one objective until so many kills have fallen."""
    seconds, outcomes, fallen = straight(case), [], 0
    print(f"{case.folder.name}: {seconds:.1f} s without a kill", flush=True)
    while fallen < kills:
        count = min(chance.randint(1, 3), kills - fallen)
        name = f"killed-{len(outcomes)}"
        outcome = interrupted(case, name, aims(count, chance), chance)
        outcomes.append(outcome)
        fallen += len(outcome.phases)
        if outcome.lost or outcome.differences:  # its folder is kept to be looked at
            print(f"  {case.run(name)}: {outcome.lost or outcome.differences}", flush=True)
        else:
            shutil.rmtree(case.folder / name)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES), help="kill these"
    )
    parser.add_argument("--folder", type=Path, help="where the runs lie; a temporary one if absent")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = given.folder or Path(tempfile.mkdtemp(prefix="burnish-interrupt-"))
    model, chance = tiny_model(folder / "model"), random.Random(given.seed)
    found: dict[str, list[Outcome]] = {}
    for place, objective in enumerate(given.objectives):
        kills = (given.kills + place) // len(given.objectives)
        case = make_case(objective, model, folder / objective, rows=60, epochs=4)
        found[objective] = measure(case, kills, chance)
    print("\n| objective | kills | runs | lost | with differing weights | differing otherwise |")
    print("|---|---:|---:|---:|---:|---:|")
    for objective, outcomes in found.items():
        told = [o.differences for o in outcomes]
        weights = sum(any("weights" in d for d in row) for row in told)
        other = sum(any("weights" not in d for d in row) for row in told)
        kills, lost = (
            sum(len(o.phases) for o in outcomes),
            sum(o.lost is not None for o in outcomes),
        )
        print(f"| {objective} | {kills} | {len(outcomes)} | {lost} | {weights} | {other} |")
    phases = [(name, Counter(p for o in found[name] for p in o.phases)) for name in found]
    print("\n| where the kill fell | " + " | ".join(found) + " |\n|---|" + "---:|" * len(found))
    for phase in sorted({phase for _, counts in phases for phase in counts}):
        print(f"| {phase} | " + " | ".join(str(counts[phase]) for _, counts in phases) + " |")
    if any(o.lost or o.differences for outcomes in found.values() for o in outcomes):
        raise SystemExit("a run was lost or came out otherwise")
    if given.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
