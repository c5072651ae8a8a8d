"""The page of specprune view in a real browser (headless Chromium), with a link without ROS."""
import asyncio
import shutil
import threading

import pytest
from view_fake import ROWS, FakeLink, point, settable

pytest.importorskip("aiohttp")
selenium = pytest.importorskip("selenium", reason="selenium is not installed")
from aiohttp import web  # noqa: E402
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from specprune_ros.view.app import make_app  # noqa: E402

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
               None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER),
    reason="no Chromium with chromedriver: apt-get install chromium chromium-driver")
PATIENCE = 30.0  # s; a busy machine is slow


class Page:
    """A browser on a page whose data a test sets in ``link``."""

    def __init__(self, driver, link, url):
        self.driver, self.link, self.url = driver, link, url

    def open(self, width=1280, height=900, scheme="light"):
        cdp = self.driver.execute_cdp_cmd
        cdp("Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        cdp("Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False})
        self.driver.get(self.url)
        return self

    def get(self, identity):
        return self.driver.find_element(By.ID, identity)

    def until(self, condition):
        return WebDriverWait(self.driver, PATIENCE, poll_frequency=0.1).until(
            lambda _driver: condition())

    def text(self, identity):
        return self.get(identity).text

    def script(self, text, *arguments):
        return self.driver.execute_script(text, *arguments)

    def type_number(self, identity, text):
        """Replace the number in a box and confirm."""
        field = self.get(identity)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text, Keys.TAB)


@pytest.fixture(scope="module")
def driver():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--disable-background-networking", "--no-first-run"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def served():
    """A server in a thread of its own: (link, address)."""
    link, started, address = FakeLink(), threading.Event(), []

    async def serve():
        runner = web.AppRunner(make_app(link, ROWS, settable), shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address.append(f"http://127.0.0.1:{runner.addresses[0][1]}/")
        started.set()
        await stop.wait()
        await runner.cleanup()

    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(30)
    yield link, address[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)


@pytest.fixture
def page(driver, served):
    link, url = served
    link.calls.clear()
    link.veto = ""
    link.running()
    yield Page(driver, link, url)
    driver.get("about:blank")
    complaints = [entry["message"] for entry in driver.get_log("browser")
                  if entry["level"] == "SEVERE" and "status of 40" not in entry["message"]]
    assert not complaints  # errors of scripts, and what the content policy refused


def test_a_running_policy_is_shown(page):
    page.open()
    page.until(lambda: page.text("state") == "Running")
    page.until(lambda: page.text("tile-tokens") == "95")
    assert page.text("tile-tokens-note") == "of 512 enter the last layer"
    assert page.text("tile-success") == "4 of 5"
    assert page.text("episode-text") == "Episode 5: step 40 of 160"
    assert page.get("instruction").get_attribute("value") == "pick up the red cube"
    page.until(lambda: page.script(
        "return [...document.querySelectorAll('.shot img')].filter("
        "(image) => image.naturalWidth === 64).length") == 2)
    assert "kept: 60 of 256 patches" in page.text("cameras")
    charts = page.script("return [...document.querySelectorAll('.chart canvas')].map((canvas) => "
                         "new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, "
                         "canvas.height).data).size)")
    assert len(charts) == 2 and min(charts) > 10  # something is drawn
    assert "12 queries" in page.get("chart-latency-text").get_attribute("textContent")


def test_new_queries_reach_the_page_without_a_reload(page):
    page.open()
    page.until(lambda: page.text("tile-tokens") == "95")
    page.link.shown["points"].append(point(13, tokens_last=41, mode="fine"))
    page.until(lambda: page.text("tile-tokens") == "41")
    assert page.text("tile-mode") == "fine"


def test_each_state_has_words_of_its_own(page):
    page.open()
    page.until(lambda: page.text("state") == "Running")
    page.link.shown["condition"] = {"kind": "waiting", "text": "camera/wrist: nothing received"}
    page.until(lambda: page.text("state") == "Waiting")
    assert page.text("state-text") == "camera/wrist: nothing received"
    page.link.shown["condition"] = {"kind": "silent", "text": "vla_node has been silent for 9 s"}
    page.link.shown["pictures"]["primary"]["camera"]["age"] = 9.0
    page.link.shown["pictures"]["primary"]["kept"]["age"] = 4.0
    page.until(lambda: page.text("state") == "No news")
    page.until(lambda: "9 s old" in page.text("cameras"))
    assert "kept patches of an earlier query" in page.text("cameras")
    assert "4 s old" not in page.text("cameras")
    assert page.script("return document.body.hasAttribute('data-stale')")
    page.link.absent()
    page.until(lambda: page.text("state") == "No node")
    page.until(lambda: not page.get("parameters").is_displayed())
    assert not page.get("set-instruction").is_enabled()
    assert page.driver.title.startswith("No node")


def test_a_latched_fault_can_be_cleared(page):
    page.link.fault()
    page.open()
    page.until(lambda: page.text("state") == "Fault, latched")
    assert page.text("state-text") == "latched: row 3 is nan"
    page.get("clear-fault").click()
    page.until(lambda: page.text("state") == "Running")
    assert page.link.calls == ["clear_fault"]
    assert not page.get("clear-fault").is_displayed()


def test_a_threshold_is_set_by_box_and_by_slider(page):
    page.open()
    field = "p-controller.enter_translation"
    page.until(lambda: page.get(field).get_attribute("value") == "0.1")
    page.type_number(field, "0.2")
    page.until(lambda: page.link.calls == [{"controller.enter_translation": 0.2}])
    slider = page.driver.find_element(By.CSS_SELECTOR, "[aria-label='controller.enter_translation"
                                                       ", slider']")
    page.until(lambda: slider.get_attribute("value") == "0.2")
    slider.send_keys(Keys.ARROW_RIGHT)  # by keyboard alone
    page.until(lambda: page.link.calls[-1] == {"controller.enter_translation": 0.205})
    page.until(lambda: page.get(field).get_attribute("value") == "0.205")


def test_a_veto_is_shown_and_the_value_goes_back(page):
    page.open()
    field = "p-controller.enter_translation"
    page.until(lambda: page.get(field).get_attribute("value") == "0.1")
    page.link.veto = "exit must not be below enter"
    page.type_number(field, "7")
    page.until(lambda: "Refused: exit must not be below enter" in page.text("parameters"))
    page.until(lambda: page.get(field).get_attribute("value") == "0.1")
    alert = page.driver.find_element(By.CSS_SELECTOR, ".row .answer.refused")
    assert alert.get_attribute("role") == "alert"


def test_an_emptied_box_sets_nothing(page):
    page.open()
    field = "p-dynamic.floor"
    page.until(lambda: page.get(field).get_attribute("value"))
    before = page.get(field).get_attribute("value")
    # Its group may be folded: set by script as typing does.
    page.script("""const box = arguments[0]; box.focus(); box.value = "";
        box.dispatchEvent(new Event("input")); box.dispatchEvent(new Event("change"));""",
                page.get(field))
    assert page.get(field).get_attribute("value") == before
    page.script("""const box = arguments[0]; box.value = "41";
        box.dispatchEvent(new Event("input")); box.dispatchEvent(new Event("change"));""",
                page.get(field))
    page.until(lambda: page.link.calls)
    assert page.link.calls == [{"dynamic.floor": 41}]  # and nothing before


def test_a_change_by_somebody_else_moves_the_controls(page):
    page.open()
    page.until(lambda: page.get("p-pruning").get_attribute("value") == "specprune")
    page.link.shown["parameters"] |= {"pruning": "off", "static.use_global": False,
                                      "controller.enter_translation": 0.33}
    page.until(lambda: page.get("p-pruning").get_attribute("value") == "off")
    page.until(lambda: not page.get("p-static.use_global").is_selected())
    assert page.get("p-controller.enter_translation").get_attribute("value") == "0.33"


def test_task_and_episode(page):
    page.open()
    page.until(lambda: page.get("set-instruction").is_enabled())
    field = page.get("instruction")
    field.clear()
    field.send_keys("open the drawer", Keys.ENTER)
    page.until(lambda: page.link.calls == [{"instruction": "open the drawer"}])
    page.get("reset-episode").click()
    page.until(lambda: page.link.calls[-1] == "reset_episode")
    page.until(lambda: page.text("task-answer") == "A new episode begins.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_it_fits_and_can_be_read(page, width, scheme):
    page.link.fault()
    page.open(width, 900, scheme)
    page.until(lambda: page.text("tile-tokens") == "95")
    assert page.script("return document.documentElement.scrollWidth") <= width
    poor = page.script(CONTRAST)
    assert not poor  # WCAG AA: 4.5 to 1


def test_every_control_has_a_name_and_is_reached_by_keyboard(page):
    page.open()
    page.until(lambda: page.get("p-pruning").is_displayed())
    nameless = page.script(
        "return [...document.querySelectorAll('button, input, select, textarea, progress')]"
        ".filter((e) => !(e.labels?.length || e.getAttribute('aria-label') || "
        "e.textContent.trim())).map((e) => e.outerHTML)")
    assert not nameless
    reached = set()
    body = page.driver.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)
    for _ in range(30):
        active = page.driver.switch_to.active_element
        reached.add(active.get_attribute("id") or active.tag_name)
        active.send_keys(Keys.TAB)
    assert {"instruction", "set-instruction", "reset-episode", "p-pruning",
            "p-controller.enter_translation"} <= reached


def test_the_end_of_the_server_is_told(page):
    page.open()
    page.until(lambda: page.text("state") == "Running")
    page.driver.execute_cdp_cmd("Network.enable", {})
    try:
        page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {
            "offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0})
        page.script("return fetch('/icon.svg').catch(() => 0)")
        page.get("reset-episode").click()
        page.until(lambda: "cannot be reached" in page.text("task-answer"))
    finally:
        page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {
            "offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1})
        page.driver.execute_cdp_cmd("Network.disable", {})
        page.driver.get("about:blank")
        page.driver.get_log("browser")  # of what was cut off on purpose


#: Visible texts whose contrast with what is behind them is below 4.5 to 1.
CONTRAST = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = parse(getComputedStyle(e).backgroundColor);
    if (colour.length < 4 || colour[3] > 0.7) return colour;
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility()
    && !e.matches(":disabled") && !e.closest(".sr, .skip, .note, script, noscript")
    && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
  .map((e) => {
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))];
    return [e.textContent.trim().slice(0, 30), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
  }).filter(([, ratio]) => ratio < 4.5);
"""
