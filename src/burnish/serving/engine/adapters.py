"""Several LoRA adapters on one set of base weights: in a batch each token has its own, or none.

The low-rank maps of all adapters that act in a batch are laid side by side, `A` by rows and `B` by
columns, so that a layer costs two small products more however many adapters there are; what a
token's own adapter did not make is set to 0 between the two. That is PEFT's formula, `W x + scale
B A x`, for every token.

Shapes: N tokens, I inputs, O outputs, R rank, or the sum of ranks side by side.
"""

import json
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from burnish.errors import ModelError

BASE = 0
# Fields of a configuration that, once set, make the adapter more than low-rank maps beside
# linear layers.
_MORE = (
    "use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "layer_replication",
    "target_parameters", "use_qalora", "alora_invocation_tokens", "use_bdlora", "arrow_config",
    "kasa_config", "velora_config", "monteclora_config",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Low:
    """One layer's low-rank maps; PEFT's scale is worked into `b_O_R`."""

    a_R_I: Tensor
    b_O_R: Tensor


@dataclass(frozen=True, slots=True)
class Lora:
    """A loaded adapter: its number, never given twice, and its maps by the layer's name."""

    number: int
    layers: dict[str, Low]


def read_lora(folder: Path, modules: dict[str, nn.Module]) -> dict[str, Low]:
    """The low-rank maps of an adapter folder for the linear layers of a base model.

    Raises:
        ModelError: the folder holds no plain LoRA adapter of this base.
    """
    config = _config(folder)
    tensors = _tensors(folder)
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, end = key.removeprefix("base_model.model.").rpartition(".lora_")
        if end not in ("A.weight", "B.weight"):
            raise _not_plain(folder, f"holds {key}")
        pairs.setdefault(name, {})[end[0]] = tensor
    return {name: _low(folder, config, name, pair, modules) for name, pair in pairs.items()}


def _config(folder: Path) -> LoraConfig:
    try:
        given = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder.name} holds no adapter that can be read",
            "name a folder with adapter_config.json",
        ) from error
    method = given.get("peft_type")
    if method != "LORA":
        raise _not_plain(folder, f"is of the method {method}")
    config = LoraConfig.from_pretrained(str(folder))
    more = [name for name in _MORE if getattr(config, name, None)]
    if config.bias != "none":
        more.append(f"bias={config.bias}")
    if more:
        raise _not_plain(folder, f"sets {', '.join(more)}")
    return config


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Of a safetensors file; other formats could run code."""
    try:
        return load_file(folder / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{folder.name} has no adapter_model.safetensors that can be read",
            "save the adapter again with safe serialization",
        ) from error


def _low(
    folder: Path,
    config: LoraConfig,
    name: str,
    pair: dict[str, Tensor],
    modules: dict[str, nn.Module],
) -> Low:
    layer = modules.get(name)
    if not isinstance(layer, nn.Linear | Conv1D):
        raise ModelError(
            f"{folder.name} adapts {name}, which is no linear layer of this base",
            "load it on the model that its adapter_config.json names",
        )
    if set(pair) != {"A", "B"}:
        raise _not_plain(folder, f"has half of {name}")
    rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern, name), config.r)
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, name), config.lora_alpha)
    scale = alpha / (math.sqrt(rank) if config.use_rslora else rank)
    a_R_I, b_O_R = pair["A"], pair["B"]
    outputs, inputs = _size(layer)
    if a_R_I.shape != (rank, inputs) or b_O_R.shape != (outputs, rank):
        raise ModelError(
            f"{folder.name} was made for another base: {name} has {outputs} outputs and "
            f"{inputs} inputs here",
            "load it on the model that its adapter_config.json names",
        )
    device = layer.weight.device
    # As PEFT keeps them, in float32 also on a base in half precision.
    return Low(a_R_I.float().to(device), (b_O_R.float() * scale).to(device))


def _size(layer: nn.Linear | Conv1D) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):  # the weight of a 4-bit layer has another shape
        return layer.out_features, layer.in_features
    return int(layer.weight.shape[1]), int(layer.weight.shape[0])


def _not_plain(folder: Path, reason: str) -> ModelError:
    return ModelError(
        f"{folder.name} is no plain LoRA adapter on linear layers ({reason})",
        "merge it into its base and serve that as a model of its own",
    )


@dataclass(slots=True)
class _Stack:
    """The maps of several adapters side by side, by layer; `ranks` of each adapter in each."""

    numbers: tuple[int, ...]
    layers: dict[str, Low]
    ranks: dict[str, tuple[int, ...]]


@dataclass(slots=True)
class _Acting:
    """What the layers add now: the stack, and for each token which adapters of it act, (N, K)."""

    stack: _Stack
    own_N_K: Tensor
    masks: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def mask(self, ranks: tuple[int, ...]) -> Tensor:
        """1 at the ranks of a token's own adapter, 0 elsewhere, (N, R)."""
        if ranks not in self.masks:
            repeats = torch.tensor(ranks, device=self.own_N_K.device)
            self.masks[ranks] = self.own_N_K.repeat_interleave(repeats, dim=1)
        return self.masks[ranks]


class Adapters:
    """Adapters that are loaded on first use; the least recently used one goes when there are more.

    Args:
        model: the base; its linear layers get hooks, until `close`.
        most: adapters kept in memory.
    """

    def __init__(self, model: Any, most: int) -> None:
        self.most = most
        self._modules: dict[str, nn.Module] = dict(model.named_modules())
        self._loaded: OrderedDict[str, Lora] = OrderedDict()
        self._numbers = count(1)
        self._hooks: dict[str, Any] = {}
        self._stack = _Stack((), {}, {})
        self._acting: _Acting | None = None

    def number(self, folder: str | None, in_use: Sequence[int]) -> int:
        """The adapter's number, the base's for None; it is loaded where it is not.

        Adapters in use stay, even where there are then more than the bound.

        Raises:
            ModelError: the folder holds no plain LoRA adapter of this base.
        """
        if folder is None:
            return BASE
        if folder not in self._loaded:
            layers = read_lora(Path(folder), self._modules)
            for name in layers:
                self._watch(name)
            self._loaded[folder] = Lora(next(self._numbers), layers)
        self._loaded.move_to_end(folder)
        self._drop({*in_use, self._loaded[folder].number})
        return self._loaded[folder].number

    @property
    def numbers(self) -> frozenset[int]:
        """Of the base and of what is loaded; other numbers mean nothing any more."""
        return frozenset({BASE, *(lora.number for lora in self._loaded.values())})

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
    def acting(self, spans: Sequence[tuple[int, int]]) -> Iterator[None]:
        """Within it the layers compute (adapter number, tokens) after one another as a sequence."""
        numbers = tuple(sorted({number for number, _ in spans if number != BASE}))
        if numbers:
            stack = self._stacked(numbers)
            own_N_K = torch.tensor(
                [
                    [float(n == number) for n in numbers]
                    for number, size in spans
                    for _ in range(size)
                ]
            )
            device = next(iter(stack.layers.values())).a_R_I.device if stack.layers else "cpu"
            self._acting = _Acting(stack, own_N_K.to(device))
        try:
            yield
        finally:
            self._acting = None

    def _stacked(self, numbers: tuple[int, ...]) -> _Stack:
        """Laid side by side anew only when other adapters act than in the step before."""
        if self._stack.numbers != numbers:
            loras = {lora.number: lora for lora in self._loaded.values()}
            self._stack = _stack([loras[number] for number in numbers])
        return self._stack

    def _watch(self, name: str) -> None:
        if name in self._hooks:
            return

        def add(_: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> Tensor:
            acting = self._acting
            if acting is None or name not in acting.stack.layers:
                return result
            return _added(acting, name, given[0], result)

        self._hooks[name] = self._modules[name].register_forward_hook(add)


def _added(acting: _Acting, name: str, x: Tensor, result: Tensor) -> Tensor:
    low, ranks = acting.stack.layers[name], acting.stack.ranks[name]
    x_N_I = x.reshape(-1, x.shape[-1]).to(low.a_R_I.dtype)
    low_N_R = (x_N_I @ low.a_R_I.T).mul_(acting.mask(ranks))
    flat_N_O = result.view(-1, result.shape[-1])
    if flat_N_O.dtype == low_N_R.dtype:
        flat_N_O.addmm_(low_N_R, low.b_O_R.T)
        return result
    return (flat_N_O + low_N_R @ low.b_O_R.T).to(result.dtype).view_as(result)


def _stack(loras: Sequence[Lora]) -> _Stack:
    names = list(dict.fromkeys(name for lora in loras for name in lora.layers))
    layers, ranks = {}, {}
    for name in names:
        found = [lora.layers.get(name) for lora in loras]
        ranks[name] = tuple(0 if low is None else len(low.a_R_I) for low in found)
        there = [low for low in found if low is not None]
        if len(there) == 1:
            layers[name] = there[0]
            continue
        layers[name] = Low(
            torch.cat([low.a_R_I for low in there]), torch.cat([low.b_O_R for low in there], dim=1)
        )
    return _Stack(tuple(lora.number for lora in loras), layers, ranks)
