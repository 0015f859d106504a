"""The chat template that an exported model needs to ask for answers as it was trained to give."""

from typing import Any

from burnish.data.chat_templates import templates_to_export, thinking_of
from burnish.data.template_form import TemplateForm, apply_template, template_form
from burnish.data.template_text import thought_end


def trained_template(tokenizer: Any) -> str | list[dict[str, str]]:
    """The tokenizer's template or named templates, which think by default as in training.

    A caller's own value of the template's switch still wins.
    """
    exported, thinking = templates_to_export(tokenizer), thinking_of(tokenizer)
    if thinking is None:
        return exported
    if isinstance(exported, str):
        return _with_default(exported, tokenizer, thinking=thinking)
    return [
        one | {"template": _with_default(one["template"], tokenizer, thinking=thinking)}
        for one in exported
    ]


def _with_default(template: str, tokenizer: Any, *, thinking: bool) -> str:
    form = template_form(tokenizer, template)
    value = "true" if thinking else "false"
    defaults = "".join(
        f"{{%- if {switch} is not defined %}}{{%- set {switch} = {value} %}}{{%- endif -%}}"
        for switch in form.switches
    )
    return defaults + template + ("" if thinking else _closing(template, tokenizer, form))


def _closing(template: str, tokenizer: Any, form: TemplateForm) -> str:
    """What closes an opened thought, for a template without a switch."""
    ask = [{"role": "user", "content": "?"}]
    prompt = apply_template(
        tokenizer, template, ask, asks=True, variables=form.variables(thinking=False)
    )
    if not (end := thought_end(prompt)):
        return ""
    # The same text as `messages_text` writes: the mark, and an empty line in the thought.
    written = ("" if prompt.endswith("\n") else "\\n") + end.replace("\n", "\\n")
    return (
        "{%- if add_generation_prompt and messages[-1]['role'] != 'tool' -%}"
        f"{{{{- '{written}' -}}}}{{%- endif -%}}"
    )
