"""Every family of decoders, as a small random model: does it train, score, generate, serve, merge?

    python bench/families.py [--only llama --only gpt_oss] [--seconds 90] [--threads 1]

The models are those of tests/models/families.py with SmolLM2's tokenizer. Each family is tried in
a process of its own with a time limit, so that one crash does not end the table. A cell is `yes`,
the code of the sentence that Burnish gives instead, or the kind of a crash. All comparisons are
with plain forward passes of transformers. Prints a Markdown table and writes nothing.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import burnish
import burnish.pipeline.verbs
from burnish.conversation import Message
from burnish.data.render import render_prompt
from burnish.errors import UserError
from burnish.export.export import export
from burnish.inference.engine import Engine
from burnish.inference.types import GenerationRequest, SamplingSettings
from burnish.models.branches import Network, Row, branch_states
from burnish.models.interface import Choice, Sampling
from burnish.models.language_model import LanguageModel
from burnish.models.load import load_model, load_tokenizer
from burnish.models.registry import resolve
from burnish.recipe.schema import recipe_of_rows
from burnish.runs.directory import RunDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.models.families import FAMILIES, save_family

COLUMNS = ("trains", "trunk exact", "scores", "generates", "serves", "merges", "GGUF", "tokens/s")
# Largest difference of log-probabilities (nats) between two ways to compute them in float32.
TOLERANCE = 2e-3
ANSWER = 12
SYSTEM = "You sort the parcels of a shop. Answer with one colour, and with nothing else at all."
Cells = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="a family; again for more")
    parser.add_argument("--seconds", type=float, default=90, help="time limit of each family")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    names = given.only or list(FAMILIES)
    if unknown := sorted({*names} - {*FAMILIES}):
        parser.error(f"{', '.join(unknown)}: not in tests/models/families.py")
    load_model("smollm2-135m", "cpu")  # imports what every process would import again
    rows = {}
    for index, name in enumerate(names, start=1):
        started = time.perf_counter()
        rows[name] = in_process(name, given.seconds)
        took = time.perf_counter() - started
        print(f"{index}/{len(names)} {name} {took:.0f} s {rows[name]}", file=sys.stderr, flush=True)
    print(table(rows))


def table(rows: dict[str, Cells]) -> str:
    lines = ["| family | kind | " + " | ".join(COLUMNS) + " |", "|---|---|" + "---|" * len(COLUMNS)]
    for name, cells in rows.items():
        values = [cells.get(column, "") for column in COLUMNS]
        lines.append(f"| {name} | {FAMILIES[name].kind} | " + " | ".join(values) + " |")
    counts = [sum(cells.get(column) == "yes" for cells in rows.values()) for column in COLUMNS[:-1]]
    total = " | ".join(f"{count} of {len(rows)}" for count in counts)
    return "\n".join([*lines, f"| yes | | {total} | |"])


def in_process(name: str, seconds: float) -> Cells:
    """The cells that a forked process found until it ended or its time was over."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(name, theirs), daemon=True)
    process.start()
    theirs.close()
    cells: Cells = {}
    end = time.monotonic() + seconds
    why = "crash"
    while True:
        if not ours.poll(max(0.0, end - time.monotonic())):
            why = "over time"
            break
        try:
            cells |= ours.recv()
        except EOFError:  # it ended
            break
    process.kill()
    process.join()
    for column in COLUMNS:
        if column not in cells:
            cells[column], why = why, ""
    return cells


def measure(name: str, out: Connection) -> None:
    """Sends each cell as soon as it is known."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "model"
        save_family(name, load_tokenizer(resolve("smollm2-135m")), folder)
        trained: list[RunDirectory] = []
        steps: dict[str, Callable[[], str]] = {
            "trains": lambda: train(folder, Path(work), trained),
            "trunk exact": lambda: trunk(trained),
            "scores": lambda: score(trained, folder),
            "generates": lambda: generate(trained, folder),
            "serves": lambda: serve(folder, trained),
            "merges": lambda: merge(trained),
            "GGUF": lambda: gguf(trained),
            "tokens/s": lambda: speed(folder),
        }
        for column, step in steps.items():
            out.send({column: attempt(step)})
    out.close()


def attempt(step: Callable[[], str]) -> str:
    try:
        return step()
    except UserError as error:
        return f"`{error.code}`"
    except Exception as error:
        return type(error).__name__


def rows(path: Path) -> Path:
    """42 chat rows behind one system prompt, longer than the families' windows."""
    lines = []
    for i in range(21):
        for word, answer in (("tent", "red"), ("parcel", "green")):
            asked = f"Where does {word} number {i} belong{' please' * (i % 5)}?"
            turns = [("system", SYSTEM), ("user", asked), ("assistant", answer)]
            lines.append({"messages": [{"role": r, "content": c} for r, c in turns]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def train(folder: Path, work: Path, trained: list[RunDirectory]) -> str:
    settings = {
        "name": "run",
        "model": str(folder),
        "output": str(work / "runs"),
        "training.epochs": 1,
        "training.learning_rate": 0.002,
        "evaluate.general": None,
        "evaluate.max_new_tokens": ANSWER,
    }
    trained.append(burnish.run(recipe_of_rows(rows(work / "rows.jsonl"), settings), quiet=True))
    return "yes"


def trunk(trained: Sequence[RunDirectory]) -> str:
    """What the preflight found: the same numbers, or plain passes because the cache cannot."""
    if not trained:
        return "–"
    if not burnish.open_tuned(trained[0]).network.shares_beginnings:
        return "plain passes"
    checks = trained[0].events("preflight")[0]["checks"]
    found = next(check for check in checks if check["name"] == "trunk = plain")
    return "yes" if found["passed"] else str(found["figure"])


def asked() -> list[tuple[Message, ...]]:
    """Prompts of unequal lengths behind one system prompt."""
    words = ("tent", "parcel number seven", "x " * 30 + "tent", "box")
    system = Message("system", SYSTEM)
    return [(system, Message("user", f"Where does the {word} belong?")) for word in words]


@torch.no_grad()
def plain_logits(module: Any, tokens: Sequence[int]) -> torch.Tensor:
    """Logits (T, V) of one sequence in a plain forward pass without a cache."""
    tokens_1_T = torch.tensor([list(tokens)])
    logits: torch.Tensor = module.eval()(input_ids=tokens_1_T, use_cache=False).logits[0].float()
    return logits


def opened(trained: Sequence[RunDirectory], folder: Path) -> LanguageModel:
    return burnish.open_tuned(trained[0]) if trained else load_model(str(folder), "cpu")


def score(trained: Sequence[RunDirectory], folder: Path) -> str:
    model = opened(trained, folder)
    texts = [f"{SYSTEM} The {word} is" for word in ("tent", "parcel with a very long name", "box")]
    choices = (" red", " green and blue", " here")
    found = model.score([Choice(text, choices) for text in texts])
    worst = 0.0
    for text, scores in zip(texts, found, strict=True):
        start = model.tokenizer(text)["input_ids"]
        for choice, ours in zip(choices, scores.logprobs, strict=True):
            tokens = model.tokenizer(text + choice)["input_ids"]
            logprobs = plain_logits(model.module, tokens)[:-1].log_softmax(-1)
            picked = logprobs.gather(1, torch.tensor(tokens[1:])[:, None])[len(start) - 1 :]
            worst = max(worst, abs(float(picked.sum()) - ours))
    return "yes" if worst < TOLERANCE * 5 else f"differs by {worst:.1g}"


def generate(trained: Sequence[RunDirectory], folder: Path) -> str:
    model = opened(trained, folder)
    prompts = asked()
    answers = model.generate(prompts, Sampling(max_new_tokens=ANSWER))
    pairs = [
        (render_prompt(prompt, model.tokenizer), answer.tokens)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return greedy(model.module, pairs)


def greedy(module: Any, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> str:
    """Whether each token of the answers is the likeliest one in a plain pass, or as likely."""
    worst = 0.0
    for prompt, answer in pairs:
        if not answer:  # the first token ended it
            continue
        logprobs = plain_logits(module, [*prompt, *answer])[len(prompt) - 1 : -1].log_softmax(-1)
        picked = logprobs.gather(1, torch.tensor(list(answer))[:, None])[:, 0]
        worst = max(worst, float((logprobs.max(-1).values - picked).max()))
    return "yes" if worst < TOLERANCE else f"differs by {worst:.1g}"


def serve(folder: Path, trained: Sequence[RunDirectory]) -> str:
    """The engine's answers with the base model, and with the run's adapter on it."""
    found = served(load_model(str(folder), "cpu"), None, lambda: load_model(str(folder), "cpu"))
    if found != "yes" or not trained:
        return found
    run = trained[0]
    try:
        return served(
            load_model(str(folder), "cpu"), str(run.adapter), lambda: burnish.open_tuned(run)
        )
    except UserError as error:
        return f"base yes, adapter `{error.code}`"


def served(model: LanguageModel, adapter: str | None, plain: Callable[[], LanguageModel]) -> str:
    prompts = [tuple(render_prompt(prompt, model.tokenizer)) for prompt in asked()]
    sampling = SamplingSettings(max_tokens=ANSWER, temperature=0.0, top_logprobs=0)
    with running(model) as engine:
        streams = [engine.submit(GenerationRequest(p, sampling, adapter)) for p in prompts]
        answers = [[t.token for piece in stream for t in piece.drawn] for stream in streams]
    return greedy(plain().module, list(zip(prompts, answers, strict=True)))


@contextmanager
def running(model: LanguageModel) -> Iterator[Engine]:
    engine = Engine(model)
    try:
        yield engine
    finally:
        engine.close()


def merge(trained: Sequence[RunDirectory]) -> str:
    """The exported model in plain transformers against the adapter."""
    if not trained:
        return "–"
    merged = AutoModelForCausalLM.from_pretrained(str(export(trained[0], "merged")))
    tuned = burnish.open_tuned(trained[0])
    tokens = render_prompt(asked()[1], tuned.tokenizer)
    ours, theirs = (plain_logits(module, tokens) for module in (tuned.module, merged))
    worst = float((ours - theirs).abs().max() / ours.abs().max())
    return "yes" if worst < TOLERANCE else f"differs by {worst:.1g}"


def gguf(trained: Sequence[RunDirectory]) -> str:
    if not trained:
        return "–"
    try:
        export(trained[0], "gguf")
    except UserError as error:
        if error.code != "architecture_not_exportable":  # most families, so a short cell
            raise
        return "no"
    return "yes"


def speed(folder: Path) -> str:
    """Tokens per second of a training step on rows that begin alike, and by how much plain passes
    are slower."""
    model = load_model(str(folder), "cpu")
    network = Network(model.module.train())
    start = model.tokenizer(f"{SYSTEM} " * 8)["input_ids"]
    ends = [model.tokenizer(f"The tent number {i} is red and green")["input_ids"] for i in range(8)]
    batch = [Row([*start, *e], [0.0] * len(start) + [1.0] * len(e)) for e in ends]
    count = sum(row.size for row in batch)

    def seconds(shared: bool) -> float:
        network.may_share = shared
        taken = []
        for _ in range(4):
            begun = time.perf_counter()
            states = branch_states(network, batch)
            (-network.logprobs(states.hidden_N_H, states.targets_N).mean()).backward()
            taken.append(time.perf_counter() - begun)
        return statistics.median(taken[1:])

    if not network.shares_beginnings:
        return f"{count / seconds(False):,.0f}, plain"
    plain, shared = seconds(False), seconds(True)
    return f"{count / shared:,.0f} ({plain / shared:.1f} x)"


if __name__ == "__main__":
    main()
