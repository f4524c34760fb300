"""Builds a tiny SAIL-VL2 of 2-5M parameters with the full stack: SAIL-ViT, pixel shuffle, adapter and Qwen3."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3MoeConfig
from transformers.models.aimv2.configuration_aimv2 import Aimv2VisionConfig

from .chat import EOS, IMAGE_END, IMAGE_START, PAD, THINKING_TOKENS, TURN_START
from .configuration import IMAGE_TOKEN, SailVLConfig
from .images import SailVLImageProcessor
from .modeling import SailVLForConditionalGeneration
from .processing import SailVLProcessor

# Larger than the usual 0.02, which suits wide layers; the tiny model then learns to use its image sooner.
INITIALIZER_RANGE = 0.05
POSITIONS = 1024
"""The longest sequence of the tiny model, in tokens."""
SPECIAL_TOKENS = [PAD, TURN_START, EOS, IMAGE_START, IMAGE_TOKEN, IMAGE_END]


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on `texts`, with Qwen3's special and thinking tokens.

    Thinking tags are ordinary added tokens, as in Qwen3, so that `skip_special_tokens` keeps them for rewards.
    """
    tokenizer = Tokenizer(models.BPE())
    # Numbers are tokenized digit by digit, so that arithmetic generalises.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(THINKING_TOKENS)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[TURN_START, IMAGE_START, IMAGE_TOKEN, IMAGE_END],
        padding_side="left",
    )


def tiny_config(
    *, vocab_size: int, image_token_id: int, llm: str, eos_token_id: int, pad_token_id: int, tied: bool = True
) -> SailVLConfig:
    """The tiny configuration with `llm` "qwen3" or "qwen3_moe", and images of 56x56 pixels with 4 tokens."""
    vision = Aimv2VisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=56,
        patch_size=14,
        use_head=False,
        initializer_range=INITIALIZER_RANGE,
    )
    shared = {
        "vocab_size": vocab_size,
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": POSITIONS,
        "tie_word_embeddings": tied,
        "initializer_range": INITIALIZER_RANGE,
        "eos_token_id": eos_token_id,
        "pad_token_id": pad_token_id,
        "bos_token_id": None,
    }
    if llm == "qwen3_moe":
        text: Qwen3Config | Qwen3MoeConfig = Qwen3MoeConfig(
            **shared,
            intermediate_size=512,
            moe_intermediate_size=192,
            num_experts=8,
            num_experts_per_tok=2,
            norm_topk_prob=True,
            router_aux_loss_coef=0.01,
        )
    else:
        text = Qwen3Config(**shared, intermediate_size=512)
    return SailVLConfig(vision_config=vision, text_config=text, image_token_id=image_token_id)


def build_tiny(
    output_dir: Path,
    texts: Iterable[str],
    *,
    llm: str = "qwen3",
    seed: int = 0,
    vocab_size: int = 512,
    tied: bool = True,
) -> Path:
    """Write a freshly initialised tiny model and its processor to `output_dir`, which is returned.

    The weights depend on `seed` alone, and the global random state is preserved.
    """
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size)
    config = tiny_config(
        vocab_size=64 * -(-len(tokenizer) // 64),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        llm=llm,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tied=tied,
    )
    side = config.vision_config.image_size
    image_processor = SailVLImageProcessor(size={"height": side, "width": side})
    processor = SailVLProcessor(image_processor, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SailVLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    return output_dir
