"""Tokens a second and time to first token of `burnish serve` against `transformers serve`.

    python bench/serve.py [--clients 1 8 32] [--pairs 3] [--rounds 1] [--tokens 64]

Both are real servers with the same float32 weights on the same cores, asked for streamed greedy
answers by the same clients; `transformers serve` with `--continuous-batching` and as many places
for keys and values as ours has. They take turns: a wave of one while the other is stopped, then
the other with the same prompts, which neither has seen. A wave is so many clients that each ask
`--rounds` times, one after the other. The prompts are the messages of `recipes/support-routing`,
first alone (each server's template puts its default system prompt before them), then behind one
system prompt of some 200 tokens. At last ours alone: as many clients of the base, and of the base
and three LoRA adapters of rank 16 in turn (random weights, which cost what trained ones do).

A ratio is the median over pairs, with the lowest and the highest beside it.
"""

import argparse
import asyncio
import itertools
import json
import math
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2
import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import save_file
from serve_programs import HOST, Served, Timed, burnish, free_port, serving, streamed

from burnish.inference.scheduler import EngineLimits
from burnish.models.registry import resolve
from burnish.serving.state.installation import Settings, open_service
from burnish.serving.state.models import add_once
from burnish.serving.state.tables import ModelRow

MODEL = "smollm2-135m"
MESSAGES = Path(__file__).parents[1] / "recipes" / "support-routing" / "messages.jsonl"
SYSTEM = (
    "You answer customers of Larkfell Outfitters, a shop for tents, boots, packs and stoves. Be "
    "friendly and exact, and write in full sentences. Orders leave the warehouse in two working "
    "days; a parcel takes three to five days, eight to an island. Goods can be sent back within "
    "thirty days in their own packing, and the money is with the customer ten days after that. "
    "Shipping is free from sixty euros; below that it costs four euros ninety. Boots may be "
    "exchanged for another size once, free of charge. Tents have a guarantee of three years on "
    "seams and zips, stoves of two years on all parts, packs of ten. A gift card is valid for four "
    "years and can be used in parts. Prices of other shops are matched within a week when the item "
    "is the same and in stock there. Rented gear is booked by the day and paid with a deposit. If "
    "an answer needs the account or the order, ask for the order number, never for a password or a "
    "card number, and say that a colleague will look at it within one working day."
)
LONGER = "Please answer at length."
RANK, ADAPTERS = 16, ("warm", "short", "formal")
# The aims: of the rate at so many clients, of the rate behind a shared prompt, of mixed adapters.
AIM, AIM_FROM, SHARED_AIM, MIXED_AIM = 1.5, 8, 3.0, 0.75
_PAGE = 256  # tokens of a page of the other's cache, which is its default


@dataclass(frozen=True, slots=True)
class Side:
    """A server, and what one asks of it: models in turn, and fields that only it knows."""

    name: str
    server: Served
    models: tuple[str, ...]
    more: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wave:
    """What a wave of clients got: tokens a second of all of them together, and each answer."""

    rate: float
    answers: list[Timed]

    @property
    def first(self) -> list[float]:
        return sorted(answer.first for answer in self.answers)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table: two sides at so many clients, ratios of ours to the other's rate."""

    work: str
    clients: int
    rates: tuple[float, float]
    ratios: list[float]
    firsts: tuple[tuple[float, float], tuple[float, float]]
    same: float
    aim: float | None

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def judged(self) -> str:
        if self.aim is None:
            return "–"
        return f"{self.aim:g} {'met' if self.ratio >= self.aim else 'missed'}"


def prompts() -> Iterator[str]:
    """Messages in a fixed random order, none given twice."""
    lines = MESSAGES.read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    random.Random(0).shuffle(texts)
    for again in itertools.count():
        for text in texts:
            yield f"{text} {LONGER}" if not again else f"{text} ({again}) {LONGER}"


def ask(side: Side, texts: Sequence[str], system: str | None, given: argparse.Namespace) -> Wave:
    """A wave; the server runs only meanwhile."""
    side.server.go_on()
    try:
        return asyncio.run(_wave(side, texts, system, given.tokens, len(texts) // given.rounds))
    finally:
        side.server.pause()


async def _wave(
    side: Side, texts: Sequence[str], system: str | None, tokens: int, clients: int
) -> Wave:
    before = [{"role": "system", "content": system}] if system else []
    limits = httpx2.Limits(max_connections=None)
    loop = asyncio.get_running_loop()
    async with httpx2.AsyncClient(timeout=1800, limits=limits) as client:

        async def one(place: int) -> list[Timed]:
            found = []
            model = side.models[place % len(side.models)]
            for text in texts[place::clients]:
                body = {
                    "model": model,
                    "messages": [*before, {"role": "user", "content": text}],
                    "max_tokens": tokens,
                    "temperature": 0,
                    "stream": True,
                    **side.more,
                }
                found.append(await streamed(client, side.server.url, body))
            return found

        started = loop.time()
        found = await asyncio.gather(*(one(place) for place in range(clients)))
        seconds = loop.time() - started
    answers = [answer for each in found for answer in each]
    return Wave(sum(answer.tokens for answer in answers) / seconds, answers)


def compare(
    work: str,
    sides: tuple[Side, Side],
    clients: int,
    system: str | None,
    texts: Iterator[str],
    given: argparse.Namespace,
) -> Line:
    """Waves of both sides in turn, both of a pair with the same prompts."""
    waves: tuple[list[Wave], list[Wave]] = ([], [])
    for _ in range(given.pairs):
        some = list(itertools.islice(texts, clients * given.rounds))
        for side, found in zip(sides, waves, strict=True):
            found.append(ask(side, some, system, given))
    pairs = list(zip(*waves, strict=True))
    same = [
        a.text == b.text
        for ours, other in pairs
        for a, b in zip(ours.answers, other.answers, strict=True)
    ]
    ours, other = (statistics.median(wave.rate for wave in found) for found in waves)
    firsts = tuple(_quantiles([s for wave in found for s in wave.first]) for found in waves)
    line = Line(
        work,
        clients,
        (ours, other),
        [a.rate / b.rate for a, b in pairs],
        (firsts[0], firsts[1]),
        statistics.mean(same),
        _aim(work, clients),
    )
    print(_row(line, sides), flush=True)
    return line


def _aim(work: str, clients: int) -> float | None:
    if work == "mixed":
        return MIXED_AIM
    if clients < AIM_FROM:
        return None
    return SHARED_AIM if work == "shared" else AIM


def _quantiles(seconds: list[float]) -> tuple[float, float]:
    """Median and the 95th of a hundred."""
    ordered = sorted(seconds)
    return statistics.median(ordered), ordered[math.ceil(0.95 * len(ordered)) - 1]


def _row(line: Line, sides: tuple[Side, Side]) -> str:
    spread = f"{line.ratio:.2f} ({min(line.ratios):.2f} to {max(line.ratios):.2f})"
    firsts = " | ".join(f"{median:.2f} / {high:.2f}" for median, high in line.firsts)
    return (
        f"| {line.work}: {sides[0].name}, {sides[1].name} | {line.clients} | {line.rates[0]:.1f} | "
        f"{line.rates[1]:.1f} | {spread} | {line.judged} | {firsts} | {100 * line.same:.0f}% |"
    )


def install_adapters(folder: Path, base: Path) -> tuple[str, ...]:
    """Three tuned models of the installation in the folder; returns their names."""
    service = open_service(Settings(folder, models={MODEL: MODEL}))
    names = []
    for seed, name in enumerate(ADAPTERS):
        write_adapter(folder / "adapters" / name, base, seed)
        row = ModelRow(
            name=f"ft:{MODEL}:local:{name}:{seed:08d}",
            base=MODEL,
            job_id=None,
            folder=f"adapters/{name}",
            created_at=seed,
            decision="release",
        )
        with service.database.writing() as session:
            add_once(session, row)
        names.append(f"ft:{MODEL}:local:{name}:{seed:08d}")
    service.close()
    return tuple(names)


def write_adapter(folder: Path, base: Path, seed: int) -> None:
    """Low-rank maps of small random numbers on every linear layer, in PEFT's format."""
    random_numbers, tensors = torch.Generator().manual_seed(seed), {}
    with safe_open(base / "model.safetensors", "pt") as weights:
        for key in weights.keys():  # noqa: SIM118 - it is no dictionary
            if not key.endswith("_proj.weight"):
                continue
            outputs, inputs = weights.get_slice(key).get_shape()
            place = f"base_model.model.{key.removesuffix('.weight')}"
            for end, shape in (("A", (RANK, inputs)), ("B", (outputs, RANK))):
                values = torch.randn(shape, generator=random_numbers) * 0.01
                tensors[f"{place}.lora_{end}.weight"] = values
    layers = sorted({key.split(".lora_")[0].rsplit(".", 1)[-1] for key in tensors})
    LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers).save_pretrained(str(folder))
    save_file(tensors, folder / "adapter_model.safetensors")


def measure(given: argparse.Namespace, folder: Path) -> list[Line]:
    """Both servers are started, warmed and compared."""
    base, texts = resolve(MODEL).path, prompts()
    tuned = install_adapters(folder / "data", base)
    ports = free_port(), free_port()
    blocks = str(EngineLimits().cache_tokens // _PAGE)
    theirs = [str(Path(sys.executable).with_name("transformers")), "serve", str(base)]
    theirs += ["--continuous-batching", "--cb-num-blocks", blocks, "--device", "cpu"]
    theirs += ["--dtype", "float32", "--host", HOST, "--port", str(ports[1])]
    ours = burnish(folder / "data", ports[0], "--model", MODEL)
    with (
        serving(ours, ports[0], folder / "ours.log", given.threads) as one,
        serving(theirs, ports[1], folder / "theirs.log", given.threads) as other,
    ):
        counted = {"stream_options": {"include_usage": True}}
        burnished = Side("burnish serve", one, (MODEL,), counted)
        transformed = Side("transformers serve", other, (str(base),), {})
        mixed = Side("base and three adapters", one, (MODEL, *tuned), counted)
        alone = Side("base alone", one, (MODEL,), counted)
        for side in (burnished, transformed, mixed):  # what a first call does once
            ask(side, list(itertools.islice(texts, 4 * given.rounds)), None, given)
        _head()
        found = []
        for work, system in (("plain", None), ("shared", SYSTEM)):
            for clients in given.clients:
                sides = (burnished, transformed)
                found.append(compare(work, sides, clients, system, texts, given))
        found.append(compare("mixed", (mixed, alone), max(given.clients), None, texts, given))
        return found


def _head() -> None:
    names = "work: side, other side | clients | tokens/s | other's | ratio (lowest to highest)"
    rest = "aim | first token, s: median / 95% | other's | same answers"
    print(f"| {names} | {rest} |\n|---" + "|---:" * 8 + "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1, help="answers each client asks for")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer, at most")
    parser.add_argument("--threads", type=int, help="of each server; all cores if not given")
    parser.add_argument("--folder", type=Path, help="for logs; a temporary one if not given")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="burnish-serve-") as spare:
        folder = given.folder or Path(spare)
        folder.mkdir(parents=True, exist_ok=True)
        found = measure(given, folder)
    if given.json:
        lines = [asdict(line) | {"ratio": line.ratio} for line in found]
        given.json.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
