"""Tuning methods: which weights are trained, and how they are saved (adapters by PEFT).

METHODS maps the recipe's names to functions that take a model and return it with only the
method's weights trainable. A new one is a function here, its line in the table, its record in
`burnish.recipe.methods` and its row in the tests.
"""

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    get_peft_model,
    set_peft_model_state_dict,
)
from peft.utils import load_peft_weights
from safetensors.torch import load_model, save_model
from transformers import DynamicCache, GenerationMixin

from burnish.errors import ModelError, quantity
from burnish.models.adapter_files import CONFIG, WEIGHTS, safetensors_errors
from burnish.models.bottleneck import After, BottleneckModel, is_bottleneck, load_bottleneck
from burnish.models.cache_kinds import cache_kind
from burnish.models.layers import (
    Target,
    backbone_of,
    key_value_paths,
    layer_stack,
    module_pattern,
    output_path,
)
from burnish.models.lora_targets import lora_targets
from burnish.models.onednn import use_onednn

# Name of the adapter that is trained; frozen adapters of earlier runs have other names.
TRAINABLE = "default"


def train_all(model: Any, *, seed: int) -> Any:
    """Makes every weight trainable."""
    return model.requires_grad_(True)


def train_last_layers(model: Any, *, seed: int, layers: int) -> Any:
    """Makes only the last `layers` decoder or encoder layers trainable.

    Raises:
        ModelError: the model has fewer layers.
    """
    _, stack = layer_stack(model)
    if layers > len(stack):
        raise ModelError(
            f"last_n.layers is {layers}, but the model has {quantity(len(stack), 'layer')}",
            f"set it to at most {len(stack)}",
            code="too_many_layers",
            layers=layers,
            available=len(stack),
        )
    model.requires_grad_(False)
    for layer in stack[len(stack) - layers :]:
        layer.requires_grad_(True)
    return model


def add_lora(
    model: Any,
    *,
    rank: int,
    alpha: float,
    seed: int,
    target_modules: Target = "all-linear",
    **options: Any,
) -> Any:
    """Adds a new LoRA adapter to the model; only the adapter is trainable.

    `options` are `dropout`, and for a head `whole`, the names of modules that are trained and
    saved completely. An adapter that the model already has stays active and is frozen. What is
    left out of `target_modules`, and why, is in `burnish.models.lora_targets`.

    Raises:
        ModelError: the model has no layers that `target_modules` selects.
    """
    inner, dropout = base_model_of(model), options.get("dropout", 0.0)
    targets = lora_targets(inner, target_modules, dropout)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=module_pattern(inner, targets.modules) if targets.modules else [],
        target_parameters=list(targets.parameters) or None,
        fan_in_fan_out=targets.transposed,
        task_type=_task(inner),
        modules_to_save=list(options.get("whole") or ()) or None,
        exclude_modules=_within(options.get("whole")),
    )
    return _wrap(model, config, seed)


def add_ia3(model: Any, *, seed: int, whole: Sequence[str] = ()) -> Any:
    """Adds an IA3 adapter: a trainable factor for each key, value and inner MLP activation.

    Source: Liu et al. 2022 (arXiv 2205.05638), section 3.3. The factors start at 1,
    which is the base model.
    """
    inner = base_model_of(model)
    mlp = [output_path(inner, "mlp")]
    config = IA3Config(
        target_modules=module_pattern(inner, key_value_paths(inner) + mlp),
        feedforward_modules=module_pattern(inner, mlp),
        task_type=_task(inner),
        modules_to_save=list(whole) or None,
        exclude_modules=_within(whole),
    )
    return _wrap(model, config, seed)


def add_prefix(model: Any, *, seed: int, num_virtual_tokens: int) -> Any:
    """Adds a trainable prefix: keys and values of virtual tokens before every sequence.

    Source: Li and Liang 2021 (arXiv 2101.00190). They start as the keys and values of real
    tokens, here sampled from the vocabulary, which the paper found far better than random numbers
    (section 7.4), and are trained directly, not through a second network.

    Raises:
        ModelError: the model has no key/value cache, or its layers' caches differ in kind or shape.
    """
    if not isinstance(model, GenerationMixin) or not cache_kind(model).plain:
        raise ModelError(
            f"{type(model).__name__} does not keep keys and values in every layer, so "
            "prefix tuning is not possible",
            "set method to lora or bottleneck",
            code="no_cache",
            model=type(model).__name__,
        )
    config = PrefixTuningConfig(num_virtual_tokens=num_virtual_tokens, task_type="CAUSAL_LM")
    wrapped = _wrap(model, config, seed)
    drawn = torch.randint(model.config.get_text_config().vocab_size, (1, num_virtual_tokens))
    start = DynamicCache()
    with torch.no_grad():
        backbone_of(model)(input_ids=drawn.to(model.device), past_key_values=start, use_cache=True)
    # Token by token: the keys of layer 0, its values, the keys of layer 1, ...
    parts = [
        part[0].transpose(0, 1) for layer in start.layers for part in (layer.keys, layer.values)
    ]
    try:
        flat = torch.stack(parts, dim=1).flatten(1).float()
        wrapped.prompt_encoder[TRAINABLE].load_prompt_embeddings(flat)
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"the keys and values of {type(model).__name__} differ in shape, so "
            "prefix tuning is not possible",
            "set method to lora",
            code="uneven_cache",
            model=type(model).__name__,
        ) from error
    return wrapped


def add_bottleneck(model: Any, *, seed: int, size: int, after: After) -> Any:
    """Adds bottleneck adapters after attention and MLP (`both`: Houlsby) or the MLP (Pfeiffer)."""
    torch.manual_seed(seed)
    return BottleneckModel(model, size=size, after=after)


METHODS: dict[str, Callable[..., Any]] = {
    "full": train_all,
    "last-n": train_last_layers,
    "lora": add_lora,
    "qlora": add_lora,  # the same adapter on weights that were loaded in 4 bits
    "ia3": add_ia3,
    "prefix": add_prefix,
    "bottleneck": add_bottleneck,
}


def _task(model: Any) -> str | None:
    """PEFT's task type of the model; with one of a head, PEFT saves the head's weights."""
    if isinstance(model, GenerationMixin):
        return "CAUSAL_LM"
    kinds = {"ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}
    name = type(model).__name__
    return next((task for ending, task in kinds.items() if name.endswith(ending)), None)


def _within(names: Sequence[str] | None) -> str | None:
    """A pattern for the modules with these names and all modules inside them."""
    return rf"({'|'.join(map(re.escape, names))})(\..*)?" if names else None


def _wrap(model: Any, config: PeftConfig, seed: int) -> Any:
    """Adds a new adapter to a model, next to any frozen ones.

    Raises:
        ModelError: PEFT does not support the adapter for this model.
    """
    torch.manual_seed(seed)
    try:
        with _without_renaming_notice():
            if isinstance(model, PeftModel):
                model.add_adapter(TRAINABLE, config)
                _activate(model)
            else:
                model = get_peft_model(model, config, adapter_name=TRAINABLE)
    except ValueError as error:
        kind = type(base_model_of(model)).__name__
        raise ModelError(
            f"{kind} does not support this adapter ({_first_line(error)})",
            "set method to full, or choose another model",
            code="adapter_not_supported",
            model=kind,
            reason=_first_line(error),
        ) from error
    use_onednn(model)
    return model


def _activate(model: PeftModel) -> None:
    """Activates all adapters but trains only TRAINABLE; PEFT's own switch would train all."""
    model.set_adapter(TRAINABLE)
    others = [name for name in model.peft_config if name != TRAINABLE]
    if others:
        model.base_model.set_adapter([*others, TRAINABLE])
        model.set_requires_grad(others, requires_grad=False)


def load_adapter(
    model: Any, folder: Path, *, name: str = TRAINABLE, trainable: bool = False
) -> Any:
    """Loads a saved adapter onto its base model, next to any adapters that it has.

    Raises:
        ModelError: the folder has no adapter, a damaged one, or one for another base model.
    """
    if not (folder / CONFIG).exists() or not (folder / WEIGHTS).exists():
        raise ModelError(
            f"{folder} does not contain an adapter",
            f"use a folder with {CONFIG} and {WEIGHTS}",
            code="no_adapter",
            path=str(folder),
        )
    try:
        with _without_renaming_notice(), safetensors_errors(folder):
            if is_bottleneck(folder):
                loaded: Any = load_bottleneck(model, folder)
            elif isinstance(model, PeftModel):
                model.load_adapter(str(folder), adapter_name=name)
                loaded = model
            else:
                loaded = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ModelError(
            f"the adapter {folder} was made for another base model ({_first_line(error)})",
            "load it onto the model in its adapter_config.json",
            code="wrong_base",
            path=str(folder),
            reason=_first_line(error),
        ) from error
    except (TypeError, AttributeError) as error:  # a word where PEFT computes with a number
        raise ModelError(
            f"{folder / CONFIG} has a value that PEFT cannot use ({_first_line(error)})",
            "copy the adapter again, or save it again",
            code="adapter_settings_rejected",
            path=str(folder / CONFIG),
            reason=_first_line(error),
        ) from error
    if isinstance(loaded, PeftModel) and name == TRAINABLE:
        _activate(loaded)
    use_onednn(loaded)
    # PEFT makes a prefix trainable when it should not, and refuses to load a trainable one.
    return loaded if trainable else loaded.requires_grad_(False)


def merge_adapters(model: Any) -> Any:
    """Merges the adapters into the model's weights, which are changed in place.

    Raises:
        ModelError: the adapter cannot be merged, or has values that are not finite.
    """
    if not isinstance(model, PeftModel) or isinstance(
        model.peft_config[TRAINABLE], PrefixTuningConfig
    ):
        raise ModelError(
            "a prefix or a bottleneck adapter cannot be merged into the weights",
            "set init to continue",
            code="not_mergeable",
        )
    try:
        return model.merge_and_unload(safe_merge=True, adapter_names=list(model.peft_config))
    except ValueError as error:
        raise ModelError(
            f"the adapter cannot be merged ({_first_line(error)})",
            "use an earlier checkpoint",
            code="merge_failed",
            reason=_first_line(error),
        ) from error


def base_model_of(model: Any) -> Any:
    """The transformers model inside of a PEFT or bottleneck model."""
    return model.get_base_model() if has_adapter(model) else model


def has_adapter(model: Any) -> bool:
    """Whether the model has an adapter that can be disabled."""
    return isinstance(model, (PeftModel, BottleneckModel))


@contextlib.contextmanager
def adapters_disabled(model: Any, *, frozen_too: bool) -> Iterator[None]:
    """Disables all adapters, or only the trainable one, for the duration of the context.

    Afterwards the same weights are trainable; PEFT's own switch would unfreeze frozen adapters.
    """
    learning = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    frozen = [] if frozen_too or not isinstance(model, PeftModel) else list(model.peft_config)
    frozen = [name for name in frozen if name != TRAINABLE]
    try:
        if frozen:
            model.base_model.set_adapter(frozen)
            yield
        else:
            with model.disable_adapter():
                yield
    finally:
        if frozen:
            model.base_model.set_adapter([*frozen, TRAINABLE])
        for parameter, learns in learning:
            parameter.requires_grad_(learns)


def learned_prefix(model: Any) -> DynamicCache | None:
    """Keys and values of a learned prefix for one row; None if there is none or it is disabled."""
    if not isinstance(model, PeftModel) or model._adapters_disabled:
        return None
    if not isinstance(model.active_peft_config, PrefixTuningConfig):
        return None
    cache = DynamicCache()  # its layers are plain, whatever windows the model has
    for number, layer in enumerate(model.get_prompt(batch_size=1).layers):
        cache.update(layer.keys, layer.values, number)
    return cache


@contextlib.contextmanager
def _without_renaming_notice() -> Iterator[None]:
    """PEFT 0.21 still reads the old name of a property that transformers 5.23 renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        yield


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    # For weights that do not fit, PyTorch and PEFT list them after a heading.
    listed = lines[0].startswith("Error(s) in loading") and len(lines) > 1
    return lines[listed].strip()[: 240 if listed else 120]


def save_weights(model: Any, folder: Path) -> None:
    """Saves the trained adapter in PEFT's format, or all weights of a fully tuned model."""
    if isinstance(model, PeftModel):
        model.save_pretrained(str(folder), selected_adapters=[TRAINABLE])
    elif isinstance(model, BottleneckModel):
        model.save_pretrained(str(folder))
    else:
        save_model(model, str(folder / "model.safetensors"))
        model.config.save_pretrained(str(folder))


def load_weights(model: Any, folder: Path) -> None:
    """Loads weights that `save_weights` wrote into the same model."""
    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    elif isinstance(model, BottleneckModel):
        model.load(folder)
    else:
        load_model(model, str(folder / "model.safetensors"))
