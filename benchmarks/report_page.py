"""Loading times of a large run's report page in headless Chromium.

    python benchmarks/report_page.py [--repeats 7]     (needs playwright and a Chromium, as tests/browser)

The run is generated: 100,000 examples on the map, 300 clusters, 5,000 picks, written by `al.report.page.round.render_html` and opened
from disk in a new browser context each time. Times are seconds from the start of navigation: DOMContentLoaded; the first paint of
text; the first frame with the verdict's chart; the first chart drawn by plotly.js, with the page scrolled to it immediately;
and picked examples searchable. `blocked_s` is the longest task of the page, during which it does not respond.
Medians are reported.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / part) for part in ("", "benchmarks", "tests/browser", "tests/unit/report")]

from common import device_name, now  # noqa: E402

EXAMPLES, CLUSTERS, PICKS = 100_000, 300, 5_000
WATCH = """
window.seen = {};
new PerformanceObserver((list) => list.getEntries().forEach((entry) => {
  seen.blocked_s = Math.max(seen.blocked_s ?? 0, entry.duration / 1000);
})).observe({ type: "longtask", buffered: true });
const marks = {
  first_chart_s: () => document.querySelector("figure svg")?.getBoundingClientRect().height > 0,
  plotly_chart_s: () => document.querySelector(".main-svg"),
  searchable_s: () => document.documentElement?.dataset.details === "ready",
};
function look() {
  for (const [name, there] of Object.entries(marks)) {
    if (!(name in seen) && there()) { seen[name] = -1; requestAnimationFrame(() => { seen[name] = performance.now() / 1000; }); }
  }
  document.querySelector(".chart")?.scrollIntoView();
  requestAnimationFrame(look);
}
look();
"""
DONE = "() => ['first_chart_s', 'plotly_chart_s', 'searchable_s'].every((name) => seen[name] > 0)"
TIMES = """() => ({
  dom_content_loaded_s: performance.getEntriesByType("navigation")[0].domContentLoadedEventEnd / 1000,
  first_text_s: performance.getEntriesByName("first-contentful-paint")[0].startTime / 1000,
  ...seen,
})"""


def write_page(path: Path) -> None:
    """The report of a generated run of `EXAMPLES` examples."""
    from report_details import details
    from report_summaries import later_round

    from al.report.page.round import render_html

    summary = later_round()
    known = summary["clusters"]
    summary["clusters"] = [{**known[i % len(known)], "cluster": i} for i in range(CLUSTERS)]
    path.write_text(render_html(summary, details(EXAMPLES, CLUSTERS, PICKS)), encoding="utf-8")


def open_once(browser: Any, path: Path) -> dict[str, float]:
    """The times of loading the page once."""
    context = browser.new_context(viewport={"width": 1280, "height": 850})
    page = context.new_page()
    page.add_init_script(WATCH)
    page.goto(path.as_uri())
    page.wait_for_function(DONE)
    found = page.evaluate(TIMES)
    found["first_chart_s"] = max(
        found["first_chart_s"], found["first_text_s"]
    )  # nothing is visible before the first paint
    context.close()
    return found


def main() -> None:
    """Write the page, load it repeatedly, write the record."""
    from conftest import FLAGS, chromium_path
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/report_page.json")
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "report.html"
        write_page(path)
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS + sandbox)
        opened = [open_once(browser, path) for _ in range(asked.repeats)]
        chromium, size = browser.version, path.stat().st_size
        browser.close()
    record = {
        "date": now(),
        "command": f"python benchmarks/report_page.py --repeats {asked.repeats}",
        "device": f"{device_name().split(',')[0]}, {os.cpu_count()} cores",
        "versions": {"chromium": chromium, "plotly": metadata.version("plotly")},
        "run": {"examples": EXAMPLES, "clusters": CLUSTERS, "picks": PICKS},
        "page_bytes": size,
        "load_before": round(load, 2),
        "median": {name: round(statistics.median(run[name] for run in opened), 3) for name in sorted(opened[0])},
        "opened": [{name: round(value, 3) for name, value in run.items()} for run in opened],
    }
    asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record["median"]), size)


if __name__ == "__main__":
    main()
