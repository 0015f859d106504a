"""Chat with the base model and the tuned model side by side; an empty line or Ctrl-D ends the chat.

A classifier answers each message with its label.

Example: burnish chat runs/support-routing --message "where is my parcel"
"""

import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer

from burnish.cli.options import Json
from burnish.conversation import Conversation, Message
from burnish.errors import RunError
from burnish.models.interface import Model, Sampling
from burnish.runs.directory import RunDirectory
from burnish.terminal import Terminal, write


def command(
    run: Annotated[str, typer.Argument(help="a run folder")],
    message: Annotated[str | None, typer.Option(help="send this one message and exit")] = None,
    temperature: Annotated[
        float, typer.Option(min=0, help="sampling temperature; 0 is greedy decoding")
    ] = 0.0,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="maximum number of tokens per answer")
    ] = 200,
    as_json: Json = False,
) -> None:
    from burnish.models.classifier import Classifier
    from burnish.models.reward_model import RewardModel
    from burnish.pipeline import verbs

    directory = RunDirectory.open(run)
    model = verbs.open_run(directory)
    if isinstance(model, RewardModel):
        raise RunError(
            f"{run} is a reward model, which scores answers but does not generate text",
            "chat with a model tuned with it, or use it as grpo.reward",
            code="writes_no_text",
            path=run,
        )
    if isinstance(model, Classifier):
        _label(model, [message] if message else _questions(), as_json=as_json)
        return
    system = directory.manifest().recipe["data"]["system"]
    start: Conversation = (Message("system", system),) if system else ()
    sampling = Sampling(max_new_tokens=max_tokens, temperature=temperature)
    talks: dict[str, Conversation] = {"base": start, "tuned": start}
    for question in [message] if message else _questions():
        for label in talks:
            prompt = (*talks[label], Message("user", question))
            if label == "base":
                with model.base():
                    answer = _answer(model, prompt, sampling, label, quiet=as_json)
            else:
                answer = _answer(model, prompt, sampling, label, quiet=as_json)
            talks[label] = (*prompt, Message("assistant", answer))
        if as_json:
            print(
                json.dumps({"question": question, **{k: v[-1].content for k, v in talks.items()}})
            )


def _label(model: Any, questions: Iterable[str], *, as_json: bool) -> None:
    """Prints the labels that the tuned classifier and its baseline predict for each message."""
    for question in questions:
        with model.base() as base:
            labels = {
                label: one.predict([question])[0].text
                for label, one in (("base", base), ("tuned", model))
            }
        if as_json:
            print(json.dumps({"question": question, **labels}))
            continue
        for label, answer in labels.items():
            Terminal(highlight=False).print(f"[bold]{label:6}[/] ", end="")
            write(answer)


def _questions() -> Iterator[str]:
    return iter(_typed, "")


def _typed() -> str:
    try:
        return input("\nyou    ").strip()
    except EOFError:
        return ""


def _answer(
    model: Model, prompt: Conversation, sampling: Sampling, label: str, *, quiet: bool
) -> str:
    if not quiet:
        Terminal(highlight=False).print(f"[bold]{label:6}[/] ", end="")

    def stream(_: int, text: str) -> None:
        if not quiet:
            write(text, end="")

    answer = model.generate([prompt], sampling, stream)[0].text
    if not quiet:
        write("")
    return answer
