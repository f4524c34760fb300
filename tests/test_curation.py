"""Curation: every step by hand, judges behind a real server, the command with its counts, nothing lost unsaid."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import picture
from judge_server import Reply, serving, verdict
from PIL import Image

from sail_rl.cli.main import main
from sail_rl.completion import final_answer
from sail_rl.config.curation import CurationRecipe, GuidedCoT
from sail_rl.curation.choices import by_rule, free_form, is_mathematical, options_of, without_options
from sail_rl.curation.completions import drop_redundant, unify, written
from sail_rl.curation.curate import curate, picture_hash
from sail_rl.curation.curator import Curator
from sail_rl.curation.duplicates import decontaminate, dedupe
from sail_rl.curation.guided import EngineWriter
from sail_rl.curation.judged import caption_quality, distill_answers, guide
from sail_rl.curation.lengths import balance_lengths
from sail_rl.curation.outcome import Row
from sail_rl.curation.prompts import normalised, question_of, strip_prompts
from sail_rl.curation.reading import read
from sail_rl.data.dataset import Rows
from sail_rl.data.digits import build_digits
from sail_rl.endpoint.settings import JudgeSettings


def row(name: str, prompt: Any = "How many?", **columns: Any) -> Row:
    return {"id": name, "index": 0, "prompt": prompt, **columns}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("How many cats are there?\nAnswer the question using a single word or phrase.", "How many cats are there?"),
        ("What is x? Answer with the option's letter from the given choices directly.", "What is x?"),
        ("Hint: Please answer the question and give the letter.\nQuestion: What is y?", "Question: What is y?"),
        ("Solve it. Please reason step by step, and put your final answer within \\boxed{}.", "Solve it."),
        ("Solve it.\nPlease put your final answer in \\boxed{}.", "Solve it."),
        ("What colour? Do not explain.", "What colour?"),
        ("图中有几只猫?\n请用一个单词回答,给出最终答案。", "图中有几只猫?"),
        ("Which hint does the sign give?", "Which hint does the sign give?"),
        *(
            (text, text)
            for text in (
                "Choose the best answer from the choices below: A) red B) blue C) green",
                "Hint: the triangle is isosceles. What is angle A?",
                "Let's think step by step: how many apples are in the picture?",
                "Write the number that makes the final answer equal to 7: 3 + ? = 7",
                "Find the area. Please provide your final answer rounded to 0.01.",
                "Give your final answer as a fraction.",
                "请回答图中最大的字母是什么",
                "请直接回答图中的单词是什么?",
                "Answer the question using 2 decimal places.",
            )
        ),
        ("What is x? Please answer the question with a single word.", "What is x?"),
        (
            "What is x? You FIRST think about the reasoning process as an internal monologue and then answer.",
            "What is x?",
        ),
        ("What is the final answer that the boy writes?", "What is the final answer that the boy writes?"),
    ],
)
def test_hints_go_and_questions_stay(before: str, after: str) -> None:
    outcome = strip_prompts([row("a", before)])
    assert question_of(outcome.rows[0]["prompt"]) == after
    assert outcome.changed == (before != after)


def test_system_messages_go_and_pictures_stay() -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "How many? Hint: please count."}]
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    outcome = strip_prompts([row("a", prompt), row("b", "Hint: Please look.")])
    assert outcome.rows[0]["prompt"] == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}
    ]
    assert outcome.dropped == [("b", "nothing but hints")]


@pytest.mark.parametrize(
    ("completion", "thought", "answer"),
    [
        ("<think>3+4</think>\\boxed{7}", "3+4", "\\boxed{7}"),
        ("<think>\n3+4\n</think>\n\nThe sum is \\boxed{7}.", "3+4", "The sum is \\boxed{7}."),
        ("<thinking>3+4</thinking><answer>7</answer>", "3+4", "\\boxed{7}"),
        ("<reasoning>3+4</reasoning>\nThe answer is **7**.", "3+4", "\\boxed{7}"),
        ("<think>a</think> The answer is \\frac{1}{2}", "a", "\\boxed{\\frac{1}{2}}"),
        (
            "<|begin_of_thought|>3+4<|end_of_thought|><|begin_of_solution|>\\boxed{7}<|end_of_solution|>",
            *("3+4", "\\boxed{7}"),
        ),
        ("First 3, then 4.\n#### 7", "First 3, then 4.", "\\boxed{7}"),
        ("First 3, then 4. So the answer is 7.", "First 3, then 4.", "\\boxed{7}"),
        ("First 3.\nThen 4.\n\\boxed{7}", "First 3.\nThen 4.", "\\boxed{7}"),
        ("先有3,再有4。\n答案是:7", "先有3,再有4。", "\\boxed{7}"),
        ("First 3.\n**Answer:** $7$", "First 3.", "\\boxed{7}"),
        ("3 and 4 make 7.\nThe answer to the question is 42.", "3 and 4 make 7.", "\\boxed{42}"),
        ("<think>t</think>The answer to this question is 42.", "t", "\\boxed{42}"),
        ("2+3=5, so the answer is \\boxed{5}.", "2+3=5", "so the answer is \\boxed{5}."),
        ("First 3.\n\\[\n\\boxed{5}\n\\]", "First 3.", "\\[\n\\boxed{5}\n\\]"),
        ("<think>t</think>12 cm²", "t", "\\boxed{12 cm²}"),
    ],
)
def test_completions_of_all_kinds_become_one(completion: str, thought: str, answer: str) -> None:
    assert read(completion) == (thought, answer)
    unified = unify([row("a", completion=completion)]).rows[0]["completion"]
    assert unified == written(thought, answer) == f"<think>\n{thought}\n</think>\n\n{answer}"
    assert unify([row("a", completion=unified)]).changed == 0, "unified ones stay as they are"
    assert final_answer(unified) is not None


@pytest.mark.parametrize(
    ("completion", "gold", "thought", "answer"),
    [
        ("Adding gives it. The answer is 5 because 2+3=5.", "5", "Adding gives it.", "5"),
        ("Count them: two. The answer is 5, and I checked it twice.", None, "Count them: two.", "5"),
        ("I see. The answer is two dogs and one cat. Both look happy.", None, "I see.", "two dogs and one cat"),
        ("<think>r</think>So the answer is **B. dog**.", "B", "r", "B"),
        ("<think>r</think><answer>B. dog</answer>", "B", "r", "B"),
        ("<think>r</think>因此,答案为:12平方厘米。", "12平方厘米", "r", "12平方厘米"),
        ("<think>r</think>综上,答案是B", "B", "r", "B"),
        ("我们计算2+2=4。所以答案是4个苹果。", "4", "我们计算2+2=4。", "4"),
        ("由题意x=3-1=2,故选B。", "B", "由题意x=3-1=2", "B"),
        ("11*11 = 121.\n</think>\n\nThe answer is 121", "121", "11*11 = 121.", "121"),
        ("Some work.\n### Final Answer\n120", "120", "Some work.", "120"),
        ("It is a half.\nThe answer is 0.5.", "0.5", "It is a half.", "0.5"),
        ("It is five halves.\nThe answer is 2.5", "2", "It is five halves.", "2.5"),
        *(
            (f"Look.\nThe answer is {said}", gold, "Look.", said)
            for said, gold in (
                ("2\\sqrt{3}", "2"),
                ("1,000", "1"),
                ("5+3i", "5"),
                ("3:4", "3"),
                ("5 or 6", "5"),
                ("5π", "5"),
                ("no one", "no"),
                ("(2, 3)", None),
                ("Dr. Smith", None),
            )
        ),
        (
            "<SUMMARY>s</SUMMARY>\n<CAPTION>c</CAPTION>\n<REASONING>2+3</REASONING>\n<CONCLUSION> 5 </CONCLUSION>",
            *("5", "s\nc\n2+3", "5"),
        ),
    ],
)
def test_as_much_of_a_sentence_is_the_answer_as_the_gold_one_says(
    completion: str, gold: str | None, thought: str, answer: str
) -> None:
    assert read(completion, gold=gold) == (thought, f"\\boxed{{{answer}}}")


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("", "no thought"),
        ("7 it is, I would say", "no answer"),
        ("\\boxed{7}", "no thought"),
        ("<think></think>\\boxed{7}", "no thought"),
        ("<think>3+4</think>", "no answer"),
        ("<think>a</think>b<think>c</think>\\boxed{7}", "two thoughts"),
        ("<think>3+4 \\boxed{7}", "a thought that isn't closed"),
        ("3+4</think>\\boxed{7}</think>", "a thought that isn't closed"),
        ("<think>long</think>A long answer sentence that explains why the picture shows a dog.", "no answer"),
        ("<think>long</think>The correct answer depends on the light in the picture, which is dim.", "no answer"),
        ("<think>r</think>The area is therefore 12 cm.", "no answer"),
        ("<think>t</think><answer>5", "an answer that isn't closed"),
        ("It is 12.\nThis answers the question.", "no answer"),
        ("It is 12.\nI hope this answer helps!", "no answer"),
        ("It is so.\nThe final answer is:\n", "no answer"),
        ("<think>t</think>Therefore, the area is quite large.", "no answer"),
    ],
)
def test_what_can_t_be_told_apart_is_dropped_with_the_reason(completion: str, reason: str) -> None:
    assert unify([row("a", completion=completion)]).dropped == [("a", reason)]


def test_an_answer_that_repeats_its_thought_is_redundant() -> None:
    thought = "we see three red apples on the left and four green ones on the right so there are seven in all"
    same = row("same", completion=written(thought, f"{thought}: \\boxed{{7}}"))
    other = row("other", completion=written(thought, "counting " * 12 + "both sides gives the total \\boxed{7}"))
    short = row("short", completion=written(thought, "seven in all: \\boxed{7}"))
    outcome = drop_redundant([same, other, short])
    assert [kept["id"] for kept in outcome.rows] == ["other", "short"]
    assert outcome.reasons == {"answer repeats the thought": 1}


@pytest.mark.parametrize("text", ["**Answer" + " " * 20_000 + "x", "\n" * 20_000, "answer is " * 1_000, "#" * 20_000])
def test_no_text_takes_long(text: str) -> None:
    start = time.process_time()
    unify([row("a", completion=text)])
    strip_prompts([row("a", text)])
    options_of(text)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("12 × 3", "12 ÷ 3"), ("x ≤ 2", "x ≥ 2"), ("A ∪ B", "A ∩ B"), ("2³", "23"), ("5 − 3", "5.3")),
        *(("√9", "9"), ("9!", "9"), ("−5", "5"), ("1/2", "12"), ("Where is A?", "Where is B?")),
    ],
)
def test_questions_that_mean_something_else_stay_apart(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_questions_that_mean_the_same_are_one() -> None:
    assert normalised("How many cats?") == normalised("how many   CATS ?") == normalised("How many cats")
    assert normalised("５ − ３") == normalised("5 - 3") == normalised("5-3")


def test_with_two_bins_each_may_have_half() -> None:
    rows = [row(str(n), completion=written("word " * length, "x")) for n, length in enumerate([10] * 50 + [100] * 20)]
    assert len(balance_lengths(rows, edges=(64,), most=0.3).rows) == 40


def test_lengths_are_balanced_and_short_bins_kept_whole() -> None:
    rows = [
        row(str(n), completion=written("word " * (10 if n < 90 else 100 if n < 97 else 300), "x")) for n in range(100)
    ]
    outcome = balance_lengths(rows, edges=(64, 256), most=0.5)
    kept = Counter(len(r["completion"].split()) > 50 for r in outcome.rows)
    assert kept == {False: 10, True: 10}, "10 of 20 are half"
    assert len(outcome.rows) + len(outcome.dropped) == 100
    assert outcome.rows == balance_lengths(rows, edges=(64, 256), most=0.5).rows
    assert outcome.rows != balance_lengths(rows, edges=(64, 256), most=0.5, seed=1).rows


class TestDuplicates:
    def look(self, of: Row) -> tuple[int, ...]:
        return tuple(of["hashes"])

    def test_the_first_of_equal_questions_about_alike_pictures_stays(self) -> None:
        rows = [
            row("first", "How many cats?", hashes=[0b1111]),
            row("again", "how many  CATS", hashes=[0b1110]),
            row("other picture", "How many cats?", hashes=[0b1111 << 20]),
            row("other question", "How many dogs?", hashes=[0b1111]),
            row("two pictures", "How many cats?", hashes=[0b1111, 0]),
            row("text", "How many cats?", hashes=[]),
            row("text again", "How many cats?", hashes=[]),
        ]
        outcome = dedupe(rows, look=self.look, distance=2)
        assert outcome.dropped == [("again", "duplicate"), ("text again", "duplicate")]
        assert len(dedupe(rows, look=self.look, distance=0).dropped) == 1

    def test_rows_of_an_evaluation_set_go(self) -> None:
        rows = [
            row("a", "How many cats?", hashes=[7]),
            row("b", "Where?", hashes=[7]),
            row("c", "Where?", hashes=[2**40]),
        ]
        known = [("how many cats", (7,))]
        assert decontaminate(rows, known, look=self.look, distance=0).reasons == {"in an evaluation set": 1}
        outcome = decontaminate(rows, known, look=self.look, distance=0, pictures_alone=True)
        assert [kept["id"] for kept in outcome.rows] == ["c"]

    def test_a_picture_s_hash_survives_scaling_and_recompression(self, tmp_path: Path) -> None:
        gradient = Image.linear_gradient("L").convert("RGB").resize((300, 200))
        gradient.paste(picture(1, 60, 60), (40, 30))
        gradient.save(tmp_path / "small.jpg", quality=60)
        again = Image.open(tmp_path / "small.jpg").resize((150, 100))
        assert (picture_hash(gradient) ^ picture_hash(again)).bit_count() <= 2
        assert (picture_hash(gradient) ^ picture_hash(gradient.rotate(90, expand=True))).bit_count() > 10

    def test_different_digits_are_told_apart(self, tmp_path: Path) -> None:
        rows = Rows(build_digits(tmp_path, seed=0, sft_rows=300, rl_rows=4, heldout_rows=4, direct_rows=4)["sft"])
        hashes = [picture_hash(rows[index]["images"][0]) for index in range(len(rows))]
        answers = [(normalised(question_of(rows.raw(i)["prompt"])), str(rows.raw(i)["digits"])) for i in range(300)]
        wrong = sum(
            answers[i] != answers[j] and answers[i][0] == answers[j][0] and (hashes[i] ^ hashes[j]).bit_count() <= 2
            for i in range(300)
            for j in range(i)
        )
        assert wrong == 0


CHOICE = "What is 3 + 4?\nChoices:\nA. 6\nB. 7\nC. 8"


def test_options_are_found_and_left_out() -> None:
    assert options_of(CHOICE) == {"A": "6", "B": "7", "C": "8"}
    assert options_of("Area? (A) 2 cm² (B) 4 cm² (C) 8 cm²") == {"A": "2 cm²", "B": "4 cm²", "C": "8 cm²"}
    assert options_of("What did B. Franklin say?") == {}
    assert options_of("The bisector starts from A. It meets BC at point B. How long is it?") == {}
    assert options_of("Which? A) red B) blue C) green") == {"A": "red", "B": "blue", "C": "green"}
    assert options_of("Points (A) and (B) are 5 apart. How far is their middle?") == {}
    graph = "Consider graph (A) below. What is x?\nA. 3\nB. 4"
    assert (options_of(graph), without_options(graph)) == (
        {"A": "3", "B": "4"},
        "Consider graph (A) below. What is x?",
    )
    assert without_options(CHOICE) == "What is 3 + 4?"
    assert [is_mathematical(answer) for answer in ("7", "2 cm²", "x^2+1", "$\\pi$", "a cat", "B")] == [
        *(True, True, True, True, False, False)
    ]


def test_multiple_choice_becomes_free_form_where_that_makes_sense() -> None:
    rows = [
        row("sum", CHOICE, answer="B", completion="<think>a</think>\\boxed{B}"),
        row("which", "Which of these is even?\nA. 7\nB. 8", answer="B"),
        row("cat", "Who is it?\nA. a cat\nB. a dog", answer="A"),
        row("plain", "What is 1 + 1?", answer="2"),
    ]
    outcome = free_form(rows, rewrite=by_rule)
    made = outcome.rows[0]
    assert (made["prompt"], made["answer"]) == ("What is 3 + 4?", "7")
    assert made["completion"] is None, "it boxed a letter"
    assert outcome.rows[1:] == rows[1:]
    assert [kept["id"] for kept in free_form(rows, rewrite=by_rule, drop_others=True).rows] == ["sum", "plain"]
    assert free_form(rows, rewrite=lambda asked: [("What is 3 + 4?", "9")] * len(asked)).changed == 0, "another answer"


class TestJudged:
    def script(self, number: int, body: dict[str, Any]) -> Reply:
        text = body["messages"][0]["content"]
        asked = json.dumps(body["messages"][1]["content"])
        if text.startswith("You shorten"):
            return verdict(answer="7 cats" if "seven" in asked else "a very long answer " * 9)
        if text.startswith("You rate"):
            return verdict(richness=2, alignment=5) if "thing" in asked else verdict(richness=4, alignment=3)
        if text.startswith("You turn"):
            return verdict(possible=1, question="What is 3 plus 4?", answer="7")
        thought = "The reference answer says 7." if "twice" in asked else "Three and four make seven."
        return verdict(reasoning="" if "wrong" in asked else thought)

    @pytest.fixture
    def rows(self) -> list[Row]:
        return [
            row(name, name, answer="7", completion=None, images=[picture(0)]) for name in ("once", "twice", "wrong")
        ]

    def test_long_answers_become_short_or_go(self) -> None:
        rows = [
            row("a", answer="Well, it seems that there are altogether seven cats in this picture", images=[]),
            row("b", answer="Nobody knows how many cats there are, or whether there is one at all", images=[]),
            row("c", answer="7", images=[]),
        ]
        with serving(self.script) as server:
            outcome = distill_answers(rows, Curator(JudgeSettings(base_url=server.url, model="m")).shorten)
            assert len(server.bodies) == 2, "a short answer costs no call"
        assert [kept["answer"] for kept in outcome.rows] == ["7 cats", "7"]
        assert outcome.dropped == [("b", "answer still verbose")]

    def test_poor_captions_go_and_ratings_stay(self) -> None:
        rows = [
            row(str(n), "Describe.", completion=text, images=[picture(0)]) for n, text in enumerate(["a thing", "cats"])
        ]
        with serving(self.script) as server:
            outcome = caption_quality(rows, Curator(JudgeSettings(base_url=server.url, model="m")).rate)
            content = server.bodies[0]["messages"][1]["content"]
            assert any(part["type"] == "image_url" for part in content), "the judge sees the picture"
            assert "Its fields:\n- richness: visual" in server.bodies[0]["messages"][0]["content"]
        assert [(kept["richness"], kept["alignment"]) for kept in outcome.rows] == [(4, 3)]
        assert outcome.dropped == [("0", "richness below 3")]

    def test_thoughts_lead_to_the_answer_and_don_t_give_it_away(self, rows: list[Row]) -> None:
        with serving(self.script) as server:
            outcome = guide(rows, Curator(JudgeSettings(base_url=server.url, model="m")).think)
        assert [kept["completion"] for kept in outcome.rows] == [
            "<think>\nThree and four make seven.\n</think>\n\n\\boxed{7}"
        ]
        assert outcome.dropped == [("twice", "thought speaks of reference answer"), ("wrong", "no thought was written")]
        done = row("done", completion="x", answer="7")
        assert guide([done], lambda missing: [] if not missing else ["never"]).rows == [done]

    def test_a_judge_that_fails_drops_the_row_or_stops(self, rows: list[Row]) -> None:
        def down(number: int, body: dict[str, Any]) -> Reply:
            return Reply("no", status=400)

        with serving(down) as server:
            lenient = Curator(JudgeSettings(base_url=server.url, model="m", on_failure="none", max_attempts=1))
            captioned = [{**rows[0], "completion": "cats"}, *rows[1:]]
            assert caption_quality(captioned, lenient.rate).reasons == {"not rated": 1, "no caption": 2}
            with pytest.raises(RuntimeError, match="gave no verdict after 1 attempt"):
                Curator(JudgeSettings(base_url=server.url, model="m", max_attempts=1)).rate(captioned[:1])

    def test_a_whole_recipe_with_its_counts_and_a_second_run_asks_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for number in range(2):
            picture(number).save(tmp_path / f"{number}.png")
        raw = [
            ("What is here? Hint: please look.", 0, "<think>a cat</think><answer>cat</answer>", "cat"),
            ("what is here", 0, "<think>a cat again</think>\\boxed{cat}", "cat"),
            ("What is held out?", 1, "<think>b</think>\\boxed{dog}", "dog"),
            ("once", 1, None, "7"),
            (CHOICE, 1, "<think>3+4</think>\\boxed{B}", "B"),
            ("No thought?", 1, "\\boxed{yes}", "yes"),
        ]
        lines = [{"question": q, "images": [f"{i}.png"], "completion": c, "answer": a} for q, i, c, a in raw]
        (tmp_path / "raw.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        heldout = {"question": "What is held out?", "images": ["1.png"], "answer": "dog"}
        (tmp_path / "heldout.jsonl").write_text(json.dumps(heldout) + "\n")
        with serving(self.script) as server:
            (tmp_path / "curate.yaml").write_text(
                f"data: {tmp_path}/raw.jsonl\nout: {tmp_path}/out.parquet\n"
                "steps: [strip_prompts, free_form: {judge: true}, guided_cot, unify, dedupe,\n"
                f"  decontaminate: {{against: ['{tmp_path}/heldout.jsonl']}}, balance_lengths: {{most: 1.0}}]\n"
                f"judge: {{base_url: '{server.url}', model: m}}\n"
            )
            for _ in range(2):
                assert main(["data", "curate", str(tmp_path / "curate.yaml")]) == 0
            assert len(server.bodies) == 3, "free_form once, guided_cot for two rows; then all from the cache"
        rows = Rows(tmp_path / "out.parquet", needs=("completion",))
        found = [(question_of(rows.raw(i)["prompt"]), rows.raw(i)["completion"]) for i in range(len(rows))]
        assert found == [
            ("What is here?", "<think>\na cat\n</think>\n\n\\boxed{cat}"),
            ("once", "<think>\nThree and four make seven.\n</think>\n\n\\boxed{7}"),
            ("What is 3 plus 4?", "<think>\nThree and four make seven.\n</think>\n\n\\boxed{7}"),
        ]
        assert rows[1]["images"][0].tobytes() == picture(1).tobytes()
        dropped = [json.loads(line) for line in (tmp_path / "out.dropped.jsonl").read_text().splitlines()]
        assert [(entry["id"], entry["step"], entry["reason"]) for entry in dropped] == [
            ("5", "unify", "no thought"),
            ("1", "dedupe", "duplicate"),
            ("2", "decontaminate", "in an evaluation set"),
        ]
        counts = json.loads((tmp_path / "out.counts.json").read_text())
        assert [(step["step"], step["in"], step["out"]) for step in counts] == [
            *(("strip_prompts", 6, 6), ("free_form", 6, 6), ("guided_cot", 6, 6), ("unify", 6, 5)),
            *(("dedupe", 5, 4), ("decontaminate", 4, 3), ("balance_lengths", 3, 3)),
        ]
        assert "1 duplicate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": ["dedup"]}, "steps.0.*'dedup'"),
        ({"steps": [{"dedupe": {"distanse": 2}}]}, "unknown key 'distanse'; the nearest valid key is 'distance'"),
        ({"steps": ["distill_answers"]}, "step distill_answers asks a judge; give `judge`"),
        ({"steps": ["guided_cot"]}, "step guided_cot asks a judge"),
        ({"out": "out.jsonl"}, "end the name in .parquet"),
        ({"steps": []}, "at least 1 item"),
    ],
)
def test_a_recipe_s_mistakes_are_named(
    change: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    import yaml

    tree = {"data": "raw.jsonl", "out": "out.parquet", "steps": ["unify"]} | change
    (tmp_path / "curate.yaml").write_text(yaml.safe_dump(tree))
    assert main(["data", "curate", str(tmp_path / "curate.yaml")]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_when_no_row_is_left_that_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "raw.jsonl").write_text(json.dumps({"question": "q", "completion": "7", "answer": "7"}) + "\n")
    recipe = CurationRecipe(data=tmp_path / "raw.jsonl", out=tmp_path / "out.parquet", steps=["unify"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"step unify drops all remaining rows: \{'no answer': 1\}"):
        curate(recipe)
    assert not (tmp_path / "out.parquet").exists()


def test_a_kill_before_the_data_are_written_loses_neither_counts_nor_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raw.jsonl").write_text(json.dumps({"question": "q", "completion": "7", "answer": "7"}) + "\n")
    out = tmp_path / "new/out.parquet"
    recipe = CurationRecipe(data=tmp_path / "raw.jsonl", out=out, steps=["dedupe"])  # type: ignore[list-item]

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sail_rl.curation.curate.save_rows", killed)
    with pytest.raises(KeyboardInterrupt):
        curate(recipe)
    assert {path.name for path in out.parent.iterdir()} == {"out.dropped.jsonl", "out.counts.json"}


def test_the_shipped_recipe_is_a_valid_one() -> None:
    from sail_rl.config.loading import read_tree, validated

    path = Path("recipes/curate_example.yaml")
    assert [step.kind for step in validated(CurationRecipe, read_tree(path), path).steps][:2] == [
        *("strip_prompts", "guided_cot")
    ]


class TestGuidedByAnEngine:
    @pytest.fixture
    def config(self, tiny_dir: Callable[..., Path]) -> GuidedCoT:
        return GuidedCoT(
            kind="guided_cot", model=tiny_dir(), engine="rollouts.hf:HFEngine", max_length=512, max_tokens=8
        )

    def test_what_it_writes_is_noted_and_not_written_again(self, config: GuidedCoT, tmp_path: Path) -> None:
        rows = [row(name, "How many?", answer="7", images=[picture(0)]) for name in ("a", "b")]
        with EngineWriter(config, tmp_path / "notes.jsonl", seed=0) as writer:
            thoughts = writer.think(rows)
        notes = (tmp_path / "notes.jsonl").read_text()
        assert [json.loads(line)["thought"] for line in notes.splitlines()] == thoughts
        with EngineWriter(config, tmp_path / "notes.jsonl", seed=0) as writer:
            assert writer.think(rows[:1]) == thoughts[:1]
            assert (tmp_path / "notes.jsonl").read_text() == notes
        with EngineWriter(config, tmp_path / "notes.jsonl", seed=1) as writer:
            writer.think(rows[:1])
        assert len((tmp_path / "notes.jsonl").read_text().splitlines()) == 3, "another seed, another thought"

    def test_it_is_told_the_answer_and_what_it_writes_must_lead_there(self, config: GuidedCoT, tmp_path: Path) -> None:
        with EngineWriter(config, tmp_path / "notes.jsonl", seed=0) as writer:
            guided = writer._guided(row("a", "How many?", answer="7", images=[picture(0)]))
            assert [part["type"] for part in guided["prompt"][0]["content"]] == ["image", "text", "text"]
            assert "The reference answer is: 7" in question_of(guided["prompt"])
            assert writer._thought("<think>3+4</think>\\boxed{7}", "7") == "3+4"
            assert writer._thought("3+4</think>", "7") == "3+4"
            assert writer._thought("<think>3+4</think>\\boxed{8}", "7") is None
            assert writer._thought("<think>3+4 and so on", "7") is None
