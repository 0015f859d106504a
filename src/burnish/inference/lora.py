"""Several LoRA adapters on one set of base weights: in a batch each token has its own, or none.

Tokens of one adapter that stand next to each other get its low-rank maps in two small products a
layer, PEFT's formula `W x + scale B A x`; tokens of the base are not touched. Side by side, as one
wide map in which each token's other adapters are set to 0, was slower on a CPU, the more so the
more adapters there are.

Shapes: N tokens, I inputs, O outputs, R rank.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from burnish.errors import ModelError
from burnish.inference.lora_parameters import ExpertHooks, ExpertMaps, expert_maps, expert_parameter
from burnish.models.adapter_files import adapter_settings

BASE = 0
# Fields of a configuration that, once set, make the adapter more than low-rank maps beside
# linear layers.
_MORE = (
    "use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "layer_replication",
    "use_qalora", "alora_invocation_tokens", "use_bdlora", "arrow_config",
    "kasa_config", "velora_config", "monteclora_config",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LowRankMaps:
    """One layer's low-rank maps; PEFT's scale is worked into `b_O_R`."""

    a_R_I: Tensor
    b_O_R: Tensor


@dataclass(frozen=True, slots=True)
class AdapterMaps:
    """An adapter's maps of linear layers by their names, and of experts by module and parameter."""

    layers: dict[str, LowRankMaps] = field(default_factory=dict)
    experts: dict[str, dict[str, ExpertMaps]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """A loaded adapter: its number, never given twice, and its maps."""

    number: int
    maps: AdapterMaps


def read_lora(folder: Path, modules: dict[str, nn.Module]) -> AdapterMaps:
    """The low-rank maps of an adapter folder for a base model with these modules.

    Raises:
        ModelError: the folder does not contain a plain LoRA adapter of this base model.
    """
    config = _config(folder)
    tensors = _tensors(folder)
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, end = key.removeprefix("base_model.model.").rpartition(".lora_")
        if end not in ("A.weight", "B.weight"):
            raise _not_plain(folder, f"it contains {key}")
        pairs.setdefault(name, {})[end[0]] = tensor
    maps = AdapterMaps()
    for name, pair in pairs.items():
        if set(pair) != {"A", "B"}:
            raise _not_plain(folder, f"{name} has only one of its two matrices")
        if place := expert_parameter(name, modules, config.target_parameters or ()):
            module, parameter = place
            own = _expert(folder, config, (module, parameter), pair, modules)
            maps.experts.setdefault(module, {})[parameter] = own
        else:
            maps.layers[name] = _low(folder, config, name, pair, modules)
    return maps


def _config(folder: Path) -> LoraConfig:
    try:
        given = adapter_settings(folder)
    except ModelError as error:  # which names the whole path
        raise ModelError(
            f"{folder.name} does not contain a readable adapter",
            "choose a folder that contains adapter_config.json",
            code="adapter_unreadable",
            adapter=folder.name,
        ) from error
    method = given.get("peft_type")
    if method != "LORA":
        raise _not_plain(folder, f"its method is {method}")
    config = LoraConfig.from_pretrained(str(folder))
    more = [name for name in _MORE if getattr(config, name, None)]
    if config.bias != "none":
        more.append(f"bias={config.bias}")
    if more:
        raise _not_plain(folder, f"it sets {', '.join(more)}")
    return config


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Of a safetensors file; other formats could run code."""
    try:
        return load_file(folder / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{folder.name} does not contain a readable adapter_model.safetensors",
            "save the adapter again in the safetensors format",
            code="weights_unreadable",
            adapter=folder.name,
        ) from error


def _low(
    folder: Path,
    config: LoraConfig,
    name: str,
    pair: dict[str, Tensor],
    modules: dict[str, nn.Module],
) -> LowRankMaps:
    layer = modules.get(name)
    if not isinstance(layer, nn.Linear | Conv1D):
        raise ModelError(
            f"{folder.name} adapts {name}, which is not a linear layer of this base model",
            "load it on the base model named in its adapter_config.json",
            code="unknown_layer",
            adapter=folder.name,
            layer=name,
        )
    rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern, name), config.r)
    scale = _scaling(config, name, rank)
    a_R_I, b_O_R = pair["A"], pair["B"]
    outputs, inputs = _size(layer)
    if a_R_I.shape != (rank, inputs) or b_O_R.shape != (outputs, rank):
        raise ModelError(
            f"{folder.name} was trained on another base model: {name} has {outputs} outputs and "
            f"{inputs} inputs here",
            "load it on the base model named in its adapter_config.json",
            code="wrong_base",
            adapter=folder.name,
            layer=name,
        )
    device = layer.weight.device
    # As PEFT keeps them, in float32 also on a base in half precision.
    return LowRankMaps(a_R_I.float().to(device), (b_O_R.float() * scale).to(device))


def _expert(
    folder: Path,
    config: LoraConfig,
    place: tuple[str, str],
    pair: dict[str, Tensor],
    modules: dict[str, nn.Module],
) -> ExpertMaps:
    name, parameter = place
    maps = expert_maps(
        modules[name],
        parameter,
        pair["A"],
        pair["B"],
        lambda rank: _scaling(config, f"{name}.{parameter}", rank),
    )
    if maps is None:
        raise ModelError(
            f"{folder.name} was trained on another base model: the experts {name}.{parameter} have "
            "other sizes here",
            "load it on the base model named in its adapter_config.json",
            code="wrong_base",
            adapter=folder.name,
            layer=f"{name}.{parameter}",
        )
    return maps


def _scaling(config: LoraConfig, name: str, rank: int) -> float:
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, name), config.lora_alpha)
    return float(alpha / (math.sqrt(rank) if config.use_rslora else rank))


def _size(layer: nn.Linear | Conv1D) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):  # the weight of a 4-bit layer has another shape
        return layer.out_features, layer.in_features
    return int(layer.weight.shape[1]), int(layer.weight.shape[0])


def _not_plain(folder: Path, reason: str) -> ModelError:
    return ModelError(
        f"{folder.name} is not a plain LoRA adapter on linear layers ({reason})",
        "merge it into its base model and serve the merged model",
        code="not_plain_lora",
        adapter=folder.name,
        reason=reason,
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """Tokens [start, end) of a batch, which one adapter acts on; without an end all of them."""

    lora: LoadedAdapter
    start: int = 0
    end: int | None = None


class AdapterPool:
    """Adapters that are loaded on first use; the least recently used one goes when there are more.

    Args:
        model: the base; its linear layers get hooks, until `close`.
        most: adapters kept in memory.
    """

    def __init__(self, model: Any, most: int) -> None:
        self.most = most
        self._modules: dict[str, nn.Module] = dict(model.named_modules())
        self._loaded: OrderedDict[str, LoadedAdapter] = OrderedDict()
        self._numbers = count(1)
        self._hooks: dict[str, Any] = {}
        self._acting: list[_Run] = []
        self._experts: dict[str, dict[str, ExpertMaps]] = {}

    def number(self, folder: str | None, in_use: Sequence[int]) -> int:
        """The adapter's number, the base's for None; it is loaded where it is not.

        Adapters in use stay, even where there are then more than the bound.

        Raises:
            ModelError: the folder does not contain a plain LoRA adapter of this base model.
        """
        if folder is None:
            return BASE
        if folder not in self._loaded:
            maps = read_lora(Path(folder), self._modules)
            for name in maps.layers:
                self._add_hook(name)
            for name in maps.experts:
                self._add_expert_hooks(name)
            self._loaded[folder] = LoadedAdapter(next(self._numbers), maps)
        self._loaded.move_to_end(folder)
        self._drop({*in_use, self._loaded[folder].number})
        return self._loaded[folder].number

    @property
    def numbers(self) -> frozenset[int]:
        """Of the base and of what is loaded; other numbers mean nothing any more."""
        return frozenset({BASE, *(lora.number for lora in self._loaded.values())})

    def is_alone(self, number: int) -> bool:
        """Whether rows with this adapter need passes of their own, with `applied_to_all`."""
        return any(lora.number == number and lora.maps.experts for lora in self._loaded.values())

    def _drop(self, in_use: set[int]) -> None:
        for folder, lora in list(self._loaded.items()):
            if len(self._loaded) > self.most and lora.number not in in_use:
                del self._loaded[folder]

    def close(self) -> None:
        """The layers are as they were."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()

    @contextmanager
    def applied(self, spans: Sequence[tuple[int, int]]) -> Iterator[None]:
        """Within it the layers compute (adapter number, tokens) after one another as a sequence."""
        self._acting = self._runs(spans)
        try:
            yield
        finally:
            self._acting = []

    @contextmanager
    def applied_to_all(self, number: int) -> Iterator[None]:
        """Within it the layers compute everything with one adapter, in whatever shape."""
        loras = [lora for lora in self._loaded.values() if lora.number == number]
        self._acting = [_Run(lora) for lora in loras]
        self._experts = loras[0].maps.experts if loras else {}
        try:
            yield
        finally:
            self._acting, self._experts = [], {}

    def _runs(self, spans: Sequence[tuple[int, int]]) -> list[_Run]:
        loras = {lora.number: lora for lora in self._loaded.values()}
        result, start = [], 0
        for number, same in groupby(spans, key=itemgetter(0)):
            end = start + sum(size for _, size in same)
            if number != BASE:
                result.append(_Run(loras[number], start, end))
            start = end
        return result

    def _add_hook(self, name: str) -> None:
        if name in self._hooks:
            return

        def add(_: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> Tensor:
            """Add the low-rank maps of each adapter to the layer's output."""
            for run in self._acting:
                if (low := run.lora.maps.layers.get(name)) is not None:
                    _add(low, given[0], result, slice(run.start, run.end))
            return result

        self._hooks[name] = self._modules[name].register_forward_hook(add)

    def _add_expert_hooks(self, name: str) -> None:
        key = f"experts of {name}"
        if key not in self._hooks:
            acting = partial(self._acting_on_experts, name)
            self._hooks[key] = ExpertHooks(self._modules[name], acting)

    def _acting_on_experts(self, name: str) -> dict[str, ExpertMaps]:
        return self._experts.get(name, {})


def _add(low: LowRankMaps, x: Tensor, result: Tensor, tokens: slice) -> None:
    """Adds in place what the maps make of these tokens."""
    x_N_I = x.reshape(-1, x.shape[-1])[tokens].to(low.a_R_I.dtype)
    result_N_O = result.view(-1, result.shape[-1])[tokens]
    low_N_R = x_N_I @ low.a_R_I.T
    if result_N_O.dtype == low_N_R.dtype:
        result_N_O.addmm_(low_N_R, low.b_O_R.T)
    else:
        result_N_O.copy_(result_N_O + low_N_R @ low.b_O_R.T)
