"""Datasets: the digits task, what a row may look like, encoding, order and packing."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import picture
from sklearn.datasets import load_digits

from sail_rl.data.dataset import Rows
from sail_rl.data.digits import QUESTIONS, build_digits, split_scans
from sail_rl.data.encoding import Encoder, Sample
from sail_rl.data.order import RowStream
from sail_rl.data.packing import Segment, collate, first_fit_layout, pack, shared_layout
from sail_rl.imports import resolve
from sail_rl.maths.token_fields import TokenFields


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sample(length: int, prompt_length: int, pixels: int = 1, **fields: torch.Tensor) -> Sample:
    images = torch.full((4 * pixels, 12), length), torch.tensor([[1, 2, 2]] * pixels)
    return Sample(torch.arange(length) + 100, prompt_length, *images, TokenFields(**fields))


FILLER = Sample(torch.tensor([7, 7]), 2, torch.zeros(4, 12), torch.tensor([[1, 2, 2]]))


class TestDigits:
    def test_no_scan_is_in_both_splits(self) -> None:
        train, held_out = split_scans(seed=17)
        assert not set(train) & set(held_out)
        assert len(train) + len(held_out) == len(load_digits().target) == 1797

    def test_another_seed_splits_otherwise(self) -> None:
        assert split_scans(1) != split_scans(2)
        assert split_scans(1) == split_scans(1)

    @pytest.mark.parametrize(
        ("source", "thought", "answer"),
        [("maximum", "The largest is 8", 8), ("comparison", "Of 3 and 1 it is 3", 3)],
    )
    def test_answers_by_hand(self, source: str, thought: str, answer: int) -> None:
        assert QUESTIONS[source]([3, 5, 8, 1], random.Random(0))[1:] == (thought, answer)

    def test_sums_are_of_the_row_that_is_asked_for(self) -> None:
        asked = {QUESTIONS["sum"]([3, 5, 8, 1], random.Random(seed)) for seed in range(8)}
        top = ("What is the sum of the top row?", "3+5=8", 8)
        assert asked == {top, ("What is the sum of the bottom row?", "8+1=9", 9)}

    def test_counting_agrees_with_its_question(self) -> None:
        question, thought, answer = QUESTIONS["count"]([1, 9, 5, 8], random.Random(0))
        limit = int(question.rstrip("?").split()[-1])
        assert answer == sum(digit > limit for digit in [1, 9, 5, 8])
        assert thought.startswith(f"Greater than {limit}")

    def test_the_reading_reward_by_hand(self) -> None:
        reading = resolve("recipes/digits_rewards.py:reading")
        thoughts = ["The digits are 3 5 8 1. x", "The digits are 3 5 1 8. x", "The digits are 3 5 8", "Nothing"]
        completions = [[{"role": "assistant", "content": f"<think>{thought}</think>"}] for thought in thoughts]
        assert reading(completions=completions, digits=[[3, 5, 8, 1]] * 4) == [1.0, 0.5, 0.0, 0.0]

    def test_built_files_are_valid_and_the_same_every_time(self, tmp_path: Path) -> None:
        first = build_digits(tmp_path / "a", seed=3, sft_rows=4, rl_rows=4, heldout_rows=4)
        second = build_digits(tmp_path / "b", seed=3, sft_rows=4, rl_rows=4, heldout_rows=4)
        for name in ("sft", "rl", "heldout"):
            rows, again = Rows(first[name], needs=["prompt", "completion", "answer"]), Rows(second[name])
            assert [row["answer"] for row in rows] == [row["answer"] for row in again]
            assert rows[0]["images"][0].tobytes() == again[0]["images"][0].tobytes()
            assert rows[0]["images"][0].size == (56, 56)
            text = rows[0]["completion"]
            assert text.startswith("<think>")
            assert text.endswith(f"\\boxed{{{rows[0]['answer']}}}")


class TestRows:
    def test_jsonl_images_are_relative_to_the_file(self, tmp_path: Path) -> None:
        picture(0).save(tmp_path / "a.png")
        rows = Rows(write_jsonl(tmp_path / "d.jsonl", [{"prompt": "What?", "images": ["a.png"], "answer": "3"}]))
        assert rows[0]["images"][0].tobytes() == picture(0).tobytes()
        assert [part["type"] for part in rows[0]["prompt"][0]["content"]] == ["image", "text"]
        assert rows[0]["answer"] == "3"
        assert rows[0]["id"] == "0"

    def test_a_missing_image_names_its_row(self, tmp_path: Path) -> None:
        picture(0).save(tmp_path / "a.png")
        rows = [{"prompt": "x", "images": ["a.png"]}, {"prompt": "y", "images": ["b.png"]}]
        with pytest.raises(ValueError, match=r"row 1: image 'b.png' is missing"):
            Rows(write_jsonl(tmp_path / "d.jsonl", rows))

    def test_an_image_that_does_not_decode_names_its_row(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"not a picture")
        path = write_jsonl(tmp_path / "d.jsonl", [{"prompt": "x", "images": ["a.png"]}])
        with pytest.raises(ValueError, match=r"row 0: image 'a.png' can't be decoded"):
            Rows(path)

    def test_text_only_rows_need_no_images_column(self, tmp_path: Path) -> None:
        rows = Rows(write_jsonl(tmp_path / "d.jsonl", [{"prompt": "What?", "answer": 3}]))
        assert rows[0]["images"] == []

    def test_more_image_parts_than_images_names_the_row(self, tmp_path: Path) -> None:
        parts = [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]
        rows = [{"prompt": [{"role": "user", "content": parts}], "images": []}]
        with pytest.raises(ValueError, match=r"row 0: the prompt has 1 image part\(s\) but the row has 0"):
            Rows(write_jsonl(tmp_path / "d.jsonl", rows))

    def test_a_missing_column_is_named(self, tmp_path: Path) -> None:
        path = write_jsonl(tmp_path / "d.jsonl", [{"prompt": "x"}])
        with pytest.raises(ValueError, match=r"no column 'completion' among prompt"):
            Rows(path, needs=["prompt", "completion"])

    def test_an_empty_prompt_names_its_row(self, tmp_path: Path) -> None:
        path = write_jsonl(tmp_path / "d.jsonl", [{"prompt": "x"}, {"prompt": ""}])
        with pytest.raises(ValueError, match="row 1: 'prompt' is empty"):
            Rows(path)

    @pytest.mark.parametrize(
        ("name", "message"), [("d.csv", "no such dataset file"), ("d.jsonl", "no such dataset file")]
    )
    def test_a_file_that_can_t_be_read_is_named(self, tmp_path: Path, name: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Rows(tmp_path / name)


class TestEncoding:
    def test_the_loss_covers_the_completion_and_its_end_of_turn(self, encoder: Encoder) -> None:
        row = {
            "id": "a",
            "prompt": [{"role": "user", "content": "What?"}],
            "images": [],
            "completion": "<think>x</think>7",
        }
        made = encoder.sft_sample(row)
        tokenizer = encoder.processor.tokenizer
        assert tokenizer.decode(made.input_ids[made.prompt_length :]) == "<think>x</think>7<|im_end|>"
        prompt = tokenizer.decode(made.input_ids[: made.prompt_length])
        assert prompt == "<|im_start|>user\nWhat?<|im_end|><|im_start|>assistant\n"

    def test_an_overlong_sample_is_refused_not_cut(self, encoder: Encoder) -> None:
        row = {"id": "long", "prompt": [{"role": "user", "content": "What?"}], "images": [], "completion": "1 " * 400}
        with pytest.raises(ValueError, match=r"sample long has .* max_length is 256"):
            encoder.sft_sample(row)


class TestOrder:
    ROWS = [{"id": str(n)} for n in range(10)]  # noqa: RUF012

    def test_every_row_is_seen_once_an_epoch(self) -> None:
        stream = RowStream(self.ROWS, batch_size=4, seed=1)
        seen = [index for batch in range(5) for index in stream.indices(batch)]
        assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
        assert seen[:10] != seen[10:]

    def test_ranks_share_a_batch(self) -> None:
        whole = RowStream(self.ROWS, 4, seed=1).batch(2)
        parts = [row for rank in range(2) for row in RowStream(self.ROWS, 4, 1, rank, world_size=2).batch(2)]
        assert parts == whole

    def test_a_batch_that_does_not_divide_is_refused(self) -> None:
        with pytest.raises(ValueError, match="batch of 4 rows over 3 ranks"):
            RowStream(self.ROWS, 4, seed=1, world_size=3)


@pytest.mark.parametrize("answer", [0, 0.0, False, "0"])
def test_zero_and_false_are_gold_answers(answer: Any, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps({"prompt": "3 - 3 =", "answer": answer}) + "\n")
    assert Rows(tmp_path / "d.jsonl", needs=["prompt", "answer"])[0]["answer"] == answer


@pytest.mark.parametrize("answer", [None, "", " \n", [], float("nan")])
def test_a_gold_answer_that_says_nothing_is_refused(answer: Any, tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list([{"prompt": "q", "answer": answer}]).to_parquet(tmp_path / "d.parquet")
    with pytest.raises(ValueError, match=r"d\.parquet, row 0: 'answer' is empty"):
        Rows(tmp_path / "d.parquet", needs=["prompt", "answer"])


class TestPacking:
    def test_first_fit_decreasing_by_hand(self) -> None:
        assert first_fit_layout([3, 8, 5, 2, 4], pack_length=10) == [[1, 3], [2, 4], [0]]

    def test_a_sample_longer_than_a_micro_batch_gets_its_own(self) -> None:
        assert first_fit_layout([12, 3], pack_length=10) == [[0], [1]]

    def test_targets_are_shifted_within_each_segment(self) -> None:
        micro_batch = collate([sample(4, 2), sample(3, 1)], filler=FILLER)
        assert micro_batch.input_ids.tolist() == [[100, 101, 102, 103, 100, 101, 102]]
        assert micro_batch.targets.tolist() == [102, 103, 101, 102]
        assert micro_batch.target_positions.tolist() == [1, 2, 4, 5]
        assert micro_batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2]]
        assert micro_batch.target_samples.tolist() == [0, 0, 1, 1]
        assert micro_batch.segments == (Segment(4), Segment(3))

    def test_token_fields_follow_the_labelled_tokens(self) -> None:
        parts = [sample(4, 2, advantages=torch.tensor([1.0, 2.0])), sample(2, 1, advantages=torch.tensor([3.0]))]
        assert collate(parts, filler=FILLER).token_fields.advantages.tolist() == [1, 2, 3]

    def test_a_field_that_only_some_samples_have_is_named(self) -> None:
        parts = [sample(4, 2), sample(2, 1, advantages=torch.tensor([3.0])), sample(3, 1)]
        with pytest.raises(ValueError, match=r"token field advantages: only 1 of 3 samples have it"):
            collate(parts, filler=FILLER)
        with pytest.raises(ValueError, match="token field advantages"):  # in different micro-batches, too
            pack(parts, pack_length=4, filler=FILLER)

    def test_samples_without_labelled_tokens_need_no_fields(self) -> None:
        with_padding = collate([FILLER, sample(2, 1, advantages=torch.tensor([3.0]))], filler=FILLER)
        assert with_padding.token_fields.advantages.tolist() == [3]
        assert collate([FILLER], filler=FILLER).token_fields == TokenFields()

    def test_a_micro_batch_without_images_gets_the_filler_unlabelled(self) -> None:
        text = Sample(torch.tensor([1, 2, 3]), 1)
        micro_batch = collate([text], filler=FILLER)
        assert micro_batch.input_ids.tolist() == [[1, 2, 3, 7, 7]]
        assert micro_batch.labelled == 2
        assert micro_batch.pixel_values.shape == (4, 12)
        assert micro_batch.image_grid_thw.tolist() == [[1, 2, 2]]

    def test_packing_loses_nothing(self) -> None:
        samples = [sample(length, 1) for length in (9, 2, 7, 4, 4, 3)]
        _, micro_batches = pack(samples, pack_length=10, filler=FILLER)
        assert sum(micro_batch.labelled for micro_batch in micro_batches) == sum(s.completion_length for s in samples)
        assert all(micro_batch.input_ids.numel() <= 10 for micro_batch in micro_batches)
        assert len(micro_batches) == 3

    def test_samples_of_one_prompt_share_it(self) -> None:
        pixels, grids, prompt = torch.ones(4, 12), torch.tensor([[1, 2, 2]]), object()
        first, second, alone = (
            Sample(torch.tensor(ids), 2, pixels, grids, shared_prompt=prompt if ids[0] == 7 else None)
            for ids in ([7, 8, 1, 2], [7, 8, 3, 4, 5], [9, 8, 6])
        )
        micro_batch = collate([first, alone, second], filler=FILLER)
        assert micro_batch.input_ids.tolist() == [[7, 8, 1, 2, 3, 4, 5, 9, 8, 6]]
        assert micro_batch.position_ids.tolist() == [[0, 1, 2, 3, 2, 3, 4, 0, 1, 2]]
        assert micro_batch.segments == (Segment(2), Segment(2, prefix=0), Segment(3, prefix=0), Segment(3))
        assert micro_batch.targets.tolist() == [1, 2, 6, 3, 4, 5]  # in the order of the samples
        assert micro_batch.target_positions.tolist() == [1, 2, 8, 1, 4, 5]
        assert micro_batch.target_samples.tolist() == [0, 0, 1, 2, 2, 2]
        assert micro_batch.uses.tolist() == [2, 2, 1, 1, 1, 1, 1, 1, 1, 1]
        assert micro_batch.image_grid_thw.tolist() == [[1, 2, 2]] * 2  # one for the shared prompt, one for the other
        assert len(micro_batch.pixel_values) == 8

    def test_samples_of_one_prompt_that_were_routed_differently_do_not_share_it(self) -> None:
        routes = [torch.tensor([[[a]], [[b]]], dtype=torch.int16) for a, b in ((1, 2), (1, 3), (4, 2))]
        group = [Sample(torch.tensor([7, 8]), 1, routed_experts=each, shared_prompt=FILLER) for each in routes]
        micro_batch = collate(group, filler=FILLER)
        assert micro_batch.segments[:4] == (Segment(1), Segment(1, prefix=0), Segment(1, prefix=0), Segment(2))
        assert micro_batch.routed_experts is not None
        assert micro_batch.routed_experts.flatten().tolist() == [1, 2, 3, 4, 2, -1, -1]

    def test_samples_of_one_prompt_stay_together_and_take_its_room_once(self) -> None:
        def of(prompt: object, completion: int) -> Sample:
            return Sample(torch.arange(5 + completion), 5, shared_prompt=prompt)

        samples = [of("a", 1), of("b", 3), of("a", 2), of("b", 1), of("a", 2)]  # a: 5 + 5 tokens, b: 5 + 4
        assert shared_layout(samples, pack_length=10) == [[0, 2, 4], [1, 3]]
        assert shared_layout(samples, pack_length=8) == [[0, 2], [1], [4], [3]]  # 8, 8, 7, 6 tokens

    def test_a_given_layout_is_followed(self) -> None:
        layout, micro_batches = pack([sample(3, 1)] * 3, pack_length=10, filler=FILLER, layout=[[2], [0, 1]])
        assert layout == [[2], [0, 1]]
        assert [micro_batch.labelled for micro_batch in micro_batches] == [2, 4]


def test_ids_are_strings_that_tell_rows_apart(tmp_path: Path) -> None:
    rows = [{"id": 7, "prompt": "a"}, {"id": 8, "prompt": "b"}, {"id": 7, "prompt": "c"}, {"prompt": "d"}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = Rows(tmp_path / "d.jsonl")
    assert [row["id"] for row in loaded] == ["7#0", "8", "7#2", "3"]
    assert [loaded.raw(index)["id"] for index in range(4)] == ["7#0", "8", "7#2", "3"]
    assert loaded.without([0]).metadata(0)["id"] == "8"
    rows = [{"id": name, "prompt": "x"} for name in ("a", "a", "a#0")]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len({row["id"] for row in Rows(tmp_path / "d.jsonl")}) == 3
