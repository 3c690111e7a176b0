"""The page in a headless Chromium, served by `slap demo` with a tiny model: what a user does and sees.

Needs Chromium (`apt-get install chromium`) in addition to what `make oracle` installs. SLAP_SCREENSHOTS=DIR keeps
pictures.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Page, expect, sync_playwright

from slap_jax.checkpoints.model_dir import export
from slap_jax.cli import main
from tests.inference.tiny import noise, tiny_config, tiny_run_params, tiny_tokenizer

pytestmark = pytest.mark.process

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT = 600_000  # milliseconds; the first question compiles, which takes minutes on a busy machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, an indexed folder, a sound and a file that is none."""
    root = tmp_path_factory.mktemp("page")
    config = tiny_config()
    tiny_tokenizer(root / "words.model")
    export(tiny_run_params(config), config, root / "words.model", root / "my_model")
    (root / "my_model" / "README.md").write_text("---\nlicense: mit\n---\n\n# A toy\n\nLimits: many.\n")
    (root / "recordings").mkdir()
    soundfile.write(root / "recordings" / "<b>bell & co.wav", noise(0, 2.0), 16_000)
    soundfile.write(root / "recordings" / "yard.flac", noise(1, 12.0, 44_100), 44_100)
    soundfile.write(root / "clip.wav", noise(0, 2.0), 16_000)
    (root / "broken.wav").write_bytes(b"RIFFnothing")
    assert main(["index", str(root / "recordings"), "--model", str(root / "my_model"), "--json"]) == 0
    return root


@pytest.fixture(scope="module")
def address(folder):
    """Where `slap demo` listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "slap_jax.cli", "demo", "--model", "my_model", "--folder", "recordings"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    server = subprocess.Popen(
        [*command, "--port", str(port)], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    lines = []
    for line in server.stderr:
        lines.append(line)
        if line.startswith("listening at"):
            break
    else:
        pytest.fail(f"slap demo ended: {''.join(lines)}")
    assert line == f"listening at http://127.0.0.1:{port}; stop with Ctrl+C\n"
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait(timeout=30)


@pytest.fixture(scope="module")
def browser():
    """A Chromium whose microphone beeps."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert executable, f"none of {', '.join(BROWSERS)} is installed; apt-get install chromium"
    flags = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable, args=flags)
        yield launched
        launched.close()


@pytest.fixture
def page(browser, address):
    """The open page; nothing may be asked of other machines, and no script may fail."""
    opened = browser.new_page(viewport={"width": 1280, "height": 860})
    opened.set_default_timeout(WAIT)
    asked, failed = [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: failed.append(str(error)))
    opened.goto(address)
    expect(opened.locator("#sound")).to_be_visible(timeout=WAIT)
    yield opened
    picture(opened, "last")
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == [] and asked
    assert failed == []
    opened.close()


def picture(page: Page, name: str) -> None:
    if "SLAP_SCREENSHOTS" in os.environ:
        page.screenshot(path=Path(os.environ["SLAP_SCREENSHOTS"]) / f"{name}.png")


def drop(page: Page, file: Path) -> None:
    page.set_input_files("#sound input[type=file]", file)
    expect(page.locator("#sound").get_by_text("0:0", exact=False).first).to_be_visible(timeout=WAIT)


def test_over_time(page, folder):
    drop(page, folder / "clip.wav")
    page.fill("#texts textarea", "a dog barks\n<i>rain</i> falls")
    page.click("#ask_timeline")
    image = page.locator("#timeline .slap-wide img.slap-light")
    expect(image).to_be_visible(timeout=WAIT)
    assert image.evaluate("image => [image.complete, image.naturalWidth > 1000]") == [True, True]
    for hidden in (".slap-wide img.slap-dark", ".slap-narrow img.slap-light", ".slap-narrow img.slap-dark"):
        expect(page.locator(f"#timeline {hidden}")).to_be_hidden()
    note = page.locator("#timeline p").first
    expect(note).to_contain_text("Highest: a dog barks at")
    expect(note).to_contain_text("<i>rain</i> falls at")
    # A click in the picture moves the player and the cursor there.
    area = page.locator("#timeline .slap-wide .slap-area")
    box = area.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 5)
    expect(page.locator("#timeline .slap-wide .slap-cursor")).to_have_css("left", re.compile(r"\d"), timeout=WAIT)
    assert page.locator("#timeline audio").evaluate("sound => sound.currentTime") == pytest.approx(1.5, abs=0.05)
    page.wait_for_function(
        "() => Math.abs(parseFloat(document.querySelector('.slap-wide .slap-cursor').style.left) - 75) < 3"
    )
    with page.expect_download() as saved:
        page.click("#timeline a[download]")
    assert Path(saved.value.path()).read_text().startswith("start,end,a dog barks,<i>rain</i> falls")
    picture(page, "over_time")


def test_classify_and_caption(page, folder):
    drop(page, folder / "clip.wav")
    page.get_by_role("tab", name="Classify").click()
    page.fill("#labels textarea, #labels input", "dog, rain, bell")
    page.click("#ask_classify")
    for text in ("%", "dog", "rain", "bell"):
        expect(page.locator("#classes")).to_contain_text(text, timeout=WAIT)
    picture(page, "classify")
    page.get_by_role("tab", name="Caption").click()
    page.click("#ask_caption")
    expect(page.locator("#caption textarea, #caption input")).not_to_have_value("", timeout=WAIT)
    picture(page, "caption")


def test_search_and_play(page, folder):
    page.get_by_role("tab", name="Search").click()
    expect(page.get_by_text("2 files of")).to_be_visible()
    page.fill("#query textarea, #query input", "a long bell")
    page.keyboard.press("Enter")
    hits = page.locator("#hits li")
    expect(hits).to_have_count(2, timeout=WAIT)  # the windows of the longer one overlap
    expect(page.locator("#hits")).to_contain_text("<b>bell & co.wav")

    drop(page, folder / "clip.wav")  # the same sound as one of the files
    page.fill("#query textarea, #query input", "")
    page.locator("#alike input").check()
    page.click("#ask_search")
    expect(hits.first.locator(".slap-number")).to_have_text("1.000", timeout=WAIT)
    expect(hits.first.locator(".slap-name")).to_have_text("<b>bell & co.wav")
    expect(hits.first.locator(".slap-when")).to_have_text("0:00.0 – 0:02.0")
    played = hits.first.locator("audio").evaluate(
        """async audio => {
            audio.muted = true;
            await audio.play();
            await new Promise(done => audio.addEventListener("timeupdate", done));
            return [audio.duration, audio.currentTime > 0, audio.error];
        }"""
    )
    assert played == [pytest.approx(2.0, abs=0.01), True, None]
    picture(page, "search")
    page.fill("#hit input", "1")
    page.click("#take_hit")  # the hit becomes the sound, in the first tab
    expect(page.locator("#ask_timeline")).to_be_visible(timeout=WAIT)
    expect(page.locator("#about")).to_contain_text("2.0 s.", timeout=WAIT)


def test_an_example_of_the_folder_is_a_sound(page):
    page.get_by_text("yard", exact=True).click()
    expect(page.locator("#about")).to_contain_text("12.0 s.", timeout=WAIT)
    expect(page.get_by_text("embeds sound at 16,000 Hz")).to_be_visible()
    page.get_by_text("The model's card").click()
    expect(page.get_by_text("Limits: many.")).to_be_visible()
    expect(page.get_by_text("license: mit")).to_have_count(0)


def test_on_a_phone_in_the_dark(browser, address, folder):
    opened = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    opened.set_default_timeout(WAIT)
    opened.goto(address)
    for tab in ("Over time", "Classify", "Caption", "Search"):
        expect(opened.get_by_role("tab", name=tab)).to_be_visible(timeout=WAIT)
    drop(opened, folder / "clip.wav")
    opened.fill("#texts textarea", "a dog barks")
    opened.click("#ask_timeline")
    expect(opened.locator("#timeline .slap-narrow img.slap-dark")).to_be_visible(timeout=WAIT)
    for hidden in (".slap-narrow img.slap-light", ".slap-wide img.slap-light", ".slap-wide img.slap-dark"):
        expect(opened.locator(f"#timeline {hidden}")).to_be_hidden()
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    picture(opened, "phone")
    opened.close()


def test_record(page):
    page.locator("#sound button[aria-label='Record audio'], #sound button[aria-label='Microphone']").first.click()
    page.locator("#sound .record-button, #sound button:has-text('Record')").first.click()
    page.wait_for_timeout(1_500)
    page.locator("#sound .stop-button, #sound button:has-text('Stop')").first.click()
    page.get_by_role("tab", name="Classify").click()
    page.fill("#labels textarea, #labels input", "dog, rain")
    page.click("#ask_classify")
    expect(page.locator("#classes")).to_contain_text("%", timeout=WAIT)
    picture(page, "record")


def test_mistakes_are_shown_in_the_page(page, folder):
    page.fill("#texts textarea", "a dog barks")
    page.click("#ask_timeline")
    expect(page.get_by_text("there is no sound yet")).to_be_visible(timeout=WAIT)
    expect(page.get_by_text("there is no sound yet")).to_be_hidden(timeout=WAIT)  # a message does not stay
    page.set_input_files("#sound input[type=file]", folder / "broken.wav")
    # Refused when it is given, not when it is asked about.
    expect(page.get_by_text("broken.wav is not readable as audio", exact=False)).to_be_visible(timeout=WAIT)
    soundfile.write(folder / "silent.wav", np.zeros(16_000), 16_000)
    page.locator("#sound button[aria-label='Clear'], #sound button[aria-label='Remove']").first.click()
    page.set_input_files("#sound input[type=file]", folder / "silent.wav")
    expect(page.get_by_text("silent.wav is silent", exact=False)).to_be_visible(timeout=WAIT)
    page.get_by_role("tab", name="Search").click()
    page.click("#ask_search")
    expect(page.get_by_text("type a text to search for, or tick the box")).to_be_visible(timeout=WAIT)
    picture(page, "mistakes")
