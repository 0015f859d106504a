"""The command line: one module per verb, imported when the verb is called.

Exit codes: 0 for release or success, 1 for hold or inconclusive, 2 for an error that the user can
fix, 3 for a bug in Burnish (with its traceback), 130 for an interruption.
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
    "run": "Train, evaluate, decide and write the report.",
    "plan": "Estimate the time, memory and disk space of a run.",
    "preflight": "Run quick correctness checks on the run's own model and data.",
    "check": "Check a data file or recipe, and show what a run would train on.",
    "sweep": "Search hyperparameters for the best result within the budget.",
    "train": "Train without evaluating.",
    "evaluate": "Evaluate the base model and the tuned model of a run, and decide.",
    "heal": "Try ways to reduce forgetting, one at a time.",
    "suite": "Measure any model, also one behind a server, on a general suite.",
    "compare": "Compare a run with another model under the budgets of the run.",
    "report": "Write the HTML report and the model card of a run.",
    "export": "Export a run's model for other tools.",
    "parity": "Check that all exported forms of a model give the same output.",
    "chat": "Chat with the base model and the tuned model side by side.",
    "models": "List the built-in models.",
    "serve": "Serve models, files and fine-tuning jobs through the OpenAI API.",
    "worker": "Run the fine-tuning jobs of a server.",
    "alias": "Point a model name to a released model.",
    "keys": "Create, list and revoke API keys.",
    "audit": "Verify or export the audit log.",
}

_FREE = "free some space and repeat the command, with --resume for `run` and `train`"
_WRITABLE = "choose a folder you have access to"
# The system's error number -> the remedy and the error code.
_REMEDIES = {
    errno.ENOSPC: (_FREE, "disk_full"),
    errno.EDQUOT: (_FREE, "disk_full"),
    errno.EROFS: (_WRITABLE, "folder_not_writable"),
    errno.EACCES: (_WRITABLE, "folder_not_writable"),
}


class _LazyGroup(click.Group):
    """Imports a verb's module only when the verb is called, so that help is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"burnish.cli.{cmd_name}")
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name=cmd_name, help=_help_text(module.__doc__ or ""))(module.command)
        verb: Any = typer.main.get_command(app)  # typer carries its own copy of click
        return verb  # type: ignore[no-any-return]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolves the verb as click does, and suggests one for a typing mistake."""
        near = difflib.get_close_matches(args[0].lower(), VERBS, n=1)
        if args[0] not in VERBS and near and args[0][:1] != "-":
            seen = f"{cut(args[0])!r} is not a command"
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
    """Fine-tune a language model, measure what it gained and forgot, release it within a budget."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the `burnish` command; an error of the user ends with one sentence and exit code 2."""
    try:
        app.main(args=arguments, prog_name="burnish", standalone_mode=False)
    except UserError as error:
        _fail(f"{error} [{error.code}]", 2)
    except InterruptedRunError as error:
        _fail(f"{error}; resume with the same command plus --resume", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        write(error.format_message(), error=True)
        raise SystemExit(2) from None
    except (click.exceptions.Abort, KeyboardInterrupt):
        _fail("stopped", 130)
    except Exception as error:
        _exit_on_disk_error(error)
        _exit_on_usage_error(error)
        write(traceback.format_exc(), end="", error=True)
        raise SystemExit(3) from None  # an uncaught one would end with the code of a held model


def _help_text(docstring: str) -> str:
    """Marks examples and indented paragraphs so that click keeps their lines as they are."""
    paragraphs = docstring.split("\n\n")
    marked = [f"\b\n{p}" if p.startswith(("Example:", "    ")) else p for p in paragraphs]
    return "\n\n".join(marked)


def _exit_on_disk_error(error: Any) -> None:
    """Ends with exit code 2 where a disk is full or a folder is not writable."""
    number = getattr(error, "errno", None)
    if number not in _REMEDIES and is_disk_full(error):
        number = errno.ENOSPC
    if number not in _REMEDIES:
        return
    # Files are written under a temporary name first, so the message names the folder.
    name = getattr(error, "filename", None)
    where = Path(name).parent if name else "the disk"
    remedy, code = _REMEDIES[number]
    _fail(f"cannot write to {where} ({os.strerror(number)}): {remedy}. [{code}]", 2)


def _exit_on_usage_error(error: Any) -> None:
    """Ends with exit code 2 on an error of click; typer vendors its own copy of these classes."""
    if hasattr(error, "format_message"):
        path = getattr(getattr(error, "ctx", None), "command_path", "burnish")
        path = path if path.startswith("burnish") else f"burnish {path}"
        message = " ".join(error.format_message().split()).rstrip(".")
        _fail(f"{message}: see `{path} --help` for the available options. [usage]", 2)
    if hasattr(error, "exit_code"):
        raise SystemExit(error.exit_code) from None


def _fail(sentence: str, code: int) -> None:
    write(f"burnish: {sentence}", error=True)
    raise SystemExit(code)
