"""A CUDA device without numbers: what a program would do on one, seen on any machine.

What the program puts on `cuda` lies on torch's meta device, which has shapes and dtypes and no
numbers, and says that it is on `cuda`. (FakeTensorMode has the same tensors underneath, but a build
of torch without CUDA cannot compute their gradients.) Tensors on the CPU are real, so that the
program takes the ways that it really takes. What CUDA would refuse fails: operations between the
two devices, and matrix products of two dtypes. What makes the processor wait for the device is
counted:

    numbers read from the device    `.item()`, `float(x)`, `.tolist()`, `.cpu()`, `bool(x)`
    sizes that depend on numbers    `nonzero`, an index of truth values
    uploads that wait               `.to("cuda")` from memory that is not pinned: torch synchronises
                                    the stream behind such a copy

Numbers that are read are zeros, whole numbers ones, and truth values true.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA, META = torch.device("cuda", 0), torch.device("meta")
_aten = torch.ops.aten
_PRODUCTS = {_aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm, _aten.addmm_, _aten.linear}
_INDEXED = {_aten.index, _aten.index_put, _aten.index_put_}


class FakeGpu(TorchDispatchMode):
    """Counts what waits for the device; see the module.

    Attributes:
        waits: how often numbers of the device were needed, by the lines that asked.
        uploads: how often memory that is not pinned was sent, by line.
        products: how many matrix products there were, by dtype and line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.products: Counter[tuple[torch.dtype, str]] = Counter()
        self._pinned: dict[int, Tensor] = {}
        self._inside = False

    def reset(self) -> None:
        """Starts to count again."""
        for counter in (self.waits, self.uploads, self.products):
            counter.clear()

    @property
    def shows_cuda(self) -> bool:
        """Whether the program looks at a tensor, and not torch within an operation."""
        return not self._inside

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        before, self._inside = self._inside, True
        try:
            return self._dispatch(func, args, dict(kwargs or {}))
        finally:
            self._inside = before

    def _dispatch(self, func: Any, args: Any, options: dict[str, Any]) -> Any:
        packet = func.overloadpacket
        if torch.is_inference_mode_enabled():  # whose operations are not in parts yet
            with self:
                result = func.decompose(*args, **options)
            if result is not NotImplemented:
                return result
        if packet in (_aten.is_pinned, _aten._pin_memory):
            return self._pin(packet, args[0])
        leaves = [x for x in tree_leaves((args, options)) if isinstance(x, Tensor)]
        if not any(x.is_meta for x in leaves):
            if leaves and options.get("device") == META:
                self._upload(leaves[0], options.get("non_blocking"))
            return func(*args, **options)
        if (reading := self._read(packet, args, options)) is not NotImplemented:
            return reading
        if packet is _aten.copy_ and not args[1].is_meta:
            self._upload(args[1], (args[2:] or [False])[0])
            return args[0]
        if packet in _INDEXED:
            args = (args[0], self._all_chosen(args[1]), *args[2:])
        elif strays := [x for x in leaves if not x.is_meta and x.dim()]:
            raise AssertionError(f"{func}: shape {[*strays[0].shape]} is on the CPU at {line()}")
        if packet in _PRODUCTS:
            dtypes = {x.dtype for x in leaves if x.is_floating_point()}
            assert len(dtypes) == 1, f"{func} of {dtypes} at {line()}"
            self.products[dtypes.pop(), line()] += 1
        return func(*args, **options)

    def _pin(self, packet: Any, tensor: Tensor) -> Any:
        if packet is _aten.is_pinned:
            return id(tensor) in self._pinned
        copy = tensor.clone()
        self._pinned[id(copy)] = copy
        return copy

    def _upload(self, tensor: Tensor, non_blocking: Any) -> None:
        if tensor.numel() and not (non_blocking and id(tensor) in self._pinned):
            self.uploads[line()] += 1

    def _read(self, packet: Any, args: Any, options: Mapping[str, Any]) -> Any:
        """What stands for numbers of the device, where numbers are needed."""
        result: Any = NotImplemented
        if packet is _aten._local_scalar_dense:
            result = args[0].dtype.is_floating_point or 1
            result = 0.0 if args[0].is_floating_point() else args[0].dtype is torch.bool or 1
        elif packet is _aten.equal:
            result = True
        elif packet is _aten.nonzero:
            result = torch.empty(args[0].numel(), args[0].dim(), dtype=torch.long, device=META)
        elif packet is _aten._to_copy and torch.device(options.get("device") or META) != META:
            dtype = options.get("dtype") or args[0].dtype
            result = torch.full(args[0].shape, 0 if dtype.is_floating_point else 1, dtype=dtype)
        elif packet is _aten.copy_ and not args[0].is_meta:
            result = args[0].fill_(0 if args[0].is_floating_point() else 1)
        if result is not NotImplemented:
            self.waits[line()] += 1
        return result

    def _all_chosen(self, indices: Any) -> list[Tensor | None]:
        """Indices with places for truth values: all of them, which waits as `nonzero` does."""
        result: list[Tensor | None] = []
        for index in indices:
            if index is not None and not index.is_meta:  # torch sends it to the device first
                self._upload(index, non_blocking=False)
                index = torch.empty_like(index, device=META)
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                self.waits[line()] += 1
                size = (index.numel(), index.dim())
                result += torch.empty(*size, dtype=torch.long, device=META).unbind(1)
            else:
                result.append(index)
        return result


class _OnMeta(TorchFunctionMode):
    """Gives torch the meta device where the program says cuda."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        args, options = tree_map(_meta_for_cuda, (args, dict(kwargs or {})))
        if func in (torch.tensor, torch.as_tensor) and options.get("device") == META:
            del options["device"]
            return func(*args, **options).to(META)
        if func is functional.scaled_dot_product_attention and args[0].is_meta:
            return _attention(*args, **options)
        return func(*args, **options)


def _meta_for_cuda(value: Any) -> Any:
    if isinstance(value, torch.device):
        return META if value.type == "cuda" else value
    return META if isinstance(value, str) and value.startswith("cuda") else value


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The kernel that CUDA has for any mask; the meta device alone would write out all scores."""
    dtypes = {query.dtype, key.dtype, value.dtype}
    if attn_mask is not None:
        assert attn_mask.is_meta, f"the attention mask is on the CPU at {line()}"
        if attn_mask.dtype is not torch.bool:
            dtypes.add(attn_mask.dtype)
        attn_mask = torch.zeros((*query.shape[:-1], key.shape[-2]), dtype=query.dtype, device=META)
    assert len(dtypes) == 1, f"attention of {dtypes} at {line()}"
    if enable_gqa:
        key, value = (
            x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value)
        )
    result: Tensor = _aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )[0]
    return result


def line() -> str:
    """The innermost line that is not torch's, as `folder/file:number`."""
    frame = sys._getframe(1)
    while "/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__:
        assert frame.f_back is not None
        frame = frame.f_back
    return f"{'/'.join(frame.f_code.co_filename.split('/')[-2:])}:{frame.f_lineno}"


@contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """Within it, and in its thread, `cuda` is a device without numbers."""
    gpu, real, generator = FakeGpu(), torch.Tensor.device, torch.Generator

    def device(tensor: Tensor) -> torch.device:
        found: torch.device = real.__get__(tensor)
        return CUDA if found == META and gpu.shows_cuda else found

    monkeypatch.setattr(torch.Tensor, "device", property(device), raising=False)
    monkeypatch.setattr(torch, "Generator", lambda *_: generator())
    with gpu, _OnMeta():
        yield gpu


def on_gpu(model: Any, gpu: FakeGpu) -> Any:
    """The model, which is on the CPU, with its weights and buffers on the device."""
    moved: dict[int, Any] = {}

    def move(tensor: Tensor) -> Tensor:
        if id(tensor) not in moved:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=CUDA)
            is_weight = isinstance(tensor, nn.Parameter)
            moved[id(tensor)] = (
                nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_weight else empty
            )
        result: Tensor = moved[id(tensor)]
        return result

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = move(tensor)
    gpu.reset()
    return model


def total(counter: Counter[Any]) -> int:
    """How many were counted in all."""
    return sum(counter.values())
