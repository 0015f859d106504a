"""Suites of lm-eval-harness: its task definitions, asked by our own verbs.

The harness writes the prompts, shots included, and the choices that may follow; `score` finds the
likeliest choice and `generate` writes the replies, not its model classes. Replies go through the
task's own filters and metrics. The results are those of `lm_eval.simple_evaluate` with a Hugging
Face model and its own seed of the shots: without a chat template, or with `chat:` before the name
with the chat template and the shots as turns. What it would cut off on the left to fit a context is
refused here by the model.
"""

import contextlib
import difflib
import hashlib
import importlib.util
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from burnish.conversation import Conversation, Message
from burnish.errors import DataError, quantity
from burnish.evaluation.lm_eval_code import sandboxed_code
from burnish.evaluation.lm_eval_tasks import (
    HarnessItem,
    HarnessReply,
    HarnessReplyTask,
    HarnessTask,
    Measure,
    is_binary,
    reply_metrics,
)
from burnish.evaluation.suite import Section, Suite
from burnish.models.interface import Sampling
from burnish.recipe.files import CHAT, HARNESS

_DEFINED = re.compile(r"^(?:task|group): *[\"']?([^\s\"'\[]+)[\"']? *$", re.MULTILINE)
_GROUP = re.compile(r"^group: *[\"']?([^\s\"']+)", re.MULTILINE)
_NAMES = re.compile(r"[\w.-]+")
_SHOT_SEED = 1234  # of lm_eval.simple_evaluate; one generator draws the shots of all items in turn
_REPLY_TOKENS = 256  # the default of the harness for a Hugging Face model


def load_harness(name: str) -> Suite:
    """Load a task or a group of tasks by name, or a task by the path of its YAML file.

    A group has a section for each of its tasks. `chat:` before the name asks in conversations.

    Raises:
        DataError: lm-eval-harness is not installed, does not have the task, cannot load its data,
            or the task does not score every item with 0 or 1.
    """
    chat, name = name.startswith(CHAT), name.removeprefix(CHAT)
    with _quiet():
        tasks = _tasks(name)
        only = len(tasks) == 1
        suite = _plain(next(iter(tasks)) if only else Path(name).name)
        if chat:
            suite = f"{suite}-chat"
        sections = [
            _checked_section(suite if only else f"{suite}.{_plain(key)}", task, chat=chat)
            for key, task in tasks.items()
        ]
    return Suite(suite, sections, [])


def _tasks(name: str) -> dict[str, Any]:
    if importlib.util.find_spec("lm_eval") is None:
        raise DataError(
            f"evaluate.general contains {HARNESS}{name}, but lm-eval-harness is not installed",
            "install it with `pip install burnish[lm-eval]`, or use another suite",
            code="not_installed",
            package="lm_eval",
            suite=f"{HARNESS}{name}",
        )
    folders, path = [str(folder) for folder in _folders(name)], Path(name)
    if path.is_file() and (group := _GROUP.search(_text(path))):
        name = group[1]
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=folders or None, include_defaults=False)
    try:
        with sandboxed_code():
            tasks: dict[str, Any] = manager.load([name])["tasks"]
    except Exception as error:  # a task runs code and reads data of its own: anything may fail
        raise _not_loaded(name, error) from error
    return tasks


def _folders(name: str) -> list[Path]:
    """The folders that define a task, or the tasks of a group; empty for the file of a task.

    The harness needs a minute to index all of its 14,000 tasks.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise DataError(
                f"the lm-eval task file {path} does not exist",
                "correct the path",
                code="file_missing",
                path=str(path),
            )
        return [path.parent] if _is_group(path) else []
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None
    known: dict[str, Path] = {}
    for file in sorted(Path(spec.origin).with_name("tasks").rglob("*.yaml")):
        for task in _DEFINED.findall(_text(file)):
            known.setdefault(task, file)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {HARNESS}{near[0]}" if near else "`lm-eval ls tasks` lists them"
        raise DataError(
            f"lm-eval-harness has no task {name!r}",
            hint,
            code="unknown_task",
            task=name,
            closest=f"{HARNESS}{near[0]}" if near else None,
        )
    files, waiting = dict[Path, None](), [known[name]]
    while waiting:  # a group may have members, and groups, from other folders
        file = waiting.pop()
        if file in files:
            continue
        files[file] = None
        if _is_group(file):
            waiting += [known[word] for word in _NAMES.findall(_text(file)) if word in known]
    return list(dict.fromkeys(file.parent for file in files))


def _checked_section(section: str, task: Any, *, chat: bool) -> Section:
    try:
        return _section(section, task, chat=chat)
    except DataError:
        raise
    except Exception as error:  # the task's own code
        raise _not_loaded(task.config.task, error) from error


def _not_loaded(name: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:200]
    return DataError(
        f"the lm-eval task {name} cannot be loaded ({type(error).__name__}: {reason})",
        "correct its file, or download its data on a machine with network access",
        code="task_not_loaded",
        task=name,
        error=type(error).__name__,
    )


def _is_group(file: Path) -> bool:
    return _GROUP.search(_text(file)) is not None


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def _section(section: str, task: Any, *, chat: bool) -> Section:
    if task.config.num_fewshot is None:
        task.set_config("num_fewshot", 0)
    task.set_fewshot_seed(_SHOT_SEED)
    if task.OUTPUT_TYPE == "generate_until":
        return _reply_section(section, task, chat)
    if task.OUTPUT_TYPE == "multiple_choice":
        return _choice_section(section, task, chat)
    raise _unsuitable(task, "output_type", f"has the output type {task.OUTPUT_TYPE}")


def _choice_section(section: str, task: Any, chat: bool) -> HarnessTask:
    custom = task.config.process_results is not None
    items = [_item(task, str(number), doc, chat) for number, doc in task.doc_iterator()]
    names = list(task.aggregation())
    if custom or task.multiple_input or task.multiple_target:
        probe = task.process_results(
            task.task_docs[0], [(float(-place), False) for place in range(len(items[0].choices))]
        )
        metric = _first_binary(task, [probe])
        by_length = metric == "acc_norm"
        measure = Measure(task, metric, "", _definition(task))
        return HarnessTask(section, items, by_length=by_length, measure=measure)
    if not {"acc", "acc_norm"} & set(names):
        raise _unsuitable(task, "metrics", f"is measured by {', '.join(names)}")
    return HarnessTask(section, items, by_length="acc_norm" in names)


def _reply_section(section: str, task: Any, chat: bool) -> HarnessReplyTask:
    from lm_eval.models.utils import normalize_gen_kwargs

    if task.config.repeats > 1:
        raise _unsuitable(task, "repeats", f"asks for {task.config.repeats} replies to each item")
    measure = _reply_measure(task)
    wanted: dict[str, Any] = dict(
        normalize_gen_kwargs(task.config.generation_kwargs, _REPLY_TOKENS)
    )
    sampling = Sampling(
        max_new_tokens=wanted["max_gen_toks"],
        temperature=float(wanted.get("temperature") or 0.0) if wanted["do_sample"] else 0.0,
        top_p=float(wanted.get("top_p") or 1.0),
        stop=tuple(term for term in wanted["until"] if term),
    )
    items = [_reply_item(task, str(number), doc, chat) for number, doc in task.doc_iterator()]
    return HarnessReplyTask(section, items, sampling, measure)


def _reply_measure(task: Any) -> Measure:
    """The first filter and its first metric that is 0 or 1 for right, wrong and partial replies."""
    target = task.doc_to_target(task.task_docs[0])
    right = str(target[0] if isinstance(target, list) and target else target)
    replies = ["", right, right[: len(right) // 2], str(task.doc_to_text(task.task_docs[0]))]
    try:
        probes = [reply_metrics(task, 0, reply) for reply in replies]
    except Exception as error:  # the task's own code
        reason = " ".join(str(error).split())[:200]
        said = f"cannot grade a reply ({type(error).__name__}: {reason})"
        raise _unsuitable(task, "grading", said) from error
    name = next(iter(probes[0]))
    metric = _first_binary(task, [probe[name] for probe in probes])
    return Measure(task, metric, name, _definition(task))


def _first_binary(task: Any, probes: list[dict[str, Any]]) -> str:
    """The first metric that is 0 or 1 in all of the probes, in the order of the task."""
    names: list[str] = [name for name in task.aggregation() if name in probes[0]]
    names += [name for name in probes[0] if name not in names]
    for name in names:
        if all(is_binary(probe.get(name)) for probe in probes):
            return name
    raise _unsuitable(task, "metrics", f"is measured by {', '.join(names) or 'nothing'}")


def _unsuitable(task: Any, reason: str, words: str) -> DataError:
    return DataError(
        f"the lm-eval task {task.config.task} {words}",
        "use a task of type multiple_choice or generate_until that scores every item with 0 or 1",
        code="unsuitable_task",
        task=task.config.task,
        reason=reason,
        output_type=task.OUTPUT_TYPE,
    )


def _definition(task: Any) -> str:
    text = json.dumps(task.dump_config(), sort_keys=True, default=repr)
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", text).encode()).hexdigest()[:16]


def _context(task: Any, doc: Any, chat: bool) -> Any:
    """The prompt of a document with its shots: text or a conversation, or one for each choice."""
    prefix = task.doc_to_prefix(doc)
    if not chat:
        return task.fewshot_context(doc, task.config.num_fewshot, gen_prefix=prefix)
    if prefix:
        raise _unsuitable(task, "gen_prefix", "starts the answer itself, which a chat cannot do")
    return task.fewshot_context(
        doc,
        task.config.num_fewshot,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        chat_template=_conversation,
    )


def _conversation(messages: list[dict[str, str]], **_: Any) -> Conversation:
    return tuple(Message(turn["role"], turn["content"]) for turn in messages)  # type: ignore[arg-type]


def _reply_item(task: Any, name: str, doc: Any, chat: bool) -> HarnessReply:
    context = _context(task, doc, chat)
    prompt = (Message("document", context),) if isinstance(context, str) else context
    check = {"lm_eval": task.config.task}
    return HarnessReply(
        name, prompt, check, str(task.doc_to_text(doc)), str(task.doc_to_target(doc))
    )


def _item(task: Any, name: str, doc: Any, chat: bool) -> HarnessItem:
    context = _context(task, doc, chat)
    about = {"metadata": (task.config.task, name, 1), "apply_chat_template": chat}
    requests = task.construct_requests(doc, context, **about)
    choices = task.doc_to_choice(doc)
    # With acc_mutual_info as many requests without a question follow.
    asked = [request.args for request in requests[: len(choices)]]
    continuations = tuple(arguments[1] for arguments in asked)
    contexts = tuple(arguments[0] for arguments in asked) if task.multiple_input else ()
    target = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if isinstance(target, list):
        target = target[0] if target else None
    if isinstance(target, str) and target in choices:
        target = choices.index(target)
    if not isinstance(target, int) or target not in range(len(choices)):
        raise DataError(
            f"item {name} of the lm-eval task {task.config.task} has the answer {target!r}, which "
            f"is not one of its {quantity(len(choices), 'choice')}",
            "correct the task's doc_to_target",
            code="answer_not_a_choice",
            source=f"{task.config.task}:{name}",
            value=str(target),
            count=len(choices),
        )
    sizes = tuple(map(len, choices))
    question = choices[target] if task.multiple_input else task.doc_to_text(doc)
    first = contexts[0] if contexts else context
    return HarnessItem(name, first, continuations, target, question, sizes, contexts)


def _plain(name: str) -> str:
    """The name as part of a file name of results."""
    return re.sub(r"[^\w.-]+", "-", name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the harness, which warns about every default of a task."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
