"""Every chat template that trl carries: what is learnt is what the model is asked for."""

import json
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from burnish.conversation import Conversation, Example, Message
from burnish.data.answer_text import answer_decoder
from burnish.data.call_formats import FunctionCall
from burnish.data.chat_templates import known_stop_texts, set_thinking
from burnish.data.render import Rendered, render_branches, render_prompt
from burnish.data.template_text import form_for
from burnish.inference.tool_calls import parse_tool_calls, text_before_calls
from burnish.serving.catalog.served_model import prompt_tokens
from tests.data.family_templates import family_tokenizer, template_folder, template_names

NAMES = template_names()
# Those for which trl has a training template.
TRAINING = [name for name in NAMES if (template_folder() / f"{name}_training.jinja").exists()]
# Templates that write no calls in any turn.
WITHOUT_CALLS = {
    *("cohere", "cohere2", "deepseek_r1_distill", "gemma", "gemma3", "idefics3", "lfm2", "llama3"),
    *("llava_next", "phi3", "phi3_5", "qwen2_5_vl", "smolvlm"),
}
TOOLS = json.dumps(
    [
        {
            "type": "function",
            "function": {
                "name": "look",
                "description": "Looks for a parcel.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "where": {"type": "string", "description": "The place."},
                        "count": {"type": "integer", "description": "How many."},
                        "open": {"type": "boolean", "description": "Whether it is open."},
                        "box": {"type": "object", "description": "The box."},
                        "tags": {"type": "array", "description": "Its tags."},
                    },
                    "required": ["where"],
                },
            },
        }
    ]
)
CALLS = [
    FunctionCall("look", {"where": "tent"}),
    FunctionCall("look", {"where": "5", "count": 5, "open": True}),
    FunctionCall("look", {"where": 'Zürich, "7" 東京 it\'s\nhere', "count": -1}),
    FunctionCall("look", {"where": "a", "box": {"size": {"x": 1.5, "of": ["é", None, False]}}}),
    FunctionCall("look", {"where": "b", "tags": ["red", "green, blue", 3]}),
]
# Their templates write one call per turn.
ONE_CALL = ("llama3", "gptoss")


@pytest.fixture(scope="module")
def tokenizer_of(tiny_tokenizer: Any) -> Any:
    """The tokenizer of a template, made once."""
    return cache(lambda name: family_tokenizer(name, tiny_tokenizer))


def conversation(seed: int, *, thinks: bool, tools: bool) -> Conversation:
    """A random conversation of one to three exchanges."""
    drawn = random.Random(seed)

    def say(*words: str) -> str:
        return " ".join(drawn.choices([*words, "tent", "é😀", "3.\nNo"], k=drawn.randint(1, 5)))

    turns = [Message("system", say("Answer", "kindly"))] if drawn.random() < 0.5 else []
    for number in range(drawn.randint(1, 3)):
        turns.append(Message("user", f"q{number} {say('where', 'is')}?"))
        if tools and drawn.random() < 0.6:
            thought = say("hm", "so") if thinks and drawn.random() < 0.7 else ""
            call = drawn.choice(CALLS[:2])
            turns += [Message("assistant", call.text, reasoning=thought)]
            turns += [Message("tool", f"result {say('ok')}.")]
        thought = say("hm", "so") if thinks and drawn.random() < 0.7 else ""
        turns.append(Message("assistant", f"a{number} {say('in', 'it')}.", reasoning=thought))
    if tools:
        first = next(n for n, turn in enumerate(turns) if turn.role == "user")
        turns[first] = Message("user", turns[first].content, tools=TOOLS)
    return tuple(turns)


def spans(row: Rendered) -> Iterator[tuple[int, int]]:
    """Where the learnt parts of a row begin and end."""
    weights = [0.0, *row.weights, 0.0]
    starts = [n for n in range(len(row.weights)) if weights[n + 1] and not weights[n]]
    ends = [n + 1 for n in range(len(row.weights)) if weights[n + 1] and not weights[n + 2]]
    return zip(starts, ends, strict=True)


def served(turns: Conversation) -> list[dict[str, Any]]:
    """The turns as a client of the API sends them."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        message: dict[str, Any] = {"role": turn.role, "content": turn.content}
        if turn.reasoning:
            message["reasoning_content"] = turn.reasoning
        if turn.content.startswith("<tool_call>"):
            call = json.loads(turn.content.removeprefix("<tool_call>").removesuffix("</tool_call>"))
            function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
            message |= {"content": None, "tool_calls": [{"type": "function", "function": function}]}
        messages.append(message)
    return messages


def check(turns: Conversation, tokenizer: Any) -> None:
    """That each answer of a conversation is learnt behind the prompt that the server writes."""
    tools = next((json.loads(turn.tools) for turn in turns if turn.tools), [])
    form = form_for(tokenizer, tools)
    rows = render_branches(Example("x", turns, source="f:1"), tokenizer)
    learnt = [(row, start, end) for row in rows for start, end in spans(row)]
    answers = [(n, turn) for n, turn in enumerate(turns) if turn.role == "assistant"]
    assert len(learnt) == len(answers)
    stops = tuple(known_stop_texts(tokenizer))
    left = list(learnt)
    for place, turn in answers:
        set_thinking(tokenizer, bool(turn.reasoning and form.reasoning) if form.thinks else None)
        prompt = prompt_tokens(served(turns[:place]), tools, tokenizer)
        if tools:  # they stand on the first user turn
            assert list(prompt) == render_prompt(turns[:place], tokenizer)
        mine = [(row, a, b) for row, a, b in left if tuple(row.tokens[:a]) == prompt]
        assert mine, f"no answer is learnt behind {tokenizer.decode(prompt)!r}"
        row, start, end = mine[0]
        left.remove(mine[0])
        text = tokenizer.decode(row.tokens[start:end])
        assert text.endswith(stops)
        assert "q0" not in text
        assert "result" not in text
        if form.reasoning:
            assert turn.reasoning in text
        if not turn.content.startswith("<tool_call>"):
            assert turn.content in text
    set_thinking(tokenizer, None)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_learnt_is_what_the_model_is_asked_for(tokenizer_of: Any, name: str) -> None:
    tokenizer = tokenizer_of(name)
    has_tools = form_for(tokenizer).has_tools
    for seed in range(12):
        tools = has_tools and seed % 3 == 0
        check(conversation(seed, thinks=seed % 2 == 0, tools=tools), tokenizer)


@pytest.mark.parametrize("name", TRAINING)
def test_trl_learns_the_same_answers(tokenizer_of: Any, name: str) -> None:
    """Differences: trl also learns what our prompt has (the end of a header, an empty thought that
    the server writes), and white space behind the stop token. Of gpt-oss it learns the end of
    earlier answers as they are read later, and of DeepSeek answers behind a header that the prompt
    for an answer never ends with, since it opens a thought."""
    path = template_folder() / f"{name}_training.jinja"
    tokenizer = tokenizer_of(name)
    form = form_for(tokenizer)
    texts = ("q one", "yes it is", "q two", "no not")
    turns = tuple(Message("user" if n % 2 == 0 else "assistant", t) for n, t in enumerate(texts))
    rows = render_branches(Example("x", turns, source="f:1"), tokenizer)
    ours = [(row.tokens[:a], row.tokens[a:b]) for row in rows for a, b in spans(row)]
    contents: list[Any] = [[{"type": "text", "text": t}] if form.in_parts else t for t in texts]
    messages = [
        {"role": turn.role, "content": content}
        for turn, content in zip(turns, contents, strict=True)
    ]
    theirs = tokenizer.apply_chat_template(
        messages,
        chat_template=path.read_text(encoding="utf-8"),
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    row = Rendered("x", theirs["input_ids"], theirs["assistant_masks"])
    for (prompt, answer), (start, end) in zip(ours, spans(row), strict=True):
        own, other = (tokenizer.decode(part) for part in (answer, row.tokens[start:end]))
        if name == "gptoss":
            other = other.replace("<|end|>", "<|return|>")
        before, same, after = other.partition(own.strip())
        assert same
        assert after.strip() in ("", tokenizer.eos_token)
        asked = tokenizer.decode(prompt)
        if form.reasoning == "prompt":
            asked = asked.replace("<think>\n\n</think>\n\n", "")
        assert (asked + own).rstrip().endswith((before + same).lstrip())


def calls_of(name: str) -> list[list[FunctionCall]]:
    """The calls of each turn that is tried."""
    several = [] if name.startswith(ONE_CALL) else [CALLS[:2], [CALLS[3], CALLS[0], CALLS[4]]]
    return [*([call] for call in CALLS), *several]


def check_round_trip(name: str, tokenizer: Any, *, offered: bool = True) -> None:
    """That calls of a row are read back from the tokens that are learnt, alone and behind text."""
    tools = json.loads(TOOLS)
    form = form_for(tokenizer, tools if offered else None)
    assert form.fields is not None
    decode = answer_decoder(tokenizer)
    for calls in calls_of(name):
        content = "\n".join(call.text for call in calls)
        ask = Message("user", "where", tools=TOOLS if offered else "")
        (row,) = render_branches(Example("x", (ask, Message("assistant", content))), tokenizer)
        ((start, end),) = spans(row)
        assert tokenizer.decode(row.tokens[start:end]).endswith(tuple(known_stop_texts(tokenizer)))
        text = decode(row.tokens[start:end])
        _, found, cut = parse_tool_calls(
            text, {"look"}, limited=False, call_format=form.calls, tools=tools
        )
        assert not cut
        for size in range(len(text) + 1):  # what a stream shows before the call is complete
            assert not text_before_calls(text[:size], form.calls).strip()
        assert [(one.name, json.loads(one.arguments)) for one in found] == [
            (call.name, call.arguments) for call in calls
        ]


@pytest.mark.parametrize("name", NAMES)
def test_calls_are_read_back_as_they_were_learnt(tokenizer_of: Any, name: str) -> None:
    tokenizer = tokenizer_of(name)
    form = form_for(tokenizer)
    assert (form.fields is None) == (name in WITHOUT_CALLS)
    if name in WITHOUT_CALLS:
        return
    check_round_trip(name, tokenizer, offered=form.has_tools)


MISTRAL = (
    "{{ bos_token }}{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]"
    "{% endif %}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.tool_calls %}CALLS{{ eos_token }}{% elif m.role == 'assistant' %} {{ m.content }}"
    "{{ eos_token }}{% else %}[TOOL_RESULTS] {{ m.content }}[/TOOL_RESULTS]{% endif %}{% endfor %}"
)
OTHERS = {
    "mistral_list": MISTRAL.replace(
        "CALLS",
        "[TOOL_CALLS] [{% for c in m.tool_calls %}{{ c.function | tojson }}"
        "{{ '' if loop.last else ', ' }}{% endfor %}]",
    ),
    "mistral_named": MISTRAL.replace(
        "CALLS",
        "{% for c in m.tool_calls %}[TOOL_CALLS]{{ c.function.name }}[ARGS]"
        "{{ c.function.arguments | tojson }}{% endfor %}",
    ),
    "deepseek_v31": (
        "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
        "{% if m.role == 'user' %}<｜User｜>{{ m.content }}{% elif m.role == 'assistant' %}"
        "<｜Assistant｜></think>{{ m.content or '' }}{% if m.tool_calls %}<｜tool▁calls▁begin｜>"
        "{% for c in m.tool_calls %}<｜tool▁call▁begin｜>{{ c.function.name }}<｜tool▁sep｜>"
        "{{ c.function.arguments | tojson }}<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>"
        "{% endif %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<｜Assistant｜></think>{% endif %}"
    ),
    "cohere_r7b": (
        "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
        "<|START_OF_TURN_TOKEN|><|{{ m.role }}|>{% if m.tool_calls %}<|START_ACTION|>["
        "{% for c in m.tool_calls %}{{ {'tool_call_id': loop.index0 | string, "
        "'tool_name': c.function.name, 'parameters': c.function.arguments} | tojson }}"
        "{{ '' if loop.last else ', ' }}{% endfor %}]<|END_ACTION|>{% else %}{{ m.content }}"
        "{% endif %}<|END_OF_TURN_TOKEN|>{% endfor %}"
        "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|assistant|>{% endif %}"
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_calls_of_other_families_are_read_back(tiny_tokenizer: Any, name: str) -> None:
    family = {"mistral": "llava_next", "deepsee": "deepseekv3", "cohere_": "cohere2"}[name[:7]]
    tokenizer = family_tokenizer(family, tiny_tokenizer, OTHERS[name])
    check_round_trip(name, tokenizer)
