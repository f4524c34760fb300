"""Conversations as token ids: only the chat template writes control tokens, and contents are plain text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from tokenizers import Tokenizer

from sail_rl.completion import THINK_END, THINK_START
from sail_rl.contracts import Message
from sail_rl.messages import as_parts

from .configuration import IMAGE_TOKEN

IMAGE_START, IMAGE_END = "<img>", "</img>"
TURN_START, EOS = "<|im_start|>", "<|im_end|>"
PAD = "<|endoftext|>"
THINKING_TOKENS = [THINK_START, THINK_END]
ALWAYS_CONTROL = (TURN_START, EOS, PAD, IMAGE_START, IMAGE_TOKEN, IMAGE_END)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation after the chat template.

    Attributes:
        text: the rendered text, with one placeholder for each image.
        token_ids: its tokens [T]; a control token in a content is spelled with ordinary tokens.
        spelled: the control tokens that contents have as text.
    """

    text: str
    token_ids: list[int]
    spelled: list[str]


class ChatTokenizer:
    """Encodes conversations and completions with one processor.

    A control token is an added token that the tokenizer calls special: turns, images, padding and the like. Thinking
    tags are no control tokens, whatever the tokenizer calls them. Added tokens that aren't special, such as Qwen3's
    `<think>` and `<tool_call>`, are part of contents and keep their ids everywhere.

    Args:
        processor: the model's processor, with its tokenizer and its chat template.
    """

    def __init__(self, processor: Any) -> None:
        self._processor, self._tokenizer = processor, processor.tokenizer
        added = {str(token): (number, token) for number, token in self._tokenizer.added_tokens_decoder.items()}
        self.control_tokens = {
            text: number
            for text, (number, token) in added.items()
            if text and text not in THINKING_TOKENS and (token.special or text in ALWAYS_CONTROL)
        }
        self._control_ids = frozenset(self.control_tokens.values())
        longest_first = sorted(self.control_tokens, key=len, reverse=True)
        self._pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self._starts = re.compile(f"(?={self._pattern.pattern})")
        self._first = {text[0] for text in longest_first}

    def spelled_in(self, text: str) -> list[str]:
        """The control tokens that a text contains, each once."""
        if not any(first in text for first in self._first):
            return []
        return list(dict.fromkeys(self._pattern.findall(text)))

    def encode(self, text: str) -> list[int]:
        """The token ids of a content, without any control token."""
        if self.spelled_in(text):
            return self._plain.encode(text, add_special_tokens=False).ids
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def render(self, messages: Sequence[Message]) -> Rendered:
        """The conversation with the generation prompt; see `Rendered`."""
        spelled = [token for message in messages for run in _runs(message) for token in self.spelled_in(run)]
        if spelled:
            return self._render_marked(messages, list(dict.fromkeys(spelled)))
        text = self._template(messages)
        return Rendered(text, self._tokenizer(text, add_special_tokens=False)["input_ids"], [])

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a completion. Its final control token, the end of the turn, is left out; others are spelled."""
        ids = list(token_ids)
        if ids and ids[-1] in self._control_ids:
            ids.pop()
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def control_count(self, token_ids: Sequence[int]) -> int:
        """The number of control tokens in a completion, without the one that ends it."""
        return sum(token in self._control_ids for token in token_ids[:-1])

    def _template(self, messages: Sequence[Message]) -> str:
        text: str = self._processor.apply_chat_template(messages, add_generation_prompt=True)
        return text

    def _render_marked(self, messages: Sequence[Message], spelled: list[str]) -> Rendered:
        """Render with a mark inside each control token of a content, so that the template's own can be told apart."""
        whole = "".join(run for message in messages for run in _runs(message))
        mark = next(character for character in map(chr, range(0xFDD0, 0x110000)) if character not in whole)
        marked = self._template([self._marked(message, mark) for message in messages])
        ids: list[int] = []
        for piece in self._pattern.split(marked):
            if piece in self.control_tokens:
                ids.append(self.control_tokens[piece])
            elif piece:
                ids += self._plain.encode(piece.replace(mark, ""), add_special_tokens=False).ids
        return Rendered(marked.replace(mark, ""), ids, spelled)

    def _marked(self, message: Message, mark: str) -> Message:
        """The message with `mark` after the first character of each control token, even across text parts."""
        parts: list[dict[str, Any]] = []
        for is_text, group in groupby(as_parts(message["content"]), key=_is_text):
            if not is_text:
                parts += group
                continue
            texts = [part["text"] for part in group]
            starts = {match.start() for match in self._starts.finditer("".join(texts))}
            offset = 0
            for text in texts:
                own = [character + mark * (offset + n in starts) for n, character in enumerate(text)]
                parts.append({"type": "text", "text": "".join(own)})
                offset += len(text)
        return message | {"content": parts[0]["text"] if isinstance(message["content"], str) else parts}

    @cached_property
    def _plain(self) -> Tokenizer:
        """A copy of the tokenizer that reads control tokens as ordinary text."""
        values = json.loads(self._tokenizer.backend_tokenizer.to_str())
        for token in values["added_tokens"]:
            token["special"] = token["content"] in self.control_tokens
        plain = Tokenizer.from_str(json.dumps(values))
        plain.no_truncation()
        plain.no_padding()
        plain.encode_special_tokens = True  # splits them, in spite of its name
        return plain


def _is_text(part: dict[str, Any]) -> bool:
    return part["type"] == "text"


def _runs(message: Message) -> list[str]:
    """The message's texts; adjacent ones are joined, as the template joins them."""
    groups = groupby(as_parts(message["content"]), key=_is_text)
    return ["".join(part["text"] for part in group) for is_text, group in groups if is_text]
