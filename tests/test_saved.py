"""What saved models, processors and adapters are for others: transformers, TRL and vLLM."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from test_chat import QWEN, turns
from transformers import AutoProcessor, pipeline
from transformers.trainer_utils import align_special_tokens
from trl import SFTConfig, SFTTrainer
from trl.chat_template_utils import (
    has_generation_markers,
    is_chat_template_prefix_preserving,
    is_chat_template_stop_token_trained,
    supports_tool_calling,
)

from sail_rl.models import SailVLProcessor
from sail_rl.models.adapter_card import adapter_card
from sail_rl.models.adapters import LoRA, add_lora
from sail_rl.models.folder import model_folder, name_base
from sail_rl.models.loading import load_model

ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
Messages = list[dict[str, Any]]


def user(*images: Any, text: str = "What is the sum?") -> dict[str, Any]:
    return {
        "role": "user",
        "content": [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}],
    }


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


class TestTheChatTemplate:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(max_size=20)), min_size=1))
    def test_renders_chatml_and_nothing_of_its_markers(self, said: list[tuple[str, str]]) -> None:
        expected = "".join(f"<|im_start|>{role}\n{text}<|im_end|>" for role, text in said)
        strings = [{"role": role, "content": text} for role, text in said]
        parts = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said]
        for messages in (strings, parts):
            assert QWEN.apply_chat_template(copy.deepcopy(messages)) == expected
            begun = QWEN.apply_chat_template(copy.deepcopy(messages), add_generation_prompt=True)
            assert begun == expected + "<|im_start|>assistant\n"

    @pytest.mark.parametrize("system", [True, False])
    def test_renders_tools_as_qwen3_does(self, system: bool) -> None:
        """Qwen3's wording of the tools prompt, from memory of its template; a system prompt comes before the tools."""
        call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "<2>"}}}
        messages: Messages = [{"role": "system", "content": "Be right."}] if system else []
        messages += [
            *turns("3+4?"),
            {"role": "assistant", "content": "Let me see.", "tool_calls": [call, call]},
            {"role": "tool", "content": "7"},
            {"role": "tool", "content": [{"type": "text", "text": "8"}]},
            assistant("7"),
        ]
        before, found, after = QWEN.apply_chat_template(messages, tools=[ADD]).partition(json.dumps(ADD))
        assert found
        assert before.startswith(
            f"<|im_start|>system\n{'Be right.' if system else ''}{chr(10) * 2 * system}# Tools\n\n"
        )
        assert before.endswith("within <tools></tools> XML tags:\n<tools>\n")
        assert after.startswith("\n</tools>\n\nFor each function call")
        once = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "<2>"}}\n</tool_call>'
        assert after.endswith(
            '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>'
            f"<|im_start|>user\n3+4?<|im_end|><|im_start|>assistant\nLet me see.\n{once}\n{once}<|im_end|>"
            "<|im_start|>user\n<tool_response>\n7\n</tool_response>\n<tool_response>\n8\n</tool_response><|im_end|>"
            "<|im_start|>assistant\n7<|im_end|>"
        )

    def test_passes_trls_checks(self, processor: SailVLProcessor) -> None:
        assert has_generation_markers(processor.chat_template)
        assert supports_tool_calling(processor)
        assert is_chat_template_prefix_preserving(processor)
        assert is_chat_template_stop_token_trained(processor)

    def test_takes_parts_in_vllm(self, processor: SailVLProcessor) -> None:
        from vllm.renderers.hf import _detect_content_format

        assert _detect_content_format(processor.chat_template, default="string") == "openai"

    def test_assistant_masks_cover_the_answers_beside_images_too(self, processor: SailVLProcessor) -> None:
        first, second = assistant("<think>x</think>7"), assistant("It is 8")
        wide = picture(1, 168, 56)
        conversations = [
            [user(picture(0)), first, user(wide, picture(2), text="and?"), second, user(text="end")],
            [user(), second],
            [user(wide), first],
        ]
        masked = processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        answers = [
            processor.tokenizer.decode(ids[torch.as_tensor(mask, dtype=torch.bool)])
            for ids, mask in zip(masked["input_ids"], masked["assistant_masks"], strict=True)
        ]
        assert answers == [
            "<think>x</think>7<|im_end|>It is 8<|im_end|>",
            "It is 8<|im_end|>",
            "<think>x</think>7<|im_end|>",
        ]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_transformers_pipeline_takes_text_beside_images(batch_size: int, tiny_dir: Callable[..., Path]) -> None:
    chats = [[user(picture(0))], [user(text="Hello, how are you today?")], [user(picture(1, 168, 112), picture(2))]]
    pipe = pipeline("image-text-to-text", model=str(tiny_dir()), processor=AutoProcessor.from_pretrained(tiny_dir()))

    def answers(asked: Any, **options: Any) -> list[Any]:
        greedy = {"do_sample": False, "max_new_tokens": 4}
        return pipe(copy.deepcopy(asked), return_full_text=False, generate_kwargs=greedy, **options)

    alone = [answers(chat)[0]["generated_text"] for chat in chats]
    assert [one[0]["generated_text"] for one in answers(chats, batch_size=batch_size)] == alone


@pytest.mark.parametrize("images", [None, [], [[], []]])
def test_texts_without_images_have_the_same_keys(images: Any, processor: SailVLProcessor) -> None:
    inputs = processor(images=images, text=["a b", "c"], padding=True, return_tensors="pt")
    assert inputs.keys() == processor(images=[picture(0)], text="<IMG_CONTEXT>", return_tensors="pt").keys()
    assert (len(inputs["pixel_values"]), len(inputs["image_grid_thw"])) == (0, 0)


def test_trls_sft_trainer_learns_the_answers_alone(tiny_dir: Callable[..., Path], tmp_path: Path) -> None:
    from datasets import Dataset

    rows = [{"messages": [user(text="a"), assistant(f"answer {n}")]} for n in range(2)]
    processor = AutoProcessor.from_pretrained(tiny_dir())
    arguments = SFTConfig(
        output_dir=str(tmp_path), assistant_only_loss=True, max_steps=1, use_cpu=True, report_to=[], bf16=False,
        per_device_train_batch_size=2, max_length=None, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = SFTTrainer(
        load_model(tiny_dir()), args=arguments, processing_class=processor, train_dataset=Dataset.from_list(rows)
    )
    batch = next(iter(trainer.get_train_dataloader()))
    learned = {processor.tokenizer.decode(row[row != -100]) for row in batch["labels"]}
    assert learned == {"answer 0<|im_end|>", "answer 1<|im_end|>"}
    assert trainer.train().training_loss > 0


@pytest.mark.parametrize("ends", [None, 2, [2], [2, 2], [2, 0], [0]])
def test_a_saved_model_names_each_end_once(ends: Any, tiny_dir: Callable[..., Path], tmp_path: Path) -> None:
    model, processor = load_model(tiny_dir()), AutoProcessor.from_pretrained(tiny_dir())
    model.generation_config.eos_token_id = ends
    for _ in range(2):  # transformers' Trainer does this when it starts
        align_special_tokens(model, processor)
        model.save_pretrained(tmp_path)
        model = load_model(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"]
    saved = saved if isinstance(saved, list) else [saved]
    assert sorted(saved) == sorted({2, *([ends] if isinstance(ends, int) else ends or [])})


def local_words(folder: Path) -> list[str]:
    """Files below a folder that say where they were made, or how they were loaded."""
    texts = {path: path.read_text() for path in folder.rglob("*") if path.suffix in (".json", ".md", ".jinja", ".yaml")}
    words = (str(folder), "/tmp", "/root", "/home", "is_local", "local_files_only")
    return [f"{path.name}: {word}" for path, text in texts.items() for word in words if word in text]


def test_a_saved_processor_says_nothing_of_this_machine(tiny_dir: Callable[..., Path], tmp_path: Path) -> None:
    AutoProcessor.from_pretrained(tiny_dir()).save_pretrained(tmp_path / "one")
    AutoProcessor.from_pretrained(tmp_path / "one").tokenizer.save_pretrained(tmp_path / "two")
    assert local_words(tmp_path) == []


def test_an_adapter_has_a_card_of_ours_and_no_path_of_this_machine(
    tiny_dir: Callable[..., Path], tmp_path: Path
) -> None:
    base = tiny_dir()
    stage = tmp_path / "run/stages/s"
    model = add_lora(load_model(base), LoRA(4, 8.0, 0.0, ("llm",)), trainable=("llm", "adapter"))
    assert isinstance(model, PeftModel)
    model.save_pretrained(stage / "adapter")
    name_base(stage / "adapter", base, place=stage / "adapter")
    (stage / "adapter/README.md").write_text(adapter_card(stage / "adapter", "s"))
    AutoProcessor.from_pretrained(base).save_pretrained(stage / "adapter")
    assert local_words(stage) == []
    card = (stage / "adapter/README.md").read_text()
    assert f"of the SAIL-VL2 `{base.name}`" in card
    assert "rank 4, alpha 8.0, dropout 0.0\n- modules that are trained in full: multi_modal_projector\n" in card
    with pytest.raises(ValueError, match=f"of the model {base.name}, which is not here; .* with --base"):
        model_folder(stage / "adapter")
    (tmp_path / "run/recipe.yaml").write_text(f"model: {{path: {base}}}\n")
    assert model_folder(stage / "adapter").model == base, "its run knows where its model is"
