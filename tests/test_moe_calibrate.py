"""Probing expert activation by source and calibrating the language mixture: against a forward a row, grids and KKT."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from conftest import picture
from transformers import AutoProcessor

from sail_rl.cli.main import main
from sail_rl.data.dataset import Rows
from sail_rl.data.encoding import Encoder
from sail_rl.data.mixture import read_mixture, write_mixture
from sail_rl.maths.mixture import duality_gap, entropy_gradient, max_entropy_mixture, mixture_entropy
from sail_rl.models.loading import load_model
from sail_rl.moe.calibrate import calibrate
from sail_rl.moe.probe import Limits, activation
from sail_rl.moe.source import Activation, read_probe


def random_shares(seed: int, *, sources: int, layers: int = 3, experts: int = 8) -> numpy.ndarray:
    """Peaked activations [sources, layers, experts]; some experts are used by nobody or by one source only."""
    generator = numpy.random.default_rng(seed)
    shares = generator.dirichlet(numpy.full(experts, 0.3), size=(sources, layers))
    shares[:, 0, 0] = 0
    shares[1:, 1, 1] = 0
    return shares / shares.sum(-1, keepdims=True)


def free(sources: int) -> dict[str, numpy.ndarray]:
    return {"lower": numpy.zeros(sources), "upper": numpy.ones(sources)}


def activation_of(counts: list[list[int]], *, tokens: int | None = None, images: int = 0) -> Activation:
    return Activation(3, images, tokens or sum(counts[0]), numpy.array(counts))


# The mathematics


def test_disjoint_sources_get_weights_by_the_number_of_their_experts() -> None:
    # H = log 4 only where all four experts are equal: 1/4 to the source with one expert, 3/4 to that with three
    shares = numpy.array([[[1, 0, 0, 0]], [[0, 1 / 3, 1 / 3, 1 / 3]]])
    optimum = max_entropy_mixture(shares, **free(2))
    assert optimum.weights == pytest.approx([0.25, 0.75], abs=1e-4)
    assert optimum.entropy == pytest.approx(math.log(4), abs=1e-8)


def test_a_source_that_only_concentrates_gets_nothing() -> None:
    shares = numpy.array([[[0.25, 0.25, 0.25, 0.25]], [[0.7, 0.1, 0.1, 0.1]]])
    assert max_entropy_mixture(shares, **free(2)).weights == pytest.approx([1, 0], abs=1e-4)


def test_the_gradient_is_that_of_finite_differences() -> None:
    shares, weights = random_shares(0, sources=4), numpy.array([0.4, 0.3, 0.2, 0.1])
    for source, slope in enumerate(entropy_gradient(weights, shares)):
        step = numpy.zeros(4)
        step[source] = 1e-6
        difference = mixture_entropy(weights + step, shares) - mixture_entropy(weights - step, shares)
        assert slope == pytest.approx(difference / 2e-6, abs=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_no_mixture_on_a_fine_grid_is_better(seed: int) -> None:
    shares = random_shares(seed, sources=3)
    optimum = max_entropy_mixture(shares, **free(3))
    assert optimum.weights.sum() == pytest.approx(1, abs=1e-9)
    grid = [(a / 100, b / 100, (100 - a - b) / 100) for a, b in itertools.product(range(101), repeat=2) if a + b <= 100]
    entropies = [mixture_entropy(numpy.array(weights), shares) for weights in grid]
    assert max(entropies) <= optimum.entropy + 1e-9
    assert numpy.abs(numpy.array(grid[int(numpy.argmax(entropies))]) - optimum.weights).max() < 0.02


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_the_optimum_meets_the_kkt_conditions_and_its_gap_is_tiny(seed: int, bounded: bool) -> None:
    sources = 3 + 2 * seed
    shares = random_shares(seed, sources=sources, layers=5, experts=16)
    bounds = free(sources)
    if bounded:
        bounds = {"lower": numpy.full(sources, 0.4 / sources), "upper": numpy.full(sources, 1.5 / sources)}
    optimum = max_entropy_mixture(shares, **bounds)
    assert optimum.gap <= 1e-6
    assert (optimum.weights >= bounds["lower"]).all()
    assert (optimum.weights <= bounds["upper"]).all()
    slopes = entropy_gradient(optimum.weights, shares)
    at_lower, at_upper = optimum.weights < bounds["lower"] + 1e-7, optimum.weights > bounds["upper"] - 1e-7
    multiplier = slopes[~at_lower & ~at_upper].mean()
    assert slopes[~at_lower & ~at_upper] == pytest.approx(multiplier, abs=1e-3)
    assert (slopes[at_lower] <= multiplier + 1e-3).all()
    assert (slopes[at_upper] >= multiplier - 1e-3).all()


def test_the_gap_bounds_what_is_missing_to_the_optimum() -> None:
    shares = random_shares(3, sources=5)
    best = max_entropy_mixture(shares, **free(5))
    for weights in numpy.random.default_rng(0).dirichlet(numpy.ones(5), size=20):
        gap = duality_gap(weights, shares, **free(5))
        assert gap >= best.entropy - mixture_entropy(weights, shares) - 1e-12


# Calibration


ACTIVATIONS = {
    "chat": activation_of([[30, 10, 0, 0], [10, 10, 10, 10]], tokens=20),
    "code": activation_of([[0, 0, 60, 20], [20, 20, 20, 20]], tokens=40),
    "vqa": activation_of([[5, 5, 5, 5], [20, 0, 0, 0]], tokens=10, images=3),
}


def test_calibration_reports_entropies_before_and_after_and_with_the_multimodal_sources() -> None:
    found = calibrate(ACTIVATIONS, languages=["chat", "code"], keep={}, cap={})
    # by symmetry 1/2 each: layer 0 is [3/8, 1/8, 3/8, 1/8], layer 1 is flat
    layer = 2 * (3 / 8 * math.log(8 / 3) + 1 / 8 * math.log(8))
    assert found.weights == pytest.approx({"chat": 0.5, "code": 0.5}, abs=1e-4)
    assert found.entropies["calibrated"]["text"] == pytest.approx((layer + math.log(4)) / 2)
    thirds = [1 / 4, 1 / 12, 1 / 2, 1 / 6]  # by tokens: a third chat, two thirds code
    by_tokens = (sum(-p * math.log(p) for p in thirds) + math.log(4)) / 2
    assert found.entropies["by tokens"]["text"] == pytest.approx(by_tokens)
    # 60 tokens of text and 10 with images
    first = [(6 * p + 0.25) / 7 for p in (3 / 8, 1 / 8, 3 / 8, 1 / 8)]
    second = [(6 * 0.25 + p) / 7 for p in (1, 0, 0, 0)]
    both = sum(-p * math.log(p) for p in first + second) / 2
    assert found.entropies["calibrated"]["all"] == pytest.approx(both, abs=1e-6)
    assert found.entropies["uniform"]["text"] == pytest.approx(found.entropies["calibrated"]["text"], abs=1e-6)


def test_bounds_are_kept() -> None:
    found = calibrate(ACTIVATIONS, languages=["chat", "code"], keep={"chat": 0.7}, cap={})
    assert found.weights == pytest.approx({"chat": 0.7, "code": 0.3})
    found = calibrate(ACTIVATIONS, languages=["chat", "code"], keep={}, cap={"chat": 0.2})
    assert found.weights == pytest.approx({"chat": 0.2, "code": 0.8})


@pytest.mark.parametrize(
    ("languages", "keep", "cap", "message"),
    [
        ([], {}, {}, "--languages is empty"),
        (["chat", "chat"], {}, {}, "names chat more than once"),
        (["chat", "cod"], {}, {}, "'cod', which was not probed; the probe has chat, code, vqa"),
        (["chat", "vqa"], {}, {}, "'vqa', but 3 of its 3 rows have images"),
        (["chat", "code"], {"vqa": 0.1}, {}, "--keep vqa=0.1: 'vqa' isn't one of chat, code"),
        (["chat", "code"], {"chat": 1.2}, {}, "a weight is between 0 and 1"),
        (["chat", "code"], {"chat": 0.7, "code": 0.7}, {}, "sum to 1.4"),
        (["chat", "code"], {}, {"chat": 0.2, "code": 0.7}, "sum to 0.9"),
        (["chat", "code"], {"chat": 0.5}, {"chat": 0.4}, "--keep chat=0.5 is above --cap chat=0.4"),
    ],
)
def test_impossible_requests_are_refused(
    languages: list[str], keep: dict[str, float], cap: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(ACTIVATIONS, languages=languages, keep=keep, cap=cap)


# The mixture's file


def test_a_written_mixture_is_read_back(tmp_path: Path) -> None:
    write_mixture(tmp_path / "m.yaml", {"chat": 1 / 3, "code": 2 / 3})
    assert read_mixture(tmp_path / "m.yaml", sources=["code", "chat"]) == {"code": 2 / 3, "chat": 1 / 3}
    (tmp_path / "m.json").write_text('{"chat": 0.25, "code": 0.75}')
    assert read_mixture(tmp_path / "m.json", sources=["chat", "code"]) == {"chat": 0.25, "code": 0.75}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]", "a mixture is a mapping of source: weight, not list"),
        ("{a: 1", "isn't YAML: line 1"),
        ("{a: 0.5, b: 0.5, c: 0}", "unknown source 'c'; the sources are a, b"),
        ("{a: 1}", "no weight for b; write 0"),
        ("{a: 1.5, b: -0.5}", "the weight of b is -0.5"),
        ("{a: half, b: 0.5}", "the weight of a is 'half'"),
        ("{a: .nan, b: 0.5}", "the weight of a is nan"),
        ("{a: 0.5, b: 0.4}", "the weights sum to 0.9"),
    ],
)
def test_a_bad_mixture_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_mixture(tmp_path / "m.yaml", sources=["a", "b"])


# Probing a model


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    """Two text-only sources and one with images."""
    picture(0).save(tmp_path / "a.png")
    picture(1, 112, 56).save(tmp_path / "b.png")
    rows = {
        "digits": [{"prompt": f"What is the sum of {n}?", "completion": "1 2 3 4 " * (n % 5)} for n in range(1, 12)],
        "letters": [{"prompt": "zyx " * n, "completion": None} for n in range(1, 9)],
        "pictures": [{"prompt": "What?", "images": ["a.png", "b.png"][: 1 + n % 2]} for n in range(4)],
    }  # fmt: skip
    rows["digits"] = [row | {"completion": row["completion"] or "0"} for row in rows["digits"]]
    for name, own in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    return {name: tmp_path / f"{name}.jsonl" for name in rows}


def expected_counts(model_dir: Path, path: Path) -> numpy.ndarray:
    """Routed slots by the router's own choice, one row at a time."""
    model, encoder = load_model(model_dir).eval(), Encoder(AutoProcessor.from_pretrained(model_dir), max_length=1024)
    counts = numpy.zeros((4, 8), dtype=int)

    def count(layer: int) -> Callable[..., None]:
        def hook(module: object, inputs: object, output: tuple[torch.Tensor, ...]) -> None:
            numpy.add.at(counts[layer], output[2].flatten().numpy(), 1)

        return hook

    for number, layer in enumerate(model.model.language_model.layers):
        layer.mlp.gate.register_forward_hook(count(number))
    for row in Rows(path):
        prompt = encoder.prompt(row)
        ids, pixels = encoder.prompt_inputs(prompt)
        if row.get("completion") is not None:
            ids = encoder.sft_sample(row).input_ids
        with torch.no_grad():
            model(input_ids=ids[None], **pixels)
    return counts


def test_a_probe_counts_what_one_row_at_a_time_counts(
    sources: dict[str, Path], tiny_dir: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "probe" / "probe.json"
    words = [f"{name}={path}" for name, path in sources.items()]
    model_dir = tiny_dir("qwen3_moe")
    assert main(["moe", "probe", str(model_dir), *words, "--out", str(out), "--pack-length", "100"]) == 0
    found, written = read_probe(out), json.loads(out.read_text())
    assert [(a.rows, a.rows_with_images) for a in found.values()] == [(11, 0), (8, 0), (4, 4)]
    for name, path in sources.items():
        numpy.testing.assert_array_equal(found[name].counts, expected_counts(model_dir, path))
        assert found[name].counts.sum(-1).tolist() == [2 * found[name].tokens] * 4
        shares = found[name].shares
        entropies = [-sum(p * math.log(p) for p in layer if p) for layer in shares]
        assert written["sources"][name]["entropy"] == pytest.approx(entropies, abs=1e-6)


def test_probed_sources_can_be_calibrated_from_the_command_line(
    sources: dict[str, Path], tiny_dir: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{name}={path}" for name, path in sources.items()]
    probe, mixture = tmp_path / "probe.json", tmp_path / "mixture.yaml"
    assert main(["moe", "probe", str(tiny_dir("qwen3_moe")), *words, "--out", str(probe)]) == 0
    arguments = ["--languages", "digits,letters", "--keep", "letters=0.1", "--out", str(mixture)]
    assert main(["moe", "calibrate", str(probe), *arguments]) == 0
    weights = read_mixture(mixture, sources=["digits", "letters"])
    assert weights["letters"] >= 0.1
    assert "calibrated" in capsys.readouterr().out


def test_limits_on_rows_and_tokens_are_kept_and_the_draw_is_seeded(
    sources: dict[str, Path], tiny_dir: Callable[..., Path], encoder: Encoder
) -> None:
    model, rows = load_model(tiny_dir("qwen3_moe")).eval(), Rows(sources["digits"])

    def draw(**changes: int) -> Activation:
        limits = {"rows": 3, "tokens": 10_000, "pack_length": 64, "seed": 0} | changes
        return activation(model, rows, encoder, limits=Limits(**limits), name="digits")

    assert draw().rows == 3
    assert draw(tokens=1).rows == 1
    numpy.testing.assert_array_equal(draw().counts, draw().counts)
    numpy.testing.assert_array_equal(draw().counts, draw(pack_length=1).counts)
    assert (draw().counts != draw(seed=5).counts).any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{dense}", "a={digits}"], "is a dense model.*no experts to probe"),
        (["{folder}", "a={digits}"], "has no config.json, but .*; give the folder of a saved SAIL-VL2"),
        (["{moe}", "a={folder}/none.jsonl"], "no such dataset file"),
        (["{moe}", "a={folder}/empty.jsonl"], "empty.jsonl: the dataset has no rows"),
        (["{moe}", "{digits}"], "write a source as NAME=VALUE"),
        (["{moe}", "a={digits}", "a={digits}"], "a is given twice"),
        (["{moe}", "a={digits}", "--rows", "0"], "rows is 0; give at least 1"),
    ],
)
def test_what_cannot_be_probed_is_refused(
    words: list[str],
    message: str,
    sources: dict[str, Path],
    tiny_dir: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty.jsonl").touch()
    places = {"dense": tiny_dir("qwen3"), "moe": tiny_dir("qwen3_moe"), "folder": tmp_path, **sources}
    out = tmp_path / "probe.json"
    assert main(["moe", "probe", *(word.format(**places) for word in words), "--out", str(out)]) == 2
    assert not out.exists()
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "isn't a file of `sail-rl moe probe`"),
        ('{"layers": 1}', "isn't a file of `sail-rl moe probe`"),
        (
            '{"layers": 1, "experts": 2, "sources": {"a": {"rows": 1, "rows_with_images": 0, "tokens": 1, '
            '"counts": [[1, 0, 0]]}}}',
            r"counts are \(1, 3\), not layers x experts \(1, 2\)",
        ),
        (
            '{"layers": 1, "experts": 2, "sources": {"a": {"rows": 1, "rows_with_images": 0, "tokens": 0, '
            '"counts": [[0, 0]]}}}',
            "source a: no tokens were routed",
        ),
    ],
)
def test_a_file_that_is_no_probe_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "probe.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_probe(tmp_path / "probe.json")
