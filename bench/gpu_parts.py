"""What bench/gpu.py measures in a process of its own: models with random weights, made rows."""

import gc
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from train_works import ALPHA, RANK, Work
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from burnish.inference.engine import Engine
from burnish.inference.scheduler import EngineLimits
from burnish.inference.types import GenerationRequest, SamplingSettings
from burnish.models.adapt import add_lora
from burnish.models.branches import Network, Row, branch_logprobs
from burnish.models.language_model import LanguageModel
from burnish.training.host_memory import peak_memory_mb
from burnish.training.objectives.dpo import Pair

SIZES: dict[str, dict[str, int]] = {
    "tiny": {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    },
    "0.1B": {
        "vocab_size": 49152, "hidden_size": 768, "intermediate_size": 2048,
        "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 4,
    },
    "1B": {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
    },
    "8B": {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    },
}  # fmt: skip
# Tokens that all rows begin with, tokens of a row's own prompt, and of its answer.
SHARED, PROMPT, ANSWER = 128, 256, 128
BATCH, STEPS, TINY_STEPS = 8, 12, 2
REQUESTS, WRITTEN = 32, 64


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def random_model(size: str, dtype: torch.dtype | None = None, place: str | None = None) -> Any:
    """A Llama of that size; the same weights on every call for a device."""
    torch.manual_seed(0)
    on_gpu = torch.cuda.is_available()
    config = LlamaConfig(
        **SIZES[size],
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=size == "1B",
    )
    dtype = dtype or (torch.bfloat16 if on_gpu else torch.float32)
    with torch.device(place or device()):
        return LlamaForCausalLM(config).to(dtype)


def made_tokenizer(size: str) -> PreTrainedTokenizerFast:
    """A word for every token of the vocabulary."""
    words = {f"w{number}": number for number in range(SIZES[size]["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="w0", bos_token="w1", eos_token="w2"
    )


@dataclass(frozen=True)
class GpuWork(Work):
    """A work of the training bench with random weights and rows."""

    size: str = "tiny"
    base: Callable[[str], Any] = random_model

    def model(self) -> Any:
        module = self.base(self.size)
        model = LanguageModel(module, made_tokenizer(self.size), name=self.size, source_sha256="0")
        if not hasattr(module, "peft_config"):
            model.module = add_lora(module, rank=RANK, alpha=ALPHA, seed=0)
        return model

    def batches(self, tokenizer: Any, steps: int) -> list[list[Any]]:
        chance = random.Random(0)
        words = range(4, SIZES[self.size]["vocab_size"])
        shared = chance.choices(words, k=SHARED)

        def answered(prompt: list[int]) -> Row:
            answer = [*chance.choices(words, k=ANSWER - 1), 2]
            return Row([*prompt, *answer], [0.0] * len(prompt) + [1.0] * ANSWER)

        def item() -> Any:
            prompt = [*shared, *chance.choices(words, k=PROMPT)]
            if self.objective == "sft":
                return answered(prompt)
            return Pair(answered(prompt), answered(prompt))

        return [[item() for _ in range(self.batch)] for _ in range(steps)]


def train(kind: str, size: str, side: str) -> dict[str, Any]:
    """Rate and peak memory of some steps."""
    batch = BATCH if kind == "sft" else BATCH // 2
    base = unsloth_model if side == "unsloth" else random_model
    work = GpuWork(kind, kind, None, batch, 4096, size=size, base=base)
    if side == "burnish":
        from train_burnish import run as measure
    else:
        from train_peers import run as measure
    named = "burnish" if side == "burnish" else "default"
    measure(work, named, 1)  # warms up: kernels are chosen, libraries loaded
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    found = measure(work, named, TINY_STEPS if size == "tiny" else STEPS)
    return {name: found[name] for name in ("tokens_per_second", "peak_mb")}


def unsloth_model(size: str) -> Any:
    """The same model with an adapter as Unsloth makes them; it loads from a folder alone."""
    from unsloth import FastLanguageModel

    with tempfile.TemporaryDirectory() as folder:
        random_model(size).save_pretrained(folder)
        made_tokenizer(size).save_pretrained(folder)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        model, _ = FastLanguageModel.from_pretrained(
            folder, dtype=torch.bfloat16, load_in_4bit=False, max_seq_length=4096
        )
    return FastLanguageModel.get_peft_model(
        model, r=RANK, lora_alpha=ALPHA, lora_dropout=0, use_gradient_checkpointing=False
    )


def parity(size: str) -> dict[str, str]:
    """Log-probabilities of rows: float32 here against the device, and against bfloat16 there."""
    here = random_model(size, torch.float32, "cpu").eval()
    rows = GpuWork("sft", "sft", None, 4, 4096, size=size).batches(None, 1)[0]
    with torch.no_grad():
        expected = branch_logprobs(Network(here), rows).values_N
        found = {}
        for dtype in (torch.float32, torch.bfloat16):
            there = here.to(device(), dtype)
            values = branch_logprobs(Network(there), rows).values_N.cpu()
            away = (values - expected).abs()
            name = str(dtype).removeprefix("torch.")
            found[f"{device()} in {name} with the CPU in float32"] = (
                f"log-probabilities differ by {away.mean():.1e} nats on average and "
                f"{away.max():.1e} at most"
            )
    return found


def engine(size: str, side: str) -> dict[str, Any]:
    """Tokens a second of answers that are written together behind one shared beginning."""
    chance = random.Random(0)
    words = range(4, SIZES[size]["vocab_size"])
    shared = chance.choices(words, k=SHARED)
    requests = 4 if size == "tiny" else REQUESTS
    prompts = [[*shared, *chance.choices(words, k=PROMPT)] for _ in range(requests)]
    rate = vllm_rate if side == "vllm" else burnish_rate
    return {"tokens_per_second": rate(size, prompts), "peak_mb": peak_memory_mb()}


def burnish_rate(size: str, prompts: list[list[int]]) -> float:
    module = random_model(size)
    model = LanguageModel(module, made_tokenizer(size), name=size, source_sha256="0")
    running = Engine(model, EngineLimits())
    running.stops = frozenset()
    sampling = SamplingSettings(max_tokens=WRITTEN, temperature=0.0)
    try:
        for part in (prompts[:1], prompts):  # the first one warms up
            started = time.perf_counter()
            answers = [running.submit(GenerationRequest(prompt, sampling)) for prompt in part]
            written = sum(len(piece.drawn) for answer in answers for piece in answer)
            seconds = time.perf_counter() - started
    finally:
        running.close(seconds=0)
    return written / seconds


def vllm_rate(size: str, prompts: list[list[int]]) -> float:
    from vllm import LLM, SamplingParams

    with tempfile.TemporaryDirectory() as folder:
        random_model(size, place="meta").config.save_pretrained(folder)
        made_tokenizer(size).save_pretrained(folder)
        running = LLM(folder, load_format="dummy", dtype="bfloat16", max_model_len=4096)
    sampling = SamplingParams(max_tokens=WRITTEN, temperature=0.0, ignore_eos=True)
    asked = [{"prompt_token_ids": prompt} for prompt in prompts]
    running.generate(asked[:1], sampling)
    started = time.perf_counter()
    answers = running.generate(asked, sampling)
    seconds = time.perf_counter() - started
    return sum(len(answer.outputs[0].token_ids) for answer in answers) / seconds


def run(kind: str, size: str, side: str) -> dict[str, Any]:
    """The result of one part."""
    if kind == "parity":
        return parity(size)
    return engine(size, side) if kind == "engine" else train(kind, size, side)
