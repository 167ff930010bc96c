"""A report of three devices in a real browser: no error, no request, every front usable, readable by everybody."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from hwsearch.commands.run import run
from tests.hwsearch.report.browser import AXE, BROWSER, driven, violations
from tests.hwsearch.runs import Silent, digits, write

needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium")
DEVICES = {
    "laptop": {"runtime": "simulated", "options": {"noise": 0.05}},
    "phone": {"runtime": "simulated"},
    "server": {"runtime": "simulated", "batch": 8},
}
LOOK = """
const figures = [...document.querySelectorAll('#front figure')];
tell({
  fronts: figures.map(f => f.querySelectorAll('.member').length),
  wide: document.documentElement.scrollWidth <= innerWidth,
  requests: performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length,
  cards: figures.map(f => {
    const mark = f.querySelector('.member');
    const spot = mark.querySelector('path').getBoundingClientRect();
    const at = {clientX: spot.x + spot.width / 2, clientY: spot.y + spot.height / 2, bubbles: true};
    mark.dispatchEvent(new MouseEvent('click', at));
    return document.getElementById('card').textContent.includes(mark.dataset.key);
  }),
});
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    raw = digits(
        devices=DEVICES,
        objectives=["accuracy", *(f"latency_ms@{name}" for name in DEVICES), "stored_bytes"],
        search={"engine": "nsga2", "trials": 10, "options": {"population": 5}},
    )
    run(write(folder, raw), run_dir=folder / "run", observer=Silent())
    return folder / "run" / "report.html"


@needs_browser
@pytest.mark.parametrize("width", [1440, 500])  # headless Chromium has no narrower window
def test_a_report_of_three_devices_works_in_a_browser(report: Path, tmp_path: Path, width: int) -> None:
    told = driven(report, LOOK, tmp_path, width=width)
    assert len(told["fronts"]) == 3 and min(told["fronts"]) > 0
    assert told["cards"] == [True, True, True]
    assert told["requests"] == 0 and told["wide"]


@needs_browser
@pytest.mark.skipif(not AXE.is_file(), reason="needs axe-core: see CONTRIBUTING.md")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious(report: Path, tmp_path: Path, dark: bool) -> None:
    assert violations(report, tmp_path, dark=dark) == []


def _luminance(color: str) -> float:
    digits_ = color.removeprefix("#")
    full = digits_ if len(digits_) == 6 else "".join(2 * c for c in digits_)
    parts = [int(full[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_texts_in_figures_have_contrast() -> None:
    """Texts 4.5 : 1 and marks 3 : 1 (WCAG 2.1, 1.4.3 and 1.4.11); axe cannot tell for texts in SVG."""
    css = (Path(__file__).parents[3] / "hwsearch/report/html/report.css").read_text()
    for theme in re.findall(r"^:root(?:\.dark)? \{(.*?)\}", css, re.MULTILINE | re.DOTALL):
        color = dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6});", theme))
        for name, ground in product(("ink", "soft", "dense", "sparse", "good", "trial"), ("paper", "panel")):
            high, low = sorted((_luminance(color[name]), _luminance(color[ground])), reverse=True)
            ratio = (high + 0.05) / (low + 0.05)
            assert ratio >= (3.0 if name == "trial" else 4.5), (name, ground, ratio)
