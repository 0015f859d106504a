"""What the chat template decides for a run, from its rows to what is read back of it."""

import json
import shutil
from pathlib import Path

import burnish
from burnish.data.chat_templates import thinking_of
from burnish.data.render import render_prompt
from burnish.models.from_run import open_tuned
from burnish.models.lineage import recipe_of
from burnish.pipeline import verbs
from tests.data.family_templates import template_folder

EMPTY = "<think>\n\n</think>\n\n"


def rows(path: Path, count: int, thought: str = "") -> None:
    """Conversations of two exchanges, each with a system turn."""
    lines = []
    for number in range(count):
        turns = [{"role": "system", "content": "Be kind."}]
        for ask, answer in (("where", "red"), ("and now", "green")):
            turns.append({"role": "user", "content": f"{ask} {number}"})
            turns.append({"role": "assistant", "content": f"{thought}{answer} {number}"})
        lines.append(json.dumps({"messages": turns}))
    path.write_text("\n".join(lines) + "\n")


def model(folder: Path, tiny_folder: Path, name: str) -> Path:
    """The tiny model with a chat template of another family."""
    shutil.copytree(tiny_folder, folder)
    shutil.copy(template_folder() / f"{name}.jinja", folder / "chat_template.jinja")
    return folder


def test_a_run_learns_branches_and_asks_without_a_thought(
    tmp_path: Path, tiny_folder: Path
) -> None:
    rows(tmp_path / "rows.jsonl", 40)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: qwen\nmodel: {model(tmp_path / 'model', tiny_folder, 'qwen3')}\ndevice: cpu\n"
        f"data: {{train: rows.jsonl}}\ntraining: {{epochs: 1, learning_rate: 0.01}}\n"
        f"evaluate: {{general: null}}\noutput: {tmp_path / 'runs'}\n"
    )
    run = verbs.train(path, quiet=True)
    assert recipe_of(run.manifest()).model_settings.thinking is False
    (finding,) = [one for one in run.findings() if one.kind == "thinking"]
    assert (finding.severity, finding.count) == ("info", 0)
    tuned = open_tuned(run)
    assert thinking_of(tuned.tokenizer) is False
    (example,) = run.split("test")[:1]
    prompt = tuned.tokenizer.decode(render_prompt(example.prompt, tuned.tokenizer))
    assert prompt.endswith(f"<|im_start|>assistant\n{EMPTY}")
    assert prompt.count(EMPTY) == 1
    again = verbs.train(path, quiet=True, resume=True)
    assert again.manifest().state == run.manifest().state


def test_check_counts_conversations_and_reads_blocks(tmp_path: Path, tiny_folder: Path) -> None:
    rows(tmp_path / "rows.jsonl", 40, "<think>\nhm\n</think>\n\n")
    folder = model(tmp_path / "model", tiny_folder, "qwen3")
    checked = burnish.check(tmp_path / "rows.jsonl", model=str(folder))
    assert checked.thinking is True
    assert {turn.reasoning for e in checked.dataset.train for turn in e.messages[2::2]} == {"hm"}
    assert len(checked.kept("train")) == len(checked.dataset.train)
    assert len(checked.rendered["train"]) == 2 * len(checked.dataset.train)
    assert not [one for one in checked.findings if one.kind == "reasoning"]
    bare = model(tmp_path / "gemma", tiny_folder, "gemma")
    gemma = burnish.check(tmp_path / "rows.jsonl", model=str(bare))
    (finding,) = [one for one in gemma.findings if one.kind == "system text"]
    assert finding.count == len(gemma.dataset.train)
    assert gemma.thinking is None
