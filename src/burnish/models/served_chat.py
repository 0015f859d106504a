"""A chat model behind any OpenAI-compatible server, of which nothing but answers is known."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from burnish.conversation import Conversation
from burnish.data.tool_calls import offered_tools
from burnish.models.endpoint import Endpoint
from burnish.models.interface import Generation, Sampling, Stream

# Requests at the same time: servers batch them.
_AT_ONCE = 8


class ServedChat:
    """Generates through chat completions; needs no tokenizer and no log-probabilities.

    Args:
        url, model: see `Endpoint`.
    """

    def __init__(self, url: str, model: str) -> None:
        self._endpoint = Endpoint(url, model, "chat completions")
        self.name = f"{model} at {self._endpoint.url}"
        self.fingerprint = self.name

    def close(self) -> None:
        """Closes the connections."""
        self._endpoint.close()

    def generate(
        self, prompts: Sequence[Conversation], sampling: Sampling, stream: Stream | None = None
    ) -> list[Generation]:
        """Returns an answer to each prompt; `stream` is called with (prompt index, whole text)."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            answers = list(pool.map(lambda prompt: self._answer(prompt, sampling), prompts))
        if stream is not None:
            for index, answer in enumerate(answers):
                stream(index, answer.text)
        return answers

    def _answer(self, prompt: Conversation, sampling: Sampling) -> Generation:
        body: dict[str, Any] = {
            "messages": [{"role": turn.role, "content": turn.content} for turn in prompt],
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
        }
        if tools := offered_tools(prompt):
            body["tools"] = tools
        choice = self._endpoint.choice("chat/completions", **body)
        try:
            text = choice["message"]["content"] or ""
        except (KeyError, TypeError) as error:
            raise self._endpoint.bad_reply(error) from error
        return Generation(str(text), (), 0.0, choice.get("finish_reason") == "stop")
