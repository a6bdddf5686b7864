"""The page in a real Chromium: it draws, zooms by the keyboard, tells what is under the mouse.

A script is put behind the page's own; what it finds out stands in the document that Chromium
prints. No test takes a time: that the picture stays quick is the number of pieces that it draws.
"""

from __future__ import annotations

import html
import json
import re
import subprocess

import pytest

from hybrid_compute.report import page_of
from hybrid_compute.report._run import parse_run
from tests.interop.conftest import PATIENCE, program

from .runs import lines, many, row

pytestmark = pytest.mark.timeout(100)

SCRIPT = """
<script>
addEventListener("load", () => {{
  const key = (key) => document.dispatchEvent(new KeyboardEvent("keydown", {{ key, bubbles: true, cancelable: true }}));
  const mouse = (canvas, x, y) => {{
    const box = canvas.getBoundingClientRect();
    canvas.dispatchEvent(new PointerEvent("pointermove", {{ clientX: box.left + x, clientY: box.top + y, bubbles: true }}));
  }};
  const text = (id) => document.getElementById(id).innerText;
  const timeline = document.getElementById("timeline");
  // How many pixels of the timeline have exactly this colour, a part of it in CSS pixels.
  const pixels = (colour, x = 0, y = 0, w = 9999, h = 9999) => {{
    const probe = document.createElement("canvas").getContext("2d");
    probe.fillStyle = colour; probe.fillRect(0, 0, 1, 1);
    const want = probe.getImageData(0, 0, 1, 1).data;
    const found = timeline.getContext("2d").getImageData(x, y, Math.min(w, timeline.width - x), Math.min(h, timeline.height - y)).data;
    let count = 0;
    for (let i = 0; i < found.length; i += 4) if (found[i] === want[0] && found[i + 1] === want[1] && found[i + 2] === want[2]) count++;
    return count;
  }};
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const run = () => {{ {script} }};
  let said;
  try {{ report.paint(); said = run(); }} catch (error) {{ said = {{ error: String(error.stack) }}; }}
  const result = document.createElement("pre");
  result.id = "result"; result.textContent = JSON.stringify(said);
  document.body.append(result);
}});
</script>
"""  # noqa: E501 - a script


@pytest.fixture
def ask(tmp_path):
    """Return what opens the page of a recording, and returns what a script says there."""
    chromium = program("chromium", "install the package chromium")

    def ask(recording, script):
        page = page_of(parse_run(recording, name="run.jsonl"))
        path = tmp_path / "page.html"
        path.write_text(page.replace("</body>", SCRIPT.format(script=script) + "</body>"))
        done = subprocess.run(
            [
                *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--disable-dev-shm-usage", "--window-size=1300,1000"),
                *("--virtual-time-budget=5000", f"--user-data-dir={tmp_path / 'profile'}"),
                *("--dump-dom", path.as_uri()),
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
        assert found, done.stderr[-2000:]
        said = json.loads(html.unescape(found[1]))
        assert "error" not in said, said["error"]
        return said

    return ask


RUN = lines(
    row(1, "resize", lane="t_0", took_ns=40_000_000),
    row(2, "resize", lane="t_0", submitted_ns=50_000_000, took_ns=20_000_000, outcome="failed",
        error="ValueError: <b>no</b> luck"),
    row(3, "fetch", lane="t_1", took_ns=60_000_000, outcome="retried", error="OSError: gone"),
    row(3, "fetch", lane="t_1", submitted_ns=60_000_000, waited_ns=5_000_000, took_ns=30_000_000,
        attempt=2, predicted_ns=20_000_000),
)  # fmt: skip


def test_the_page_draws_zooms_and_tells(ask):
    said = ask(
        RUN,
        """
        const first = { drawn: report.drawn(), bad: pixels(colour("--bad")), warn: pixels(colour("--warn")), window: text("window") };
        const span = () => Math.round((report.view.to - report.view.from) / 1e6);
        const spans = [span()];
        key("+"); spans.push(span());
        key("-"); spans.push(span());
        key("+"); key("+"); const before = report.view.from; key("ArrowRight"); spans.push(report.view.from > before ? "right" : "stuck");
        key("0"); report.paint();
        const y = report.rows[0].y + 5;
        mouse(timeline, report.X(20e6), y); const plain = text("tip");
        mouse(timeline, report.X(60e6), y); const failed = text("tip");
        mouse(timeline, report.X(45e6), y); const nothing = document.getElementById("tip").hidden;
        mouse(timeline, report.X(80e6), report.rows[1].y + 5); const second = text("tip");
        mouse(document.getElementById("charts"), report.X(30e6), 20); const charts = text("tip");
        key("n"); const issue = text("tip");
        key("0");
        document.querySelector("#legend button").click(); report.paint(); const hidden = report.drawn();
        const light = document.documentElement.dataset.theme; key("t");
        const dark = document.documentElement.dataset.theme;
        document.querySelectorAll("thead th")[0].click();
        const order = [...document.querySelectorAll("tbody th")].map((each) => each.innerText.trim());
        return { first, spans, plain, failed, nothing, second, charts, issue, hidden, themes: [light, dark], order, legend: text("legend").split("\\n") };
        """,  # noqa: E501 - a script
    )
    first = said["first"]
    assert first["drawn"] >= 4
    assert first["bad"] > 500
    assert first["warn"] > 200
    assert first["window"] == "0 s \N{EN DASH} 95 ms (95 ms)"
    assert said["spans"] == [96, 58, 96, "right"]
    assert "resize" in said["plain"]
    assert "thread · t_0" in said["plain"]
    assert "40 ms" in said["plain"]
    assert "failed" in said["failed"]
    assert "ValueError: <b>no</b> luck" in said["failed"]
    assert said["nothing"] is True
    assert "#3, attempt 2" in said["second"]
    assert re.search(r"predicted\s+20 ms, came 35 ms", said["second"])
    assert re.search(r"queued\s+0\s+running\s+2", said["charts"])
    assert "retried" in said["issue"]
    assert 0 < said["hidden"] < first["drawn"]
    assert said["themes"] == ["light", "dark"]
    assert said["order"] == ["resize", "fetch"]
    assert {"resize", "fetch", "failed", "retried"} <= {each.strip() for each in said["legend"]}


def test_a_frame_of_many_items_has_as_many_pieces_as_there_are_pixels(ask):
    count = 20_000
    said = ask(
        many(count),
        """
        const drawn = [];
        for (let i = 0; i < 24; i++) {
          report.paint(); drawn.push(report.drawn()); report.zoom(0.6);
        }
        report.everything(); report.paint();
        const rows = report.rows.length;
        report.toIssue(1); report.paint();
        return { drawn, rows, count: report.data.count, tip: text("tip") };
        """,
    )
    assert said["count"] == count
    # At most one piece for each pixel and row, and a mark: however many items are in there.
    assert max(said["drawn"]) < 2 * 1100 * said["rows"]
    assert said["drawn"][0] < count / 2
    assert said["drawn"][-1] < said["drawn"][0]
    assert re.search("failed|retried", said["tip"])


def test_a_page_of_nothing_is_no_error(ask):
    assert ask(lines(), "return { drawn: report.drawn() };") == {"drawn": 0}
