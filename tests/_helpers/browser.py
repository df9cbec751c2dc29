"""A page as its reader has it: in a real browser, without a window, clicked and typed at.

The fixture `browser` of conftest.py yields a `Browser`, one for all tests of a process, and skips them where
there is none. Chromium as Debian packages it is what is meant, with its driver.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from _helpers.waiting import CEILING

try:
    from selenium import webdriver
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions import interaction
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    from selenium.webdriver.common.actions.pointer_input import PointerInput
    from selenium.webdriver.common.by import By
    from selenium.webdriver.remote.webelement import WebElement
    from selenium.webdriver.support.wait import WebDriverWait
except ImportError:
    webdriver = None

PROGRAMS = (("chromium", "google-chrome", "chrome"), ("chromedriver",))
HOW = "apt-get install chromium chromium-driver, and pip install selenium (make setup does the latter)"


class Browser:
    """A browser with one page.

    Attributes:
        driver: selenium's, for what is not here.
    """

    def __init__(self, driver: "webdriver.Chrome") -> None:
        self.driver = driver
        self.resize(1280)

    def open(self, page: Path, *, ready: str = "document.readyState === 'complete'") -> None:
        """Open a file, and wait until an expression in JavaScript is true."""
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)  # what is of an earlier page
        self.driver.get(page.resolve().as_uri())
        self.until(ready)

    def until(self, expression: str) -> None:
        """Wait until an expression in JavaScript is true."""
        WebDriverWait(self.driver, CEILING, 0.05).until(lambda _: self.value(expression), expression)

    def value(self, expression: str) -> object:
        """Return the value of an expression in JavaScript."""
        return self.driver.execute_script(f"return {expression}")

    def find(self, selector: str) -> "WebElement":
        """Return the first element of a CSS selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """Return the text of an element, as it is shown."""
        return self.find(selector).text

    def click(self, selector: str, at: tuple[float, float] = (0.5, 0.5)) -> None:
        """Click an element at a place, as parts of its width and height; on a phone it is a touch."""
        element = self.find(selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        x, y = ((part - 0.5) * element.size[side] for part, side in zip(at, ("width", "height"), strict=True))
        kind = interaction.POINTER_TOUCH if self._phone else interaction.POINTER_MOUSE
        actions = ActionBuilder(self.driver, mouse=PointerInput(kind, kind), duration=0)
        actions.pointer_action.move_to(element, round(x), round(y)).click()
        actions.perform()

    def press(self, *keys: str) -> None:
        """Press keys, one after another, in what has the focus."""
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def resize(self, width: int, height: int = 900) -> None:
        """Give the page a width and height in CSS pixels; below 600, those of a phone, with touch."""
        self._width, self._phone = width, (phone := width < 600)
        self._command("Emulation.setDeviceMetricsOverride", width=width, height=height,
                      deviceScaleFactor=2 if phone else 1, mobile=phone)  # fmt: skip
        self._command("Emulation.setTouchEmulationEnabled", enabled=phone)

    def prefer(self, scheme: str) -> None:
        """Let the reader prefer the colour scheme "light" or "dark"."""
        self._command("Emulation.setEmulatedMedia",
                      features=[{"name": "prefers-color-scheme", "value": scheme}])  # fmt: skip

    def show_for(self, media: str) -> None:
        """Show the page as it is on a "screen" or in "print"."""
        self._command("Emulation.setEmulatedMedia", media=media)

    def complaints(self) -> list[str]:
        """Return what the page has said on the console since it was opened, or since this was asked last."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def overflow(self) -> int:
        """Return by how many CSS pixels the page is wider than `resize` has said; 0 where it fits."""
        # Not innerWidth, which a phone makes as wide as the page.
        return max(0, int(self.value("document.documentElement.scrollWidth")) - self._width)

    def requests(self) -> list[str]:
        """Return what the page has asked for since it was opened, besides itself and the data in it."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        every = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in every if not url.startswith(("data:", "blob:", self.driver.current_url))]

    def picture(self, path: Path) -> None:
        """Write a PNG file of the whole page."""
        self.driver.get_screenshot_as_file(str(path))

    def _command(self, name: str, **parameters: object) -> None:
        self.driver.execute_cdp_cmd(name, parameters)


def opened() -> Iterator[Browser]:
    """Yield a browser and close it; skip the test if there is none."""
    found = [next(filter(None, map(shutil.which, names)), None) for names in PROGRAMS]
    if webdriver is None or None in found:
        pytest.skip(f"no browser to look at the page in: {HOW}")
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    words = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    for word in [*words, *(["--no-sandbox"] if os.geteuid() == 0 else [])]:  # it refuses root a sandbox
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(found[1]))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
