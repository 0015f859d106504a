"""Graders as rewards of a recipe."""

import json
from pathlib import Path
from typing import Any

import pytest

import burnish
from burnish.conversation import Example, Message
from burnish.data.readers.read_rows import Row
from burnish.data.recognise import Converter
from burnish.errors import GraderError
from burnish.evaluation.graders import GraderModels, parse_grader
from burnish.evaluation.rewards import (
    graded_reward,
    grader_item,
    grader_reward,
    load_reward,
    local_chat,
)
from tests.refused import refused

EXAMPLE = Example("1", (Message("user", "capital?"),), item={"reference": {"city": "Paris"}})
LIKE = {"type": "string_check", "operation": "like", "input": "{{sample.output_text}}"}


def written(path: Path, spec: dict[str, Any]) -> str:
    path.write_text(json.dumps(spec))
    return str(path)


def test_a_recipe_names_a_grader(tmp_path: Path) -> None:
    spec = LIKE | {"reference": "{{ item.reference.city }}"}
    name = written(tmp_path / "grader.json", spec)
    assert load_reward(name)(["It is Paris", "Rome"], [EXAMPLE] * 2) == [1.0, 0.0]
    before = graded_reward(name)[1]
    written(tmp_path / "grader.json", spec | {"operation": "eq"})
    reward, after = graded_reward(name)
    assert before != after
    assert reward(["It is Paris"], [EXAMPLE]) == [0.0]


def test_what_a_grader_reads_of_a_row() -> None:
    answered = Example("2", (Message("user", "2+2"), Message("assistant", "4")), label="4")
    asked = [{"role": "user", "content": "2+2"}]
    assert grader_item(answered) == {"messages": asked, "expected": "4", "label": "4"}
    assert grader_item(EXAMPLE)["reference"] == {"city": "Paris"}


def test_a_row_of_a_prompt_keeps_its_other_fields() -> None:
    converter = Converter({"prompt": "messages"})
    turns = [{"role": "user", "content": "capital?"}]
    rows = [{"messages": turns, "answer": answer} for answer in ("Paris", "Rome")]
    first, second = (converter.convert(Row(row, "f:1")) for row in rows)
    assert isinstance(first, Example)
    assert isinstance(second, Example)
    assert first.item == {"answer": "Paris"}
    assert first.id != second.id
    assert first.content != second.content
    assert Example.from_row(json.loads(json.dumps(first.to_row()))) == first
    plain = Converter({}).convert(Row({"prompt": "capital?"}, "f:1"))
    assert isinstance(plain, Example)
    assert plain.item is None


def test_a_grader_that_grades_nothing_is_told() -> None:
    models = GraderModels()
    spec = {"type": "python", "source": "def grade(sample, item):\n    return sample['nothing']\n"}
    reward = grader_reward(parse_grader(spec), models)
    assert reward(["a"] * 15, [EXAMPLE] * 15) == [0.0] * 15
    flag = "python_grader_runtime_error"
    with refused("nothing_graded", GraderError, flag=flag) as error:
        reward(["a"], [EXAMPLE])
    assert "KeyError" in error.value.seen
    some = grader_reward(parse_grader(LIKE | {"reference": "{{sample.output_json.x}}"}), models)
    assert some(['{"x": "x"}', *"abc"], [EXAMPLE] * 4) == [1.0, 0.0, 0.0, 0.0]
    assert some(["a"] * 20, [EXAMPLE] * 20) == [0.0] * 20


def test_a_model_of_this_machine_judges(tiny_folder: Path) -> None:
    spec = {
        "type": "label_model",
        "model": str(tiny_folder),
        "labels": ["good"],
        "passing_labels": ["good"],
        "input": [{"role": "user", "content": "{{sample.output_text}}"}],
    }
    models = GraderModels(local_chat())
    # What a model of random weights says is no label; it did say something.
    with refused("nothing_graded", GraderError, flag="model_grader_parse_error"):
        grader_reward(parse_grader(spec, models), models)(["red"] * 16, [EXAMPLE] * 16)
    unknown = spec | {"model": str(tiny_folder / "none")}
    flag = "model_grader_server_error"
    with refused("nothing_graded", GraderError, flag=flag) as error:
        grader_reward(parse_grader(unknown, models), models)(["red"], [EXAMPLE])
    assert "ModelError" in error.value.seen


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
def test_training_by_a_grader(tiny_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"tent {n}", "wanted": "e"} for n in range(24)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    name = written(tmp_path / "grader.json", LIKE | {"reference": "{{item.wanted}}"})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"data: {{train: {data}}}\nobjective: grpo\n"
        f"grpo: {{reward: {name}, num_generations: 4, max_new_tokens: 4}}\n"
        "training: {epochs: 1, batch_size: 4, learning_rate: 0.02, preflight: false}\n"
        "evaluate: {general: null}\n"
    )
    run = burnish.train(recipe, quiet=True, model=str(tiny_folder), output=str(tmp_path / "runs"))
    rewards = [event["reward"] for event in run.events("train")]
    assert any(0 < value < 1 for value in rewards)
    assert run.split("train")[0].item == {"wanted": "e"}


def test_a_changed_function_is_another_measure(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("def short(answers, examples):\n    return [1.0 for _ in answers]\n")
    _, before = graded_reward(f"{file}:short")
    assert graded_reward(f"{file}:short")[1] == before
    file.write_text("def short(answers, examples):\n    return [0.0 for _ in answers]\n")
    assert graded_reward(f"{file}:short")[1] != before
