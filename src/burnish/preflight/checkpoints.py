"""Checks that saved checkpoints resume exactly, and that saved weights load and merge elsewhere."""

import hashlib
import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import PeftModel
from torch import Tensor

from burnish.errors import quantity
from burnish.models.adapt import save_weights
from burnish.models.architecture import text_part_renamings
from burnish.models.branches import Row
from burnish.models.classifier import quiet_transformers
from burnish.preflight.base import Check, Subject, not_applicable, relative_difference, rows_in
from burnish.training import checkpoint
from burnish.training.batches import Batches
from burnish.training.data_parallel import parameters_of
from burnish.training.loop import Loop

# The first step moves an adapter off zero, the second is what a resumed run must repeat.
_STEPS = 2
_REMEDY_SAVED = "choose another method, or one whose saved files include this parameter"
MERGED, RELOADED, RESUMED = "merged = adapter", "reloaded = in memory", "saved = resumed"


def check_saved_equals_resumed(subject: Subject, items: Sequence[Any], folder: Path) -> Check:
    """Takes two steps, then repeats the second from the first checkpoint on random weights."""
    straight = _short_loop(subject, items, folder / "straight")
    saved: dict[str, str] = {}

    def listen(phase: str, values: dict[str, Any]) -> None:
        if phase == "checkpoint" and values["step"] == 1 and not saved:  # a stop saves it again
            saved.update(_digests(straight))
            shutil.copytree(folder / "straight" / "step-1", folder / "again" / "step-1")

    straight.listen = listen
    straight.run()
    expected = _digests(straight)
    _garble(straight)
    again = _short_loop(subject, items, folder / "again")
    checkpoint.load(folder / "again" / "step-1", again.model, again.optimizer)
    loaded = _digests(again)
    again.run(resume=True)
    result = _digests(again)
    compared = [(saved, loaded, "after saving and loading", "state_not_restored")]
    # On a GPU some sums have no fixed order, so two equal steps may differ.
    repeatable = subject.network.device.type == "cpu"
    if repeatable:
        when = "one step after loading a checkpoint"
        compared.append((expected, result, when, "step_not_repeated"))
    for before, after, when, code in compared:
        differ = [name for name in before if after.get(name) != before[name]]
        if differ:
            figure = f"{len(differ)} of {len(before)} tensors differ {when}"
            seen = f"{differ[0]} differs {when}"
            value, fields = float(len(differ)), {"tensor": differ[0]}
            return Check(RESUMED, False, figure, value, seen, _REMEDY_SAVED, code, fields)
    figure = f"{len(expected)} tensors are equal bit for bit" + ", also one step later" * repeatable
    return Check(RESUMED, True, figure, 0.0)


def check_reloaded_and_merged(subject: Subject, items: Sequence[Any], folder: Path) -> list[Check]:
    """Compares the logits of the saved weights, reloaded by transformers and PEFT and then merged.

    One copy of the model serves both checks, and no code of Burnish loads it.
    """
    model = subject.network.model
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if subject.on_earlier or getattr(model, "quantization_method", None):
        reason = "the adapter's base model is not a folder: it was merged, stacked or quantized"
        return [not_applicable(name, reason) for name in (RELOADED, MERGED)]
    if not Path(str(model.name_or_path)).is_dir():
        reason = "the model was not loaded from a folder"
        return [not_applicable(name, reason) for name in (RELOADED, MERGED)]
    if 1.5 * size > free_memory(subject.network.device):
        reason = f"a second model of {size / 2**30:.1f} GiB does not fit into memory"
        return [not_applicable(name, reason) for name in (RELOADED, MERGED)]
    save_weights(subject.loop.model, folder)
    copy = _load_plainly(subject, folder)
    if copy is None:
        reason = "transformers and PEFT cannot read the files of this method"
        return [not_applicable(name, reason) for name in (RELOADED, MERGED)]
    rows = _rows_of(subject, items)
    ours = [_logits(subject.loop.model, row) for row in rows]
    checks = [_compared(subject, RELOADED, rows, (ours, [_logits(copy, row) for row in rows]))]
    return [*checks, _merged(subject, copy, rows, ours)]


def free_memory(device: torch.device) -> int:
    """Returns the free bytes on the device of the model."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _merged(subject: Subject, copy: Any, rows: Sequence[Row], ours: Sequence[Tensor]) -> Check:
    if not isinstance(copy, PeftModel):
        return not_applicable(
            MERGED, "the weights themselves are trained, so there is no adapter to merge"
        )
    if not hasattr(copy.base_model, "merge_and_unload"):
        return not_applicable(MERGED, "an adapter of this kind cannot be merged")
    merged = copy.merge_and_unload()
    return _compared(subject, MERGED, rows, (ours, [_logits(merged, row) for row in rows]))


def _compared(
    subject: Subject, name: str, rows: Sequence[Row], logits: tuple[Sequence[Tensor], ...]
) -> Check:
    """Compares logits (L, V) of each row, over the largest logit of all."""
    ours, theirs = logits
    far_R = [relative_difference(there, here) for here, there in zip(ours, theirs, strict=True)]
    value = max(float(difference.max()) for difference in far_R)
    count = sum(len(row.tokens) for row in rows)
    figure = f"logits of {quantity(count, 'token')} differ by at most {value:.0e}"
    if value <= subject.tolerance:
        return Check(name, True, figure, value)
    row = next(r for r, difference in enumerate(far_R) if difference.max() > subject.tolerance)
    place = int((far_R[row].flatten(1).max(1).values > subject.tolerance).nonzero()[0])
    how = {
        MERGED: "with the adapter merged into the weights",
        RELOADED: "from the saved files in plain transformers and PEFT",
    }[name]
    seen = (
        f"the logits at token {place} {subject.text(rows[row].tokens[place])} of row {row + 1} "
        f"differ by {float(far_R[row][place].max()):.1%} of the largest logit {how}"
    )
    remedy = {
        MERGED: "serve the adapter unmerged, or choose another method",
        RELOADED: "choose another method, or a model folder whose files have not changed",
    }[name]
    fields = {"row": row + 1, "place": place}
    return Check(name, False, figure, value, seen, remedy, "logits_differ", fields)


def _load_plainly(subject: Subject, folder: Path) -> Any:
    """Loads the saved weights into a new model; None where only Burnish can read them."""
    network = subject.network
    kind, source, dtype = type(network.model), str(network.model.name_or_path), network.model.dtype
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT 0.21 warns of transformers' renamed properties
        if isinstance(subject.loop.model, PeftModel):
            # The configuration names a head's labels, which the base's own folder does not know.
            with quiet_transformers():
                base = kind.from_pretrained(
                    source,
                    config=network.model.config,
                    dtype=dtype,
                    key_mapping=text_part_renamings(source),
                )
            base = base.to(network.device)
            return PeftModel.from_pretrained(base, str(folder)).eval()
        if (folder / "config.json").exists():
            architecture = json.loads((folder / "config.json").read_text()).get("architectures")
            if architecture == [kind.__name__]:
                return kind.from_pretrained(str(folder), dtype=dtype).to(network.device).eval()
    return None


@torch.no_grad()
def _logits(model: Any, row: Row) -> Tensor:
    """Logits (L, V) of a row's own tokens in evaluation mode."""
    training = model.training
    model.eval()
    tokens_1_L = torch.tensor([list(row.tokens)], device=model.device)
    logits: Tensor = model(input_ids=tokens_1_L).logits[0].float()
    model.train(training)
    return logits[-len(row.tokens) :] if logits.ndim == 2 else logits[None]


def _rows_of(subject: Subject, items: Sequence[Any]) -> list[Row]:
    """Returns the last item's first row; for an objective without rows, the text of an example."""
    if rows := rows_in(items[-1]):
        return rows[:1]
    text = subject.examples[0].question or subject.examples[0].expected
    tokens = subject.model.tokenizer(text)["input_ids"]
    return [Row(tokens, [0.0] * len(tokens))]


def _short_loop(subject: Subject, items: Sequence[Any], folder: Path) -> Loop:
    """A loop of its own with the run's settings and a new optimizer; it takes few steps."""
    settings = replace(subject.loop.settings, evaluations=0, checkpoints=_STEPS)
    batches = Batches({"preflight": items}, len(items), 1, _STEPS, seed=0)
    loop = subject.loop
    return Loop(loop.model, batches, subject.objective, settings, {}, folder, lambda *_: None)


def _garble(loop: Loop) -> None:
    """Overwrites all trained parameters, so that only loading can restore them."""
    with torch.no_grad():
        for parameter in parameters_of(loop.optimizer):
            parameter.normal_()


def _digests(loop: Loop) -> dict[str, str]:
    """Returns a hash of each trained tensor and of its optimizer state."""
    names = {id(parameter): name for name, parameter in loop.model.named_parameters()}
    digests = {names[id(p)]: _digest(p) for p in parameters_of(loop.optimizer)}
    for parameter, states in loop.optimizer.state.items():
        for key, value in states.items():
            digests[f"the optimizer's {key} of {names[id(parameter)]}"] = _digest(value)
    return digests


def _digest(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()
