"""Exports a run's model for other tools: merged safetensors, a PEFT adapter, or a GGUF file."""

import shutil
from pathlib import Path
from typing import Any, Literal

from transformers import AutoConfig

from burnish.data.chat_templates import has_template, thinking_of
from burnish.data.exported_template import trained_template
from burnish.errors import RunError
from burnish.export.gguf import Precision, check_gguf, write_gguf
from burnish.models.adapt import has_adapter, merge_adapters
from burnish.models.adapter_files import check_weights
from burnish.models.from_run import Opened, load_base, open_run
from burnish.models.language_model import LanguageModel
from burnish.models.lineage import apply_tuned, check_trained, needs_earlier_weights, recipe_of
from burnish.models.load import load_tokenizer
from burnish.models.registry import resolve
from burnish.models.stop_tokens import add_stop_tokens, generation_settings
from burnish.recipe.schema import Recipe
from burnish.runs.atomic import new_folder
from burnish.runs.directory import RunDirectory

ExportFormat = Literal["merged", "peft", "gguf"]


def export(
    run: RunDirectory | Path | str,
    form: ExportFormat = "merged",
    output: Path | None = None,
    precision: Precision = "f32",
) -> Path:
    """Export the tuned model for other tools; returns the folder, or the file for GGUF.

    Args:
        run: a trained run.
        form: `merged` for `from_pretrained` of transformers, with tokenizer and chat template;
            `peft` for the adapter alone, loaded with `PeftModel.from_pretrained`; `gguf` for one
            file for llama.cpp.
        output: a new folder, or a new file for GGUF. By default `exported/` in the run.
        precision: precision of the weights in a GGUF file.

    Raises:
        RunError: the run is not trained, cannot be exported in this form, or the output exists.
        ModelError: its weights are damaged, or its architecture or tokenizer cannot be written to
            GGUF.
    """
    directory = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    recipe = recipe_of(directory.manifest())
    check_form(directory, form)
    target = _target(directory, form, output, precision)
    if target.exists():
        raise RunError(
            f"{target} already exists",
            "choose another path with --output",
            code="output_exists",
            path=str(target),
        )
    if form == "gguf":
        source = resolve(recipe.model)
        config = AutoConfig.from_pretrained(str(source.path))
        check_gguf(config, load_tokenizer(source))  # before the slow part
    target.parent.mkdir(parents=True, exist_ok=True)
    if form == "gguf":
        _write_gguf(directory, target, precision)
    else:
        _write_folder(directory, recipe, form, target)
    return target


def check_form(directory: RunDirectory, form: ExportFormat) -> None:
    """Check that the run can be exported in this form.

    Raises:
        RunError: it cannot; the remedy names a form or a call that works.
    """
    manifest, path = directory.manifest(), directory.path
    recipe = recipe_of(manifest)
    check_trained(directory)
    ours = f"open it with burnish.open_tuned({str(path)!r})"
    on_others = bool(manifest.lineage) and needs_earlier_weights(manifest.lineage)
    method = recipe.method_traits
    fields: dict[str, str] = {"method": recipe.method}
    as_merged, as_peft = "export it with --as merged", "export it with --as peft"
    if method.is_adapter and not method.peft_reads:
        code, remedy = "not_exportable", ours
        seen = f"{path} contains a {recipe.method} adapter, which only Burnish can load"
    elif form == "peft" and not method.is_adapter:
        code, remedy = "no_adapter", as_merged
        seen = (
            f"{path} tuned the model's weights directly ({recipe.method}), so there is no adapter"
        )
    elif form == "peft" and on_others:
        code, remedy = "adapter_not_alone", as_merged if method.merges_exactly else ours
        seen = f"the adapter of {path} needs the weights of an earlier run"
    elif form != "peft" and method.is_adapter and not method.changes_weights:
        code, remedy = "not_mergeable", ours if on_others else as_peft
        seen = f"{path} contains a learned prefix, which cannot be merged into the weights"
    elif form != "peft" and method.four_bit:
        code, remedy = "not_mergeable", ours if on_others else as_peft
        seen = f"{path} was trained on 4-bit weights, so no adapter can be merged exactly"
    elif form == "gguf" and not recipe.objective_settings.writes_text:
        code, remedy, fields = "writes_no_text", as_merged, {"objective": recipe.objective}
        seen = f"{path} generates no text: its model has a head (objective {recipe.objective})"
    else:
        return
    raise RunError(seen, remedy, code=code, path=str(path), **fields)


def open_merged(directory: RunDirectory) -> Opened:
    """Open the tuned model with its adapters merged into the weights; see `check_form`."""
    check_form(directory, "merged")
    recipe = recipe_of(directory.manifest())
    if recipe.objective_settings.head is not None:
        model: Opened = open_run(directory)
    else:
        model = load_base(recipe)
        model.module = apply_tuned(directory, model.module)
    if has_adapter(model.module):
        model.module = merge_adapters(model.module)
    return model


def _target(
    directory: RunDirectory, form: ExportFormat, output: Path | None, precision: Precision
) -> Path:
    name = directory.manifest().name
    if form == "gguf":
        folder = output or directory.path / "exported"
        named = folder.suffix == ".gguf"
        return folder if named else folder / f"{name}-{precision}.gguf"
    return output or directory.path / "exported" / form


def _write_gguf(directory: RunDirectory, target: Path, precision: Precision) -> None:
    model = open_merged(directory)
    assert isinstance(model, LanguageModel)
    name = directory.manifest().name
    write_gguf(model.module, model.tokenizer, target, name=name, precision=precision)


def _write_folder(
    directory: RunDirectory, recipe: Recipe, form: ExportFormat, target: Path
) -> None:
    with new_folder(target) as aside:
        if form == "peft":
            check_weights(directory.adapter)
            shutil.copytree(directory.adapter, aside, dirs_exist_ok=True)
            source = resolve(recipe.model)
            settings = recipe.model_settings
            tokenizer: Any = load_tokenizer(
                source, settings.stop_tokens, thinking=settings.thinking
            )
            if recipe.objective_settings.writes_text:
                generation = generation_settings(source)
                if add_stop_tokens(generation, tokenizer):
                    generation.save_pretrained(aside)
        else:
            model = open_merged(directory)
            tokenizer = model.tokenizer
            if isinstance(model, LanguageModel):
                add_stop_tokens(model.module.generation_config, tokenizer)
            model.module.save_pretrained(aside)
        is_own = has_template(tokenizer) and thinking_of(tokenizer) is None
        if recipe.objective_settings.writes_text and not is_own:
            tokenizer.chat_template = trained_template(tokenizer)
        tokenizer.save_pretrained(aside)
