"""Evaluation: pass@k, majority and sources by hand; several sets; the best model of a stage; sail-rl eval."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import pytest
import torch
from conftest import picture
from hypothesis import given
from hypothesis import strategies as st
from launching import finish
from test_run import SHORT, steps

from sail_rl.cli.main import main
from sail_rl.config.loading import load_recipe
from sail_rl.contracts import Prompt, Rollout, Sampling, Scores
from sail_rl.evaluation.evaluate import Evaluator, ScoredCompletion, summarise
from sail_rl.maths.heldout import powers, selecting
from sail_rl.models.loading import load_model
from sail_rl.records.schema import is_known
from sail_rl.stages.best import Best, BestModels, remove_candidates
from sail_rl.stages.export import card


def answered(
    prompt: str, answer: str | None, right: bool, source: str | None = None, **scores: float
) -> ScoredCompletion:
    return ScoredCompletion("d", prompt, source, answer, answer is not None, 10, {"accuracy": float(right), **scores})


def test_the_metrics_of_several_samples_by_hand() -> None:
    answers = [
        *(answered("a", "7", True, "sum"), answered("a", "8", False, "sum"), answered("a", "7", True, "sum")),
        *(answered("b", "1", False, "count"), answered("b", "2", True, "count"), answered("b", "1", False, "count")),
        *(answered("c", None, False), answered("c", None, False), answered("c", None, False, format=1.0)),
    ]
    assert summarise(answers) == pytest.approx(
        {
            "accuracy": 3 / 9,
            "format": 1.0,
            "length_mean": 10.0,
            "accuracy/sum": 2 / 3,
            "thinking/sum": 1.0,
            "accuracy/count": 1 / 3,
            "thinking/count": 1.0,
            "pass@1": (2 / 3 + 1 / 3 + 0) / 3,
            "pass@2": (1 + 2 / 3 + 0) / 3,  # of b, two of the three pairs hold the right one
            "pass@3": 2 / 3,
            "maj@3": 1 / 3,
        }
    )


def test_one_sample_has_no_pass_at_k_and_a_score_that_is_nowhere_no_mean() -> None:
    assert summarise([answered("a", "7", True, format=math.nan)]) == {"accuracy": 1.0, "length_mean": 10.0}
    assert powers(8) == [1, 2, 4, 8]
    assert powers(6) == [1, 2, 4, 6]


def box(text: str) -> str:
    return rf"\boxed{{{text}}}"


class Parrot:
    """An engine that answers each prompt with its own text in a box, then with nonsense."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Rollout]]:
        texts = ([box(prompt.text), box("nonsense")][: sampling.samples_per_prompt] for prompt in prompts)
        return [[Rollout(p.id, n, [1, 2], [0, 0], text, "stop", 1) for n, text in enumerate(own)]
                for p, own in zip(prompts, texts, strict=True)]  # fmt: skip


class Exact:
    def __call__(self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> Scores:
        right = [float(r.text == box(p.columns["answer"])) for p, r in zip(prompts, rollouts, strict=True)]
        return Scores(right, {"accuracy": right})


def test_several_sets_are_told_apart_and_the_first_is_the_summary_s() -> None:
    def prompts(*pairs: str) -> list[Prompt]:
        return [Prompt(str(n), [], text, [], {"answer": gold}) for n, (text, gold) in enumerate(pairs)]

    sets = {"hard": prompts("ab", "cc", "de"), "easy": prompts("xx", "yy")}
    evaluator = Evaluator(Parrot(), Exact(), sets, Sampling(2, 8, 1.0))  # type: ignore[arg-type]
    metrics = evaluator()
    assert evaluator.accuracy_name == "eval/hard/accuracy"
    assert metrics["eval/hard/accuracy"] == pytest.approx(1 / 6)
    assert metrics["eval/easy/accuracy"] == 0.5
    assert metrics["eval/easy/pass@2"] == metrics["eval/easy/maj@2"] == 1.0
    assert not any("." in name for name in metrics), "nothing is halved"


@given(right=st.lists(st.booleans(), min_size=2, max_size=9), seed=st.randoms())
def test_the_rows_that_choose_the_best_model_are_not_those_that_report(right: list[bool], seed: random.Random) -> None:
    prompts = [Prompt(f"row {n}", [], "7", [], {"answer": "7" if yes else "8"}) for n, yes in enumerate(right)]
    seed.shuffle(prompts)
    evaluator = Evaluator(Parrot(), Exact(), {"d": prompts, "e": prompts}, Sampling(), halved="d")  # type: ignore[arg-type]
    metrics = evaluator()
    chosen = selecting(prompt.id for prompt in prompts)
    assert len(chosen) == len(right) // 2
    halves = [[yes for n, yes in enumerate(right) if (f"row {n}" in chosen) == selects] for selects in (True, False)]
    assert evaluator.accuracy_name == "eval/d.report/accuracy"
    assert evaluator.selection_name("eval/d/accuracy/sum") == "eval/d.select/accuracy/sum"
    assert evaluator.selection_name("eval/e/accuracy") == "eval/e/accuracy"
    assert metrics["eval/d.select/accuracy"] == pytest.approx(fmean(halves[0]))
    assert metrics["eval/d.report/accuracy"] == pytest.approx(fmean(halves[1]))
    assert metrics["eval/d/accuracy"] == metrics["eval/e/accuracy"] == pytest.approx(fmean(right))
    assert all(is_known(name) for name in metrics)


def test_only_a_set_that_chooses_and_reports_is_halved() -> None:
    def halved(*overrides: str) -> str | None:
        return load_recipe("quickstart", [*overrides]).halved

    best = "stages.rlvr.metric_for_best_model=eval/heldout/format"
    assert halved() is None
    assert halved(best) == "heldout"
    assert halved(best, "evaluation.data=[heldout, rl]") == "heldout"
    assert halved(best, "evaluation.data=[rl, heldout]") is None


def test_greedy_samples_are_refused_in_recipes_and_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="samples above 1 takes a temperature above 0"):
        load_recipe(Path("recipes/quickstart.yaml"), ["evaluation.samples=2", "evaluation.temperature=0"])
    assert main(["eval", "model", "data.jsonl", "--n", "2", "--temperature", "0"]) == 2
    assert "--n above 1 takes a --temperature above 0" in capsys.readouterr().err


class TestTheBestModel:
    @pytest.fixture
    def models(self, tmp_path: Path) -> BestModels:
        return BestModels(tmp_path, "eval/d/accuracy", greater=True)

    def saver(self, folder: Path) -> Callable[[str], None]:
        return lambda name: (folder / name / "model").mkdir(parents=True)

    def test_is_the_first_with_the_highest_value(self, models: BestModels) -> None:
        best, save = None, self.saver(models.folder)
        for step, value in enumerate([0.2, 0.5, 0.4, 0.5]):
            best = models.consider(best, step, {"eval/d/accuracy": value}, accuracy=value / 2, save=save)
        assert best == Best(1, 0.5, 0.25)
        assert sorted(path.name for path in models.folder.iterdir()) == ["best-0", "best-1"], "a kill may go back to 0"
        models.keep_only(best)
        assert [path.name for path in models.folder.iterdir()] == ["best-1"]
        models.adopt(best)
        assert sorted(path.name for path in models.folder.iterdir()) == ["best-1", "model"], "until the result is there"
        remove_candidates(models.folder)
        assert [path.name for path in models.folder.iterdir()] == ["model"]

    def test_is_the_lowest_if_lower_is_better(self, tmp_path: Path) -> None:
        models, best = BestModels(tmp_path, "eval/d/length_mean", greater=False), None
        for step, value in enumerate([30.0, 20.0, 25.0]):
            metrics = {"eval/d/length_mean": value}
            best = models.consider(best, step, metrics, accuracy=0, save=self.saver(tmp_path))
        assert best is not None
        assert best.step == 1

    def test_needs_a_metric_that_is_there(self, models: BestModels) -> None:
        with pytest.raises(ValueError, match="is eval/d/accuracy, but an evaluation has eval/e/accuracy"):
            models.consider(None, 1, {"eval/e/accuracy": 1.0}, accuracy=0, save=self.saver(models.folder))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_keeps_the_best_model_by_a_metric_that_gets_worse(tmp_path: Path) -> None:
    """By the mean length, the shortest is the best; some step before the last has it, or the last: both must fit."""
    overrides = [
        *(option for option in SHORT if "evaluation" not in option),
        *("evaluation.every=1", "evaluation.max_tokens=16", "evaluation.samples=2"),
        *("stages.longcot_sft.optimizer.warmup_steps=0", "stages.rlvr.optimizer.warmup_steps=0"),
        *("stages.rlvr.steps=3", "stages.rlvr.save_every=2"),
        *("stages.rlvr.metric_for_best_model=eval/heldout/length_mean", "stages.rlvr.greater_is_better=false"),
        *("stages.longcot_sft.metric_for_best_model=eval/heldout/length_mean", "stages.longcot_sft.steps=3"),
    ]
    run = tmp_path / "run"
    finish(["-m", "sail_rl", "run", "recipes/quickstart.yaml", f"output_dir={run}", *overrides])
    logged, results = steps(run), {}
    for stage, choose in (("longcot_sft", max), ("rlvr", min)):
        lengths = {step: logged[stage, step]["eval/heldout.select/length_mean"] for step in (1, 2, 3)}
        results[stage] = choose(lengths, key=lambda step: lengths[step])
        result = json.loads((run / f"stages/{stage}/result.json").read_text())
        assert result["heldout_accuracy_after"] == logged[stage, results[stage]]["eval/heldout.report/accuracy"]
        assert not list((run / f"stages/{stage}").glob("best-*"))
        model = dict(load_model(run / f"stages/{stage}/model").named_parameters())
        if results[stage] == 2:  # of step 2 there is a checkpoint
            same = dict(load_model(run / f"stages/{stage}/checkpoint-2").named_parameters())
            assert all(torch.equal(tensor, same[name]) for name, tensor in model.items())
    assert {"eval/heldout/pass@2", "eval/heldout/maj@2"} <= logged["rlvr", 3].keys()
    rows = "half of heldout (eval/heldout.report); the other half chose the best models"
    assert json.loads((run / "summary.json").read_text())["heldout_rows"] == rows
    lineage = json.loads((run / "stages/rlvr/lineage.json").read_text())
    assert f"Held-out rows: {rows}." in card("m", [lineage], {}, curves=False)


def test_the_command_prints_and_writes_metrics_of_every_dataset(
    tiny_dir: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(0).save(tmp_path / "0.png")
    for name, source in (("sums", "sum"), ("counts", "count")):
        row = {"prompt": "What is the sum?", "images": ["0.png"], "answer": "7", "source": source}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    data = [str(tmp_path / "sums.jsonl"), str(tmp_path / "counts.jsonl")]
    options = ["--engine", "rollouts.hf:HFEngine", "--max-tokens", "4", "--max-length", "64", "--n", "2"]
    assert main(["eval", str(tiny_dir()), *data, *options, "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found) == ["sums", "counts"]
    assert found["sums"]["accuracy/sum"] == found["sums"]["pass@2"] == 0.0
    printed = capsys.readouterr().out
    assert "accuracy/count" in printed
    assert "maj@2" in printed
