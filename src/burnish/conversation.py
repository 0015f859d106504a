"""The one datum: an Example is a conversation with an identity.

Training rows, test rows, items of a suite and live traffic are all Examples. A row of text and
label is a question and its answer; a plain document is one message of the role `document`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Role = Literal["system", "user", "assistant", "tool", "document"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `weight` scales the loss of an assistant turn (0 = read, never learnt).

    `tools` is a JSON list of the functions that may be called in the conversation, on one turn of
    it; the calls of an assistant turn stand in its content, as the model writes them. `reasoning`
    is what was thought before the answer, which only some chat templates show.
    """

    role: Role
    content: str
    weight: float = 1.0
    tools: str = ""
    reasoning: str = ""

    @property
    def learnt(self) -> bool:
        """Whether the loss sees this turn."""
        return self.role in ("assistant", "document") and self.weight > 0


Conversation = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation that can be trained on, tested with or recorded.

    Attributes:
        id: stable across runs: a hash of the content unless the row brought one.
        messages: the turns in order; the last assistant turn with a weight is what is expected.
        label: the class where the row has one.
        group: rows of one group never straddle a split.
        source: `file:line` the row came from, for messages to the user.
        rejected: an answer to the same prompt that people liked less than the one expected.
        liked: whether people liked the answer, where it was judged alone.
        tags: the IOB2 tag of each word of the question, words parted by single spaces.
        item: what else a row of a prompt alone says, as JSON; graders read it.
    """

    id: str
    messages: Conversation
    label: str | None = None
    group: str | None = None
    source: str = ""
    rejected: str | None = None
    liked: bool | None = None
    tags: tuple[str, ...] | None = None
    item: Mapping[str, Any] | None = None

    @property
    def content(self) -> tuple[Any, ...]:
        """What makes two rows the same row."""
        said = None if self.item is None else json.dumps(self.item, sort_keys=True)
        return self.messages, self.rejected, self.liked, said

    @property
    def prompt(self) -> Conversation:
        """The turns before the last assistant turn that is learnt; a document has none."""
        return self.messages[: self._answer_index()]

    @property
    def expected(self) -> str:
        """The content of the last assistant turn that is learnt (a document: its text; else
        empty)."""
        index = self._answer_index()
        return self.messages[index].content if index < len(self.messages) else ""

    @property
    def question(self) -> str:
        """The last user turn, as a person would quote the row."""
        turns = [message.content for message in self.prompt if message.role == "user"]
        return turns[-1] if turns else ""

    @property
    def masked(self) -> bool:
        """Whether it has answers, but none that is learnt: there is nothing to measure."""
        index = self._answer_index()
        return index < len(self.messages) and not self.messages[index].learnt

    def _answer_index(self) -> int:
        """The last answer that is learnt; where none is, the last of all."""
        last = len(self.messages)
        for at in range(last - 1, -1, -1):
            turn = self.messages[at]
            if turn.role in ("assistant", "document"):
                if turn.weight > 0:
                    return at
                last = at if last == len(self.messages) else last
        return last

    def to_row(self) -> dict[str, Any]:
        """The JSON form, OpenAI's chat format with our identity beside it."""
        messages: list[dict[str, Any]] = []
        for message in self.messages:
            turn: dict[str, Any] = {"role": message.role, "content": message.content}
            if message.weight != 1.0:
                turn["weight"] = message.weight
            if message.tools:
                turn["tools"] = message.tools
            if message.reasoning:
                turn["reasoning_content"] = message.reasoning
            messages.append(turn)
        extras: dict[str, Any] = {
            "label": self.label,
            "group": self.group,
            "source": self.source or None,
            "rejected": self.rejected,
            "liked": self.liked,
            "tags": self.tags and list(self.tags),
            "item": self.item,
        }
        return {"id": self.id, "messages": messages} | {
            key: value for key, value in extras.items() if value is not None
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Example":
        """Reads back what `to_row` wrote."""
        messages = tuple(
            Message(
                turn["role"],
                turn["content"],
                turn.get("weight", 1.0),
                turn.get("tools", ""),
                turn.get("reasoning_content", ""),
            )
            for turn in row["messages"]
        )
        return cls(
            row["id"],
            messages,
            label=row.get("label"),
            group=row.get("group"),
            source=row.get("source") or "",
            rejected=row.get("rejected"),
            liked=row.get("liked"),
            tags=tuple(row["tags"]) if "tags" in row else None,
            item=row.get("item"),
        )


def content_id(messages: Conversation, extras: Mapping[str, Any] | None = None) -> str:
    """A 16-digit hash of the turns: equal conversations have equal ids on every machine.

    `extras` is what else the row says, such as its rejected answer; a class alone adds nothing.
    """
    said: list[Any] = [
        [
            message.role,
            message.content,
            message.weight,
            *([message.tools] if message.tools else []),
            *([{"reasoning": message.reasoning}] if message.reasoning else []),
        ]
        for message in messages
    ]
    more = {name: value for name, value in (extras or {}).items() if name != "label"}
    said += [more] if more else []
    return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()[:16]
