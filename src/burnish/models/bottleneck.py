"""Bottleneck adapters: small networks after the output projections of attention and MLP.

Houlsby et al. 2019 (arXiv 1902.00751) put one after both, before the residual connection;
Pfeiffer et al. 2021 (arXiv 2005.00247) one after the MLP only. PEFT has no such method and its
list of methods is closed, so the folder looks like PEFT's (`adapter_config.json` with the type
BOTTLENECK, `adapter_model.safetensors`) but only Burnish reads it.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from burnish.models.adapter_files import adapter_settings
from burnish.models.layers import layer_stack, output_path

TYPE = "BOTTLENECK"
After = Literal["both", "mlp"]


class _Bottleneck(nn.Module):
    """x + up(gelu(down(x))); `up` starts at zero, so that training starts at the base exactly."""

    def __init__(self, hidden: int, size: int, device: torch.device) -> None:
        super().__init__()
        self.down = nn.Linear(hidden, size, device=device)
        self.up = nn.Linear(size, hidden, device=device)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        # The adapter stays in float32 under a bfloat16 model, as PEFT's adapters do.
        changed: Tensor = self.up(nn.functional.gelu(self.down(x.to(self.down.weight.dtype))))
        return x + changed.to(x.dtype)


class BottleneckModel(nn.Module):
    """A frozen model with bottleneck adapters hooked after its projections.

    It offers the parts of `PeftModel` that Burnish uses: `get_base_model`, `disable_adapter`,
    `save_pretrained` and the attributes of the model inside.
    """

    def __init__(self, model: Any, *, size: int, after: After) -> None:
        super().__init__()
        self.base_model = model.requires_grad_(False)
        self.size, self.after = size, after
        self.adapters = nn.ModuleDict()
        self._on = True
        hidden = int(model.config.get_text_config().hidden_size)
        parts: tuple[Literal["attention", "mlp"], ...] = ("attention", "mlp")
        paths = [output_path(model, part) for part in parts if self.after in ("both", part)]
        for number, layer in enumerate(layer_stack(model)[1]):
            for path in paths:
                projection: Any = layer.get_submodule(path)
                adapter = _Bottleneck(hidden, size, projection.weight.device)
                self.adapters[f"{number}:{path}".replace(".", "/")] = adapter
                projection.register_forward_hook(self._behind(adapter))

    def _behind(self, adapter: _Bottleneck) -> Any:
        def hook(_module: Any, _inputs: Any, output: Tensor) -> Tensor | None:
            return adapter(output) if self._on else None

        return hook

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_model":  # asked for before it is set
                raise
            return getattr(self.base_model, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model(*args, **kwargs)

    def get_base_model(self) -> Any:
        return self.base_model

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[None]:
        before, self._on = self._on, False
        try:
            yield
        finally:
            self._on = before

    def save_pretrained(self, folder: str) -> None:
        """Saves the adapters and their settings, but not the model."""
        base = getattr(self.base_model, "name_or_path", None)
        settings = {"peft_type": TYPE, "base_model_name_or_path": base}
        settings |= {"size": self.size, "after": self.after}
        (Path(folder) / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")
        save_file(self.adapters.state_dict(), str(Path(folder) / "adapter_model.safetensors"))

    def load(self, folder: Path) -> None:
        """Loads saved adapters of the same shape.

        Raises:
            RuntimeError: their shapes differ.
        """
        self.adapters.load_state_dict(load_file(str(folder / "adapter_model.safetensors")))


def is_bottleneck(folder: Path) -> bool:
    """Whether a folder contains bottleneck adapters rather than an adapter of PEFT."""
    return bool(adapter_settings(folder).get("peft_type") == TYPE)


def load_bottleneck(model: Any, folder: Path) -> BottleneckModel:
    """Adds saved adapters to their base model; see `BottleneckModel.load` for errors."""
    settings = adapter_settings(folder)
    made = BottleneckModel(model, size=settings["size"], after=settings["after"])
    made.load(folder)
    return made
