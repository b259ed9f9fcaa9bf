"""Page of `mae explore` in Chromium, which is driven like a person would."""

from pathlib import Path
from typing import Any

SIZE = {"width": 1280, "height": 800}


class Tab:
    """Open page; what went wrong in it is kept in `faults`."""

    def __init__(self, browser: Any, file: Path, **settings: Any) -> None:
        self.context = browser.new_context(
            viewport=settings.pop("viewport", SIZE), reduced_motion="reduce", **settings
        )
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on("console", lambda one: self._note(f"{one.type}: {one.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda one: self._check(one.url, file))
        self.page.on("dialog", lambda one: self.faults.append(one.message))
        self.file = file
        self.open()

    def open(self) -> None:
        """Open the page, or open it again."""
        self.page.goto(self.file.as_uri())
        self.page.wait_for_selector("html[data-ready]", state="attached")

    def _note(self, text: str) -> None:
        if "willReadFrequently" not in text:  # a hint on tests that read pixels
            self.faults.append(text)

    def _check(self, url: str, file: Path) -> None:
        if url != file.as_uri() and not url.startswith(("blob:", "data:")):
            self.faults.append(f"request: {url}")

    def value(self, expression: str, argument: Any = None) -> Any:
        """Value of an expression of JavaScript in the next frame."""
        self.page.evaluate("() => new Promise(requestAnimationFrame)")
        return self.page.evaluate(expression, argument)

    def at(self, row: int) -> tuple[float, float]:
        """Place of an image in the window."""
        box = self.page.locator("#map").bounding_box()
        x, y = self.value("row => explore.at(row)", row)
        return box["x"] + x, box["y"] + y

    def text(self, selector: str) -> str:
        """Text of an element."""
        return self.page.locator(selector).inner_text()

    def drag(self, places: list[tuple[float, float]]) -> None:
        """Press, move through all places, release."""
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place)
        self.page.mouse.up()
