"""What SFT trains, token by token: the completion and its end of turn, and nothing else, alone and packed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import picture

from sail_rl.cli.data_show import pieces
from sail_rl.data.encoding import EmptyThought, Encoder, Sample
from sail_rl.data.packing import collate
from sail_rl.models.chat import EOS
from sail_rl.models.processing import SailVLProcessor

COT, DIRECT = "<think>3+4=7</think>\\boxed{7}", "\\boxed{7}"


def row(name: str, completion: str, images: int = 1) -> dict[str, Any]:
    parts = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": "What is the sum?"}]
    messages = [{"role": "system", "content": "Be right."}, {"role": "user", "content": parts}]
    return {"id": name, "prompt": messages, "images": [picture(n) for n in range(images)], "video": [],
            "completion": completion}  # fmt: skip


def trained(sample: Sample, encoder: Encoder) -> str:
    return str(encoder.processor.tokenizer.decode(sample.input_ids[sample.prompt_length :]))


def given(sample: Sample, encoder: Encoder) -> str:
    return str(encoder.processor.tokenizer.decode(sample.input_ids[: sample.prompt_length]))


@pytest.mark.parametrize("images", [0, 1, 3])
@pytest.mark.parametrize("completion", [COT, DIRECT], ids=["thought and answer", "answer alone"])
def test_the_completion_and_its_end_are_trained_and_nothing_before(
    completion: str, images: int, encoder: Encoder
) -> None:
    sample = encoder.sft_sample(row("a", completion, images))
    assert trained(sample, encoder) == completion + EOS.strip()
    assert sample.input_ids[-1] == encoder.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert given(sample, encoder).endswith("<|im_start|>assistant\n")
    assert encoder.processor.image_token_id not in sample.input_ids[sample.prompt_length :]


@pytest.mark.parametrize(
    ("policy", "before", "after"),
    [
        ("none", "assistant\n", DIRECT),
        ("trained", "assistant\n", f"<think>\n\n</think>\n\n{DIRECT}"),
        ("masked", "assistant\n<think>\n\n</think>\n\n", DIRECT),
    ],
)
def test_the_empty_thought_is_what_the_stage_says(
    policy: EmptyThought, before: str, after: str, processor: SailVLProcessor
) -> None:
    encoder = Encoder(processor, max_length=256, empty_thought=policy)
    direct, thoughtful = encoder.sft_sample(row("a", DIRECT)), encoder.sft_sample(row("b", COT))
    assert given(direct, encoder).endswith(before)
    assert trained(direct, encoder) == after + EOS.strip()
    assert trained(thoughtful, encoder) == COT + EOS.strip(), "a thought is left alone"
    outline = row("a", DIRECT) | {"images": [(56, 56)]}
    assert encoder.length(outline, completion=True) == len(direct)


def test_in_a_packed_row_each_target_is_the_next_token_of_its_own_sample(encoder: Encoder) -> None:
    rows = [row("a", COT), row("b", DIRECT, images=0), row("c", COT, images=2)]
    samples = [encoder.sft_sample(one) for one in rows]
    packed = collate(samples, filler=encoder.filler())
    targets = dict(zip(packed.target_positions.tolist(), packed.targets.tolist(), strict=True))
    start = 0
    for sample in samples:
        for place in range(len(sample)):
            scored = sample.prompt_length - 1 <= place < len(sample) - 1
            assert targets.get(start + place) == (sample.input_ids[place + 1].item() if scored else None)
        start += len(sample)
    assert packed.labelled == sum(sample.completion_length for sample in samples)
    assert torch.equal(packed.position_ids[0], torch.cat([torch.arange(len(sample)) for sample in samples]))


def test_what_is_shown_in_colour_is_what_is_trained(encoder: Encoder) -> None:
    sample = encoder.sft_sample(row("a", COT))
    styles = list(pieces(sample, encoder))
    assert "".join(text for text, style in styles if style == "green") == trained(sample, encoder)
    assert [text for text, style in styles if style == "cyan"] == ["[image: 4 tokens]"]
