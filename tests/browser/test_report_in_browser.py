"""The report in a real browser: its script draws every plot, reports no error, and nothing a model wrote becomes code.

Not part of `make test`: it needs chromium. `make test-browser` runs it, and fails where there is none.
"""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oxrl_core.config.load import load_config
from oxrl_core.runs.analysis.report import write_report
from oxrl_core.runs.rundir import RunDir

CONFIG = {"run": {"name": "seen"}, "model": {"path": "miniature:chars"}, "data": {"train": "reverse3"}}
OWNED = "document.documentElement.setAttribute('data-owned','1')"
HOSTILE = (
    f"</script><script>{OWNED}</script>",
    f'<img src=x onerror="{OWNED}"><svg onload="{OWNED}">',
    f"' onmouseover={OWNED} x='",
    "left \u202e right \u200b zero \ufeff mark {{ 7 * 7 }} ${7*7} <!-- <script>",
    "javascript:" + OWNED,
)
NUM_STEPS = 60
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--enable-logging=stderr",
    "--virtual-time-budget=5000", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


@pytest.fixture(scope="session")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    assert found, "no chromium here: apt-get install -y --no-install-recommends chromium"
    return found


@pytest.fixture
def report(tmp_path: Path) -> Path:
    run = RunDir.create(tmp_path / "home", load_config(CONFIG), "rl")
    for step in range(1, NUM_STEPS + 1):
        run.append_metrics(
            {"step": step, "time": 1_000.0 + step, "reward/mean": 1 - math.exp(-step / 20), "loss": math.sin(step)}
            | {"entropy": math.nan if step == 30 else 3.0 / step, "data/dropped": 0}
            | {f"time/{HOSTILE[1]}": float(step)}
        )
    run.append_event("warning", "odd", HOSTILE[0])
    run.append_event("error", HOSTILE[1], HOSTILE[3])
    rows = [
        {
            "step": step, "prompt_id": f"p{place}", "sample_index": place, "prompt_text": text, "completion_text": text,
            "completion_token_ids": list(range(place + 1)), "score": place / 4, "score_status": "ok",
            "finish_reason": "stop",
        }
        for step in (1, 2)
        for place, text in enumerate(HOSTILE)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), run.rollouts / "step-00000001.parquet")
    diagnosis = {
        "headline": HOSTILE[0],
        "findings": [{"cause": HOSTILE[1], "severity": "error", "summary": HOSTILE[2]}],
    }
    write_report(run, tmp_path / "report.html", diagnosis)
    return tmp_path / "report.html"


def opened(browser: str, page: Path, *flags: str) -> str:
    """The page's document after its scripts ran; whatever they say on the console fails."""
    done = subprocess.run(
        [browser, *FLAGS, *flags, f"--user-data-dir={page.parent / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not said, said
    return done.stdout


def figures(dom: str) -> dict[str, str]:
    """The plots that are shown, by metric."""
    found = re.findall(r"<figure(?P<attributes>[^>]*)>(?P<inside>.*?)</figure>", dom, re.DOTALL)
    shown = [inside for attributes, inside in found if "hidden" not in attributes]
    return {html.unescape(re.search(r"<b>(.*?)</b>", inside)[1]): inside for inside in shown}  # type: ignore[index]


@pytest.mark.parametrize("size", ["1400,900", "360,740"])
def test_the_script_draws_every_plot_without_an_error(browser: str, report: Path, size: str) -> None:
    dom = opened(browser, report, f"--window-size={size}")
    drawn = figures(dom)
    assert list(drawn) == ["reward/mean", "loss", "entropy", f"time/{HOSTILE[1]}"]  # data/dropped never moves
    assert 'data-plots="4"' in dom and 'id="page-errors" class="note" hidden=""' in dom
    for name, inside in drawn.items():
        path = re.search(r'class="raw" d="([^"]*)"', inside)
        assert path, name
        assert len(re.findall(r"[ML]", path[1])) == NUM_STEPS - (name == "entropy")
        assert inside.count("<text") >= 4, "both axes have numbers"
    assert drawn["entropy"].count('class="broken"') == 1  # the step that was not finite
    assert re.search(r'class="raw" d="([^"]*)"', drawn["entropy"])[1].count("M") == 2  # type: ignore[index]
    assert drawn["loss"].count('class="mark') == 2  # both alerts stand at their step


def test_what_a_model_wrote_is_text_and_nothing_else(browser: str, report: Path) -> None:
    dom = opened(browser, report)
    assert "data-owned" not in re.sub(r"<script.*?</script>", "", dom.split(">", 2)[1] + ">")
    root = re.search(r"<html[^>]*>", dom)
    assert root and "data-owned" not in root[0]
    assert dom.count("<script") == 2  # its data and its own
    visible = re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL)
    assert "<img" not in visible and not re.search(r"<[^>]*\son\w+=(?!\S*&quot;)", visible.replace(HOSTILE[2], ""))
    cells = [html.unescape(cell) for cell in re.findall(r'<td class="text"><div>(.*?)</div>', visible, re.DOTALL)]
    assert {HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[4]} <= set(cells)
    assert "left ⟨U+202E⟩ right ⟨U+200B⟩ zero ⟨U+FEFF⟩ mark {{ 7 * 7 }} ${7*7} <!-- <script>" in cells
    assert not set("\u202e\u200b\ufeff") & set(dom)


def test_the_page_asks_for_nothing_from_outside(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    own = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    own = own.replace("http://www.w3.org/2000/svg", "")  # the name of a namespace, which nobody fetches
    assert not re.search(r"https?://|@import|url\((?!#)|<link|<iframe|fetch\(|XMLHttpRequest|import\(", own)


# What a person does, in a copy of the page whose security policy lets this script in.
ACTIONS = """
<script>
const by = (id) => document.getElementById(id), done = {};
const type = (id, value) => { by(id).value = value; by(id).dispatchEvent(new Event("input")); };
const shown = () => [...document.querySelectorAll("figure")].filter((one) => !one.hidden);
const cells = (column) => [...by("sample-table").tBodies[0].rows].map((row) => row.cells[column].textContent);
done.flat = (by("flat").click(), shown().length);
by("flat").click();
type("find", "rew");
done.found = shown().map((one) => one.querySelector("b").textContent);
type("find", "");
type("smooth", "0.9");
done.smooth = [document.querySelectorAll(".smooth").length, by("smooth-value").textContent];
type("smooth", "0");
by("log").click();
done.log = [...shown()[0].querySelectorAll("text")].map((one) => one.textContent);
by("log").click();
const svg = shown()[0].querySelector("svg"), box = svg.getBoundingClientRect();
const at = (kind, share) => svg.dispatchEvent(new PointerEvent(kind, {
  clientX: box.left + 50 + share * (box.width - 60), clientY: box.top + 50, pointerId: 1, bubbles: true }));
svg.setPointerCapture = () => {};
at("pointermove", 0.5);
done.hover = shown().map((one) => one.querySelector("figcaption span").textContent);
at("pointerdown", 0.25); at("pointermove", 0.75); at("pointerup", 0.75);
done.zoomed = [by("reset").disabled, [...shown()[1].querySelectorAll("text")].slice(-3).map((one) => one.textContent)];
by("reset").click();
done.whole = by("reset").disabled;
shown()[0].dispatchEvent(new KeyboardEvent("keydown", { key: "Home" }));
done.key = shown()[0].querySelector("figcaption span").textContent;
const head = [...by("sample-table").tHead.rows[0].cells];
const reward = head.findIndex((cell) => cell.textContent.startsWith("reward"));
head[reward].querySelector("button").click();
done.down = cells(reward);
head[reward].querySelector("button").click();
done.up = cells(reward);
done.sort = head[reward].getAttribute("aria-sort");
type("sample-find", "onmouseover");
done.filtered = by("sample-count").textContent;
by("theme").click();
done.theme = document.documentElement.className;
type("config-find", "train.lr");
const kept = [...by("config-table").tBodies[0].rows].filter((row) => !row.hidden);
done.config = kept.map((row) => row.cells[0].textContent);
const place = document.createElement("pre");
place.id = "done";
place.textContent = JSON.stringify(done);
document.body.append(place);
</script></body>"""


def test_finding_smoothing_zooming_sorting_and_filtering_work(browser: str, report: Path) -> None:
    page = report.with_name("driven.html")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", report.read_text(encoding="utf-8"))
    page.write_text(text.replace("</body>", ACTIONS), encoding="utf-8")
    dom = opened(browser, page, "--window-size=1400,900")
    found = re.search(r'<pre id="done">(.*?)</pre>', dom, re.DOTALL)
    assert found
    done = json.loads(html.unescape(found[1]))
    assert done["flat"] == 5 and done["found"] == ["reward/mean"]
    assert done["smooth"] == [4, "0.90"]
    assert {"0.1", "1"} <= set(done["log"]), done["log"]
    assert all(text.startswith("step 3") for text in done["hover"]), done["hover"]  # one crosshair over all plots
    assert done["zoomed"][0] is False and all(14 < float(tick) < 47 for tick in done["zoomed"][1][-2:])
    assert done["whole"] is True and done["key"].startswith("step 1: 0.04877")
    assert done["down"] == ["1"] * 2 + ["0.75"] * 2 + ["0.5"] * 2 + ["0.25"] * 2 + ["0"] * 2
    assert done["up"] == done["down"][::-1] and done["sort"] == "ascending"
    assert done["filtered"] == "2 of 2"
    assert done["theme"] in ("dark", "light")
    assert "train.lr" in done["config"] and all("train.lr" in key for key in done["config"])
