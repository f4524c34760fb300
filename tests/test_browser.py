"""The report in a real browser: everything is shown, nothing is fetched, nothing sticks out."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from browser import CHROMIUM, Page, browsing
from conftest import picture
from PIL import Image
from test_doctor import write_run

from sail_rl.contracts import Prompt, Rollout, Scores
from sail_rl.records.traces import TraceWriter
from sail_rl.reporting.compare import write_comparison
from sail_rl.reporting.report import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: `make browser` installs one on Debian"),
]
HOSTILE = "<script>document.title='caught'</script><img src='http://127.0.0.1:9/x.png'>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory):
    with browsing(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with curves, and traces whose texts are hostile."""
    run = write_run(tmp_path, "run")
    writer = TraceWriter(run)
    for step, text in enumerate(("<think>3+4=7</think>\\boxed{7}", f"<think>{HOSTILE}</think>\\boxed{{8}}")):
        prompt = Prompt(
            "p", [{"role": "user", "content": f"What is it? {HOSTILE}"}], "", [picture(step)], {"answer": "7"}
        )
        rollout = Rollout("p", 0, [1, 2], [0.0, 0.0], text, "stop", 1)
        score = float(step == 0)
        writer.write("rlvr", step, [prompt], [rollout], Scores([score], {"answer": [score]}), 1)
    write_report(run)
    return run


def seen_well(page: Page, report: Path) -> None:
    """Every picture is decoded, the page isn't wider than the window, and nothing came from outside the file."""
    asked, complained = len(page.requested), len(page.complaints)
    page.open(report)
    assert page.evaluate("document.images.length") >= 3
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert {address.partition(":")[0] for address in page.requested[asked:]} == {"file", "data"}
    assert page.complaints[complained:] == []


def test_the_report_shows_curves_traces_and_marked_answers(page: Page, run: Path, tmp_path: Path) -> None:
    seen_well(page, run / "report.html")
    assert page.evaluate("[...document.querySelectorAll('h2')].map(h => h.textContent)")[:2] == ["Stages", "Curves"]
    assert page.evaluate("document.querySelectorAll('article').length") == 2
    assert page.evaluate("getComputedStyle(document.querySelector('.thought')).backgroundColor") == "rgb(255, 247, 230)"
    assert "\\boxed{7}" in page.evaluate("[...document.querySelectorAll('mark')].map(m => m.textContent)")
    assert page.evaluate("document.title") == "run", "the traces' script didn't run"
    page.screenshot(tmp_path / "page.png")
    pixels = numpy.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    assert len(numpy.unique(pixels.reshape(-1, 3), axis=0)) > 100, "curves were drawn"


def test_so_does_a_comparison(page: Page, run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path, "other", seed=1, reward=0.7)
    seen_well(page, write_comparison([run, other], tmp_path / "comparison"))
    assert page.evaluate("[...document.querySelectorAll('table')].length") == 2
    assert page.evaluate("document.querySelectorAll('details').length") >= 1, "traces are folded"
