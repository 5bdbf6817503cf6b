"""The dashboard in a headless Chromium: what it shows, by keyboard, to screen readers, light and dark."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

httpx = pytest.importorskip("httpx", reason="extra serve")
pytest.importorskip("grpc", reason="extra serve")
api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
from served import Running, listed, make_batch, running, tensors, write_artifact  # noqa: E402

from screc.serving.repository import RepositoryConfig  # noqa: E402
from screc.serving.server import ServerConfig  # noqa: E402
from screc.storage import pack  # noqa: E402
from tests.unit.storage_samples import Plan, layout, random_ranks, whole_tables, write_whole  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium")
CONFIG = ServerConfig(repository=RepositoryConfig(threads=2, updates=True, cache_bytes=100_000))
#: Where pictures of the page are kept, for people to look at.
PICTURES = os.environ.get("SCREC_PICTURES")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory) -> dict[str, Path]:
    """Two models; the first has rows in every memory."""
    root = tmp_path_factory.mktemp("dashboard")
    layouts = [
        layout("country", 200, 16, (200, "dram")),
        layout("item", 5000, 16, (500, "dram"), (2000, "tt"), (5000, "ssd/int8")),
        layout("user", 8000, 16, (1000, "dram/bf16"), (8000, "ssd")),
        layout("<b>brand</b>", 900, 16, (100, "dram/int8"), (900, "tt")),
    ]
    model = {"name": "dlrm", "num_dense": 13, "embedding_dim": 16, "interaction": "dot"}
    model |= {"bottom_mlp": [16], "top_mlp": [1]}
    widths = {"bottom.0": (16, 13), "top.0": (1, 16 + 5 * 4 // 2)}
    dense = {f"{name}.weight": np.full(shape, 0.01, np.float32) for name, shape in widths.items()}
    dense |= {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in widths.items()}
    write_whole(root / "model", layouts, whole_tables(layouts), model=model, dense=dense)
    pack(root / "model", random_ranks(layouts), Plan(layouts), root / "ranker")
    return {"ranker": root / "ranker", "small": write_artifact(root / "small")}


@pytest.fixture(scope="module")
def browser() -> Iterator[api.Browser]:
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser) -> Iterator[api.Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(20_000)
    opened, problems = context.new_page(), []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda one: problems.append(one.text) if one.type == "error" else None)
    opened.on("request", lambda one: opened.asked.append(one.url))
    opened.asked, opened.problems = [], problems
    yield opened
    context.close()


class Traffic:
    """Requests to the first model, as long as the block runs."""

    def __init__(self, server: Running) -> None:
        self._server, self._stop = server, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        rng = np.random.default_rng(0)
        with httpx.Client(base_url=self._server.http, timeout=60) as client:
            while not self._stop.is_set():
                size = int(rng.integers(1, 60))
                ids = np.stack([rng.integers(0, rows, size) for rows in (200, 5000, 8000, 900)], axis=1)
                inputs = {"dense": rng.standard_normal((size, 13)).astype(np.float32), "categorical": ids}
                client.post("/v2/models/ranker/infer", json=listed(inputs))
                time.sleep(0.003)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()


def text(page: api.Page, selector: str) -> str:
    return page.locator(selector).inner_text()


def wait_for(page: api.Page, condition: str) -> None:
    """Until an expression is true; the page's own policy keeps the browser from doing this by itself."""
    end = time.monotonic() + 40
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(50)


def test_it_shows_what_the_server_does(artifacts, page):
    with running(artifacts, CONFIG) as server, Traffic(server):
        page.goto(server.http)
        wait_for(page, "document.querySelectorAll('#throughput .line').length == 2")
        wait_for(page, "parseFloat(document.querySelector('#requests-rate').textContent) > 1")
        assert text(page, "#state") == "Live"
        for tile in ("#p50", "#p95", "#p99"):
            assert re.fullmatch(r"[0-9.]+ (µs|ms|s)", text(page, tile)), tile
        assert text(page, "#unanswered") == "0"
        assert "ranker, version 1" in text(page, "#facts")
        rows = page.locator("#lookups tbody tr")
        assert [row.split("\t")[0] for row in rows.all_inner_texts()] == [
            "Rows in DRAM",
            "Tensor trains",
            "Rows on SSD",
        ]
        assert all("%" in row for row in rows.all_inner_texts())
        assert "Row cache hits" in text(page, "#memory-facts")
        assert page.locator("#batches tbody tr").count() >= 2
        tables = page.locator("#tables tbody tr").all_inner_texts()
        assert len(tables) == 4
        assert "500 fp32 in DRAM, 1,500 tensor train, 3,000 int8 on SSD" in tables[1]
        assert "<b>brand</b>" in tables[3], "names are text"
        assert "Generation of the artifact" in text(page, "#updates-facts")
        # The other model, which has done nothing.
        page.select_option("#model", "small")
        wait_for(page, "document.querySelector('#facts').textContent.startsWith('small')")
        wait_for(page, "document.querySelectorAll('#tables tbody tr').length == 4")
        wait_for(page, "document.querySelector('#tables tbody th').textContent == 't0'")
        assert text(page, "#requests-rate") in ("0", "\u2013")
        assert {url.partition("/dashboard")[0].rstrip("/") for url in page.asked} == {server.http}
        assert page.problems == []


def test_failures_are_counted_and_an_end_is_told(artifacts, page):
    config = ServerConfig(repository=RepositoryConfig(threads=1))
    with running({"small": artifacts["small"]}, config) as server:
        page.goto(server.http)
        wait_for(page, "document.querySelector('#state').textContent == 'Live'")
        with httpx.Client(base_url=server.http, timeout=60) as client:
            body = listed(tensors(make_batch(30)), parameters={"timeout": 1})
            refused = [client.post("/v2/models/small/infer", json=body).status_code for _ in range(30)]
        assert set(refused) <= {200, 429, 504}
        if lost := sum(status != 200 for status in refused):
            wait_for(page, f"document.querySelector('#unanswered').textContent == '{lost}'")
    wait_for(page, "document.querySelector('#state').textContent == 'No answer'")
    alert = page.get_by_role("alert")
    assert "The server does not answer; the figures are of" in alert.inner_text()


def test_by_keyboard_and_to_screen_readers(artifacts, page):
    with running(artifacts, CONFIG) as server, Traffic(server):
        page.goto(server.http)
        wait_for(page, "parseFloat(document.querySelector('#requests-rate').textContent) > 1")
        # Everything that can be used is reached in order, and shows that it is.
        reached = []
        for _ in range(7):
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate(
                    "() => { const e = document.activeElement, s = getComputedStyle(e);"
                    " return [e.id || e.className || e.textContent, s.outlineStyle != 'none'] }"
                )
            )
        assert reached == [
            [name, True] for name in ("skip", "model", "pause", "scroll", "Metrics", "OpenAPI")
        ] + [reached[-1]]
        page.locator("#pause").focus()
        page.keyboard.press("Enter")
        assert page.get_by_role("button", name="Pause", pressed=True).count() == 1
        assert text(page, "#state") == "Paused"
        asked = len(page.asked)
        page.wait_for_timeout(2500)
        assert len(page.asked) == asked, "a paused page asks nothing"
        page.keyboard.press("Enter")
        wait_for(page, "document.querySelector('#state').textContent == 'Live'")
        # What is drawn is also said.
        throughput = page.get_by_role(
            "img", name=re.compile("^Requests answered per second over the last 3 min")
        )
        assert throughput.count() == 1
        assert (
            page.get_by_role("img", name=re.compile("^Latency at 95 %.* now [0-9.]+ (µs|ms|s)$")).count() == 1
        )
        assert "requests per second, latency" in page.locator("#summary").text_content()
        assert page.locator("#summary").get_attribute("aria-live") == "polite"
        for title in ("Look-ups by memory", "Batch sizes", "Where every table\u2019s rows are"):
            region = page.get_by_role("region", name=title).first
            assert region.get_by_role("table").first.is_visible(), title
        headings = page.evaluate("[...document.querySelectorAll('h1, h2')].map(e => e.tagName)")
        assert headings[0] == "H1"
        assert headings.count("H1") == 1
        unnamed = page.evaluate(
            "[...document.querySelectorAll('button, select, input, a')].filter(e => !e.closest('[hidden]') &&"
            " !(e.labels?.length || e.textContent.trim() || e.ariaLabel)).length"
        )
        assert unnamed == 0


CONTRAST = """() => {
  const parse = (c) => c.match(/[0-9.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const f = (x) => (x /= 255) <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b);
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType == 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.closest('.hidden, noscript')) continue;
    const style = getComputedStyle(e);
    const a = luminance(parse(e.namespaceURI.endsWith('svg') ? style.fill : style.color));
    const b = luminance(ground(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push([e.tagName, e.className, e.textContent.slice(0, 30), ratio]);
  }
  return poor;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_light_and_dark_wide_and_narrow(artifacts, page, scheme, width):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    with running(artifacts, CONFIG) as server, Traffic(server):
        page.goto(server.http)
        wait_for(page, "parseFloat(document.querySelector('#requests-rate').textContent) > 1")
        wait_for(page, "document.querySelectorAll('#tables tbody tr').length == 4")
        page.wait_for_timeout(4000 if PICTURES else 1100)
        assert page.evaluate(CONTRAST) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == (scheme == "dark")
        if PICTURES:
            page.screenshot(path=Path(PICTURES) / f"dashboard-{scheme}-{width}.png", full_page=True)


def test_it_asks_for_the_token(artifacts, page):
    config = ServerConfig(token="open sesame".replace(" ", "-"), repository=RepositoryConfig(threads=1))
    with running({"small": artifacts["small"]}, config) as server:
        page.goto(server.http)
        page.get_by_label("This server asks for its token.").fill("wrong")
        page.keyboard.press("Enter")
        wait_for(page, "document.querySelector('#trouble').textContent.includes('wrong')")
        page.get_by_label("This server asks for its token.").fill("open-sesame")
        page.get_by_role("button", name="Show").click()
        wait_for(page, "document.querySelector('#state').textContent == 'Live'")
        assert not page.locator("#sign-in").is_visible()
        assert "small, version 1" in text(page, "#facts")


def test_rates_and_percentiles(artifacts, page):
    """The page's arithmetic, in the browser."""
    config = ServerConfig(repository=RepositoryConfig(threads=1))
    with running({"small": artifacts["small"]}, config) as server:
        page.goto(server.http)
        found = page.evaluate(
            """async () => {
              const m = await import('/dashboard/counts.js'), c = await import('/dashboard/charts.js');
              const h = { bounds: [1, 2, 4, 8], counts: [0, 10, 0, 10, 0], sum: 0 };
              return {
                shares: [0, 0.25, 0.5, 0.75, 1].map((s) => m.percentile(h, s)),
                none: m.percentile({ bounds: [1], counts: [0, 0], sum: 0 }, 0.5),
                beyond: m.percentile({ bounds: [1], counts: [0, 3], sum: 9 }, 0.5),
                powers: m.powersOfTwo({ bounds: [1, 1.5, 2, 3, 4, 6], counts: [1, 2, 3, 4, 5, 6, 0] }),
                ages: [0.4, 119, 120, 7300, 200000].map(m.age),
                durations: [null, 1e-6, 0.00123, 0.5, 12].map(m.duration),
                bytes: [0, 999, 1000, 123456, 2.5e9].map(m.bytes),
                percents: [0, 0.00001, 0.05, 0.5, 1].map(m.percent),
                rounds: [0, 0.3, 1, 1.1, 3, 7, 99].map(c.roundUp),
              };
            }"""
        )
    assert found["shares"] == [1, 1.5, 2, 6, 8]
    assert (found["none"], found["beyond"]) == (None, 1)
    assert found["powers"] == [
        {"label": "1", "count": 1},
        {"label": "2", "count": 5},
        {"label": "3\u20134", "count": 9},
        {"label": "5\u20138", "count": 6},
    ]
    assert found["durations"] == ["\u2013", "1.00 µs", "1.23 ms", "500 ms", "12.0 s"]
    assert found["ages"] == ["0 seconds", "119 seconds", "2 minutes", "2 hours", "2 days"]
    assert found["bytes"] == ["0 B", "999 B", "1.00 kB", "123 kB", "2.50 GB"]
    assert found["percents"] == ["0.0 %", "< 0.1 %", "5.0 %", "50 %", "100 %"]
    assert found["rounds"] == [1, 0.5, 1, 2, 5, 10, 100]
