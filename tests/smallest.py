"""The smallest SAIL-VL2 with all its parts: one layer each, and a vocabulary of 16 words. A step takes milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sail_rl.models import SailVLConfig, SailVLForConditionalGeneration, SailVLProcessor
from sail_rl.models.chat import EOS, IMAGE_END, IMAGE_START, PAD, THINKING_TOKENS, TURN_START
from sail_rl.models.configuration import IMAGE_TOKEN
from sail_rl.models.images import SailVLImageProcessor
from sail_rl.models.tiny import tiny_config

LETTERS = "abcdefg"
UNKNOWN = "?"
WORDS = [PAD, TURN_START, EOS, IMAGE_START, IMAGE_TOKEN, IMAGE_END, *THINKING_TOKENS, UNKNOWN, *LETTERS]


def build_smallest(folder: Path, *, llm: str = "qwen3", seed: int = 0) -> Path:
    """Write a freshly initialised model and its processor to `folder`, which is returned."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[TURN_START, IMAGE_START, IMAGE_TOKEN, IMAGE_END, *THINKING_TOKENS],
    )
    config = tiny_config(
        vocab_size=len(WORDS),
        image_token_id=WORDS.index(IMAGE_TOKEN),
        llm=llm,
        eos_token_id=WORDS.index(EOS),
        pad_token_id=WORDS.index(PAD),
    )
    processor = SailVLProcessor(SailVLImageProcessor(size={"height": 56, "width": 56}), tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SailVLForConditionalGeneration(_shrunk(config))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _shrunk(config: SailVLConfig) -> SailVLConfig:
    tree: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "layer_types": None, "head_dim": 32}
    tree["text_config"] |= text | {"num_attention_heads": 2, "num_key_value_heads": 1, "moe_intermediate_size": 64}
    tree["vision_config"] |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    return SailVLConfig.from_dict(tree)
