"""The command line: a lazy table of verbs, a module each; each parses, calls, prints what is next.

Exit codes: 0 release or done, 1 hold or inconclusive, 2 the user's error, 3 a mistake of ours
(with its traceback), 130 interrupted.
"""

import difflib
import errno
import importlib
import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import typer

from burnish.errors import InterruptedRunError, UserError, cut, is_disk_full
from burnish.terminal import write

VERBS = {
    "demo": "Run the built-in example from its rows to a verdict.",
    "run": "From rows to a verdict: train, measure, decide, report.",
    "plan": "Say what a run will take: time, memory, disk.",
    "preflight": "Try a run's promises on its own model and a few rows, in seconds.",
    "check": "Read a data file as a run would, and show what is learnt.",
    "sweep": "Search hyperparameters for the best result within the budget.",
    "train": "Train only; measure later.",
    "evaluate": "Measure base and tuned of a run, and decide.",
    "heal": "Look for a model that forgot less, lever by lever.",
    "compare": "Compare a run with another model under the budgets of the run.",
    "report": "Write a run's page and model card.",
    "export": "Write a run's model for other tools.",
    "parity": "Show that every form of a run's model says the same.",
    "chat": "Talk to base and tuned side by side.",
    "models": "List the built-in models.",
    "serve": "Serve models, files and fine-tuning jobs through the OpenAI API.",
    "worker": "Work on a server's fine-tuning jobs.",
    "alias": "Let a name stand for a released model.",
    "keys": "Make, list and revoke API keys.",
    "audit": "Verify the log of what was changed.",
}

_FREE = "free some space, then give the same command, `run` and `train` with --resume"
_WRITABLE = "use a folder that you may read and write"
# The system's number -> what to do, and the code of the mistake.
_REMEDIES = {
    errno.ENOSPC: (_FREE, "disk_full"),
    errno.EDQUOT: (_FREE, "disk_full"),
    errno.EROFS: (_WRITABLE, "folder_not_writable"),
    errno.EACCES: (_WRITABLE, "folder_not_writable"),
}


class _LazyGroup(click.Group):
    """Imports a verb's module when that verb is asked for, so that help is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"burnish.cli.{cmd_name}")
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name=cmd_name, help=module.__doc__)(module.command)
        verb: Any = typer.main.get_command(app)  # typer carries its own copy of click
        return verb  # type: ignore[no-any-return]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Click's own, with the verb that a mistyped one is likely to be."""
        near = difflib.get_close_matches(args[0].lower(), VERBS, n=1)
        if args[0] not in VERBS and near and args[0][:1] != "-":
            seen = f"there is no command {cut(args[0])!r}"
            raise UserError(
                seen,
                f"did you mean `burnish {near[0]}`?",
                code="unknown_command",
                value=cut(args[0]),
                closest=near[0],
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=_LazyGroup,
    epilog="Example: burnish run recipe.yaml --set training.epochs=2",
    context_settings={"help_option_names": ["-h", "--help"]},
)
def app() -> None:
    """Fine-tune a language model, see what it gained and forgot, release it inside a budget."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The `burnish` command; a user's error is one sentence and exit code 2."""
    try:
        app.main(args=arguments, prog_name="burnish", standalone_mode=False)
    except UserError as error:
        _fail(f"{error} [{error.code}]", 2)
    except InterruptedRunError as error:
        _fail(f"{error}; go on with the same command and --resume", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        write(error.format_message(), error=True)
        raise SystemExit(2) from None
    except (click.exceptions.Abort, KeyboardInterrupt):
        _fail("stopped", 130)
    except Exception as error:
        _end_of_files(error)
        _end_of_click(error)
        write(traceback.format_exc(), end="", error=True)
        raise SystemExit(3) from None  # an uncaught one would end with the code of a held model


def _end_of_files(error: Any) -> None:
    """A disk that is full, or may not be written, is no mistake of ours."""
    number = getattr(error, "errno", None)
    if number not in _REMEDIES and is_disk_full(error):
        number = errno.ENOSPC
    if number not in _REMEDIES:
        return
    # A file is written under another name first, so its folder is what the user knows.
    name = getattr(error, "filename", None)
    where = Path(name).parent if name else "the disk"
    remedy, code = _REMEDIES[number]
    _fail(f"{where} cannot be used ({os.strerror(number)}): {remedy}. [{code}]", 2)


def _end_of_click(error: Any) -> None:
    """Typer carries its own copy of click, whose errors are told by what they can do."""
    if hasattr(error, "format_message"):
        path = getattr(getattr(error, "ctx", None), "command_path", "burnish")
        path = path if path.startswith("burnish") else f"burnish {path}"
        said = " ".join(error.format_message().split()).rstrip(".")
        _fail(f"{said}: `{path} --help` shows what there is. [usage]", 2)
    if hasattr(error, "exit_code"):
        raise SystemExit(error.exit_code) from None


def _fail(sentence: str, code: int) -> None:
    write(f"burnish: {sentence}", error=True)
    raise SystemExit(code)
