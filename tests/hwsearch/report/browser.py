"""Drives a report in headless Chromium: opens it, runs a script in it, returns what the script told."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
AXE = Path(os.environ.get("HWSEARCH_CACHE", Path.home() / ".cache/hwsearch")) / "axe/node_modules/axe-core/axe.min.js"
"""Where `npm install --prefix ~/.cache/hwsearch/axe axe-core` puts the accessibility checker."""
TELL = """
function tell(out) {
  const told = document.createElement('div');
  told.hidden = true; told.dataset.told = JSON.stringify(out); document.body.append(told);
}
"""


def driven(report: Path, script: str, folder: Path, *, width: int = 1440) -> Any:
    """Returns what `script` gives to its function `tell`, called in the open report.

    Raises:
        AssertionError: anything was written to the browser's console, or the script told nothing.
    """
    assert BROWSER is not None
    file = folder / "driven.html"
    file.write_text(report.read_text().replace("</body>", f"<script>{TELL}{script}</script></body>"))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    options += [f"--window-size={width},900", f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=10000"]
    done = subprocess.run([BROWSER, *options, file.as_uri()], capture_output=True, text=True, timeout=180, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'data-told="([^"]*)"', done.stdout)
    assert found is not None, done.stdout[-500:]
    return json.loads(html.unescape(found[1]))


def violations(report: Path, folder: Path, *, dark: bool) -> list[str]:
    """Returns one line for every serious or critical finding of axe-core in the open report, light or dark."""
    script = (
        AXE.read_text()
        + ("document.getElementById('theme').click();" if dark else "")
        + """
    ;axe.run(document, {resultTypes: ['violations']}).then(r => tell(r.violations.map(v =>
      [v.impact, v.id, v.nodes.length, v.nodes[0].target.join(' '), v.nodes[0].failureSummary].join(' | '))));
    """
    )
    return [line for line in driven(report, script, folder) if line.startswith(("serious", "critical"))]
