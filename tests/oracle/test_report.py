"""The report and the comparison of runs in a headless Chromium: values under the pointer, axes, widths of a phone."""

import shutil

import pytest
from playwright.sync_api import sync_playwright

from slap_jax.report.page import build_report
from slap_jax.report.runs_page import build_comparison
from tests.report.run_dir import make_clips, write_run
from tests.report.test_classes import classify

pytestmark = pytest.mark.process

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report of a model, that of a classifier, and a page that compares both."""
    root = tmp_path_factory.mktemp("reports")
    write_run(root / "pairs", make_clips())
    shutil.copytree(root / "pairs", root / "kinds")
    classify(root / "kinds")
    for name in ("pairs", "kinds"):
        build_report(root / name, evaluation_sets={"clips": make_clips()})
    build_comparison([root / "pairs", root / "kinds"], root / "comparison.html")
    return {"pairs": root / "pairs/report.html", "kinds": root / "kinds/report.html", "both": root / "comparison.html"}


@pytest.fixture(scope="module")
def browser():
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    assert found, "install Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, pages):
    """Returns a function that opens a page; fails if a script of the page fails."""
    errors, contexts = [], []

    def visit(name: str, width: int = 1200, scheme: str = "light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or errors.append(request.url))
        page.goto(pages[name].as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert errors == []


def test_a_chart_shows_the_value_under_the_pointer(opened):
    page = opened("pairs")
    chart = page.locator("#training svg.chart").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 30)
    # The running mean of the last two values, 3 / 29 and 3 / 30.
    assert page.locator(".readout").all_text_contents() == ["step 30: 0.1017"]
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + box["height"] + 60)
    assert page.locator(".readout").count() == 0


def test_a_comparison_shows_the_values_of_all_runs(opened):
    page = opened("both")
    chart = page.locator("svg.chart[aria-label^='classification']")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 30)
    (shown,) = page.locator(".readout").all_text_contents()
    assert shown.startswith("step ") and "kinds" in shown


def test_the_logarithmic_axis_replaces_the_linear_one(opened):
    page = opened("pairs")
    linear, logarithmic = (page.locator(f"#training svg.chart:has(g.log) g.{kind}").first for kind in ("linear", "log"))
    assert linear.is_visible() and not logarithmic.is_visible()
    page.check("input.logarithm")
    assert logarithmic.is_visible() and not linear.is_visible()
    without = page.locator("#training svg.chart:not(:has(g.log)) g.linear")
    assert without.count() and without.first.is_visible()


@pytest.mark.parametrize("name", ["pairs", "kinds", "both"])
@pytest.mark.parametrize("width", [360, 1200])
def test_only_tables_scroll_sideways(opened, name, width):
    page = opened(name, width, "dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
