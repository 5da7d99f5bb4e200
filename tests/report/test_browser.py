"""report.html in a real browser, headless Chromium; skipped where there is none."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from made_rows import case, grid, row_set, write

from unmask_tf.defense.alignment import detect, operating_point
from unmask_tf.files import write_json
from unmask_tf.report.page import write_report
from unmask_tf.report.results import Results

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)")

THRESHOLD = {"value": 0.65, "fpr": 0.05, "fpr_measured": 0.05, "split": "val", "n": 20}
LEVELS = np.arange(15) / 14


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of two M, with a case for each outcome."""
    row_sets = [*grid(n=40, defences=("none", "um")), row_set("algorithm1", n=40, threshold=THRESHOLD)]
    key = row_sets[-2].header.key
    cases = [
        case(key, 0.9),
        case(key, 0.9, answer="train"),
        case(key, 0.3),
        case(key, 0.6, model_answer="train", true="train", epsilon_255=16),
        case(key, 0.2, model_answer="car", attacked=False),
        case(key, 10 / 14, model_answer="car", attacked=False),
    ]
    folder = write(tmp_path_factory.mktemp("page") / "mini", grid=row_sets)
    write_json(folder / "rows" / "gallery.json", {"cases": cases})
    return write_report(folder)


def opened(page, address="", script="return null"):
    """What a script finds in the page at an address; nothing may have been said on the console."""
    content = page.read_text("utf-8")
    tested = page.with_name("tested.html")
    found = f"const made = (() => {{ {script} }})(); const node = document.createElement('pre'); node.id = 'found';"
    found += "node.textContent = JSON.stringify(made); document.body.append(node);"
    tested.write_text(content.replace("</body>", f"<script>{found}</script></body>"), "utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=2000"]
    command = [
        CHROMIUM,
        *options,
        f"--user-data-dir={page.parent / 'browser'}",
        "--dump-dom",
        f"file://{tested}{address}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)[1]))


HELPERS = """
const at = (id) => document.getElementById(id);
const told = () => ({
  t: at("t-value").textContent, tpr: at("tpr").textContent, fpr: at("fpr").textContent,
  x: +at("point").getAttribute("cx"), y: +at("point").getAttribute("cy"), hash: location.hash,
  shown: [...document.querySelectorAll("article")].filter((one) => !one.hidden).map((one) => one.id),
  doubted: [...document.querySelectorAll(".verdict")].map((one) => one.textContent.includes("doubted")),
  outcomes: [...document.querySelectorAll(".verdict")].map((one) => one.textContent.match(/\\((.*)\\)/)[1]),
});
const set = (node, value, event) => { node.value = value; node.dispatchEvent(new Event(event, { bubbles: true })); };
"""


def test_the_page_is_one_small_file_that_asks_nothing_of_the_network(page):
    text = page.read_text("utf-8")
    assert len(text) < 10_000_000
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<link[^>]*href=\"(?!data:)|<script[^>]*src=|url\(|@import", text)


def test_the_slider_moves_point_rates_and_verdicts_to_python_s_numbers(page):
    results = Results(page.parent)
    steps = [0, 0.2, 0.5, 0.643, *np.round(LEVELS[[4, 9, 10]], 3), 1, 1.01]
    script = f"""{HELPERS}
      return [...Array({len(results.detections)}).keys()].slice(0, 3).map((cell) => {{
        set(at("cell"), cell, "change");
        return {json.dumps([float(t) for t in steps])}.map((t) => {{ set(at("t"), t, "input"); return told(); }});
      }});"""
    for d, told in zip(results.detections, opened(page, script=script), strict=False):
        for t, shown in zip(steps, told, strict=True):
            _, fpr, tpr = operating_point(d.scores, d.labels, threshold=t)
            assert (shown["t"], shown["tpr"], shown["fpr"]) == (f"{t:.3f}", f"{tpr:.3f}", f"{fpr:.3f}")
            assert (shown["x"], shown["y"]) == pytest.approx((100 * fpr, 100 - 100 * tpr))
            assert shown["doubted"] == detect(np.array([one["score"] for one in results.gallery]), t).tolist()


def test_without_a_link_the_threshold_is_the_run_s_own_and_outcomes_follow_from_it(page):
    told = opened(page, script=f"{HELPERS} return told();")
    assert told["t"] == "0.650" and len(told["shown"]) == 6
    assert told["outcomes"] == [
        *("attack found and corrected", "attack found, wrong class", "attack missed"),
        *("attack failed: M is right", "not attacked, passed", "not attacked, false alarm"),
    ]


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [("class", "train", [3]), ("attack", "none", [4, 5]), ("epsilon", "16", [3]), ("outcome", "missed", [2])],
)
def test_filters_choose_cases_and_the_address_says_which(page, name, value, shown):
    script = f"""{HELPERS} set(document.querySelector('[name={name}]'), "{value}", "change"); return told();"""
    told = opened(page, script=script)
    assert told["shown"] == [f"case-{i}" for i in shown] and f"&{name}={value}" in told["hash"]
    assert opened(page, told["hash"], f"{HELPERS} return told();") == told


def test_links_lead_to_a_table_and_to_a_case_at_a_threshold(page):
    script = f"""{HELPERS} return [told(), document.querySelector(".chosen").id, scrollY > 0];"""
    told, chosen, scrolled = opened(page, "#explore&t=0.2&cell=2&case=4", script)
    assert (told["t"], chosen, scrolled) == ("0.200", "case-4", True)
    script = """const table = document.getElementById("table-table3"); return [table.open, scrollY > 0];"""
    assert opened(page, "#table3", script) == [True, True]
    assert opened(page, "", script)[0] is False  # it is folded where no link leads to it


def test_tables_sort_and_the_keyboard_reaches_threshold_and_gallery(page):
    script = """
      const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      const table = document.querySelector("#table-table4 table");
      const head = [...table.tHead.rows[0].cells].findIndex((one) => one.textContent.trim() === "UM");
      const column = () => [...table.tBodies[0].rows].map((row) => row.cells[head].textContent.trim());
      const states = [column()];
      const button = table.tHead.rows[0].cells[head].querySelector("button");
      for (let i = 0; i < 3; i++) { button.click(); states.push(column()); }
      const focus = ["t", "g", "ArrowRight"].map((key) => { press(key); return document.activeElement.id; });
      document.getElementById("theme").click();
      return [states, focus, document.documentElement.dataset.theme];"""
    (first, up, down, again), focus, theme = opened(page, script=script)
    values = [float(text.split("†")[0].split()[0]) for text in up]
    assert values == sorted(values) and down != up and again == first != up
    assert focus == ["t", "case-0", "case-1"] and theme == "dark"
