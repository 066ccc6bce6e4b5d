"""A headless Chromium that is driven over its own protocol: real mouse, real keys, real console.

Needs Debian's Chromium (or Chrome) and `websockets`, which uvicorn and W&B bring along.
"""

import base64
import json
import shutil
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-dev-shm-usage", "--disable-background-networking", "--remote-debugging-port=0"),
    *("--force-device-scale-factor=1", "--disable-component-update", "--disable-sync"),
)
_KEYS = {
    **{"ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, "ArrowUp": 38},
    **{"Escape": 27, "Enter": 13, "Tab": 9},
}


def find_chromium() -> str | None:
    """The browser's program, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One page of a browser with a fresh profile; a context manager.

    `complaints` are the console's warnings and errors and all uncaught exceptions, `requests` the
    addresses asked for since the start, but for `data:` ones.
    """

    def __init__(self, width: int = 1440, height: int = 900, scheme: str = "light") -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._size, self._scheme, self._numbers = (width, height), scheme, count(1)
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: ClientConnection | None = None

    def __enter__(self) -> "Chromium":
        program = find_chromium()
        if program is None:
            raise SystemExit("no Chromium here: run tools/chromium.sh as root")
        width, height = self._size
        options = (f"--user-data-dir={self._profile.name}", f"--window-size={width},{height}")
        self._process = subprocess.Popen(
            [program, *OPTIONS, *options, "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._connect()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _connect(self) -> None:
        port, path = self._address()
        root = f"ws://127.0.0.1:{port}"
        with connect(root + path, max_size=None) as whole:
            whole.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
            targets = json.loads(whole.recv(30))["result"]["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._socket = connect(f"{root}/devtools/page/{page}", max_size=None)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        width, height = self._size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        features = [{"name": "prefers-color-scheme", "value": self._scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def _address(self) -> tuple[int, str]:
        file = Path(self._profile.name) / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            lines = file.read_text().split() if file.is_file() else []
            if len(lines) == 2:
                return int(lines[0]), lines[1]
            time.sleep(0.05)
        raise TimeoutError("Chromium did not open its debugging port within 60 s")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol and its result."""
        assert self._socket is not None
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(60))
            if message.get("id") != number:
                self._note(message)
            elif "error" in message:
                raise RuntimeError(f"{method}: {message['error']['message']}")
            else:
                return dict(message["result"])

    def _note(self, message: dict[str, Any]) -> None:
        method, found = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = found["exceptionDetails"]
            self.complaints.append(details.get("exception", details).get("description", "?"))
        elif method == "Runtime.consoleAPICalled" and found["type"] in ("error", "warning"):
            self.complaints.append(str([a.get("value") for a in found["args"]]))
        elif method == "Log.entryAdded" and found["entry"]["level"] in ("error", "warning"):
            self.complaints.append(found["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            address = found["request"]["url"]
            if not address.startswith("data:"):
                self.requests.append(address)

    def open(self, page: Path, fragment: str = "") -> None:
        """Open a file anew and wait until it has loaded and been painted."""
        # The same file with another fragment would only be scrolled.
        self.call("Page.navigate", url="about:blank")
        address = page.resolve().as_uri() + fragment
        self.call("Page.navigate", url=address)
        here = f"location.href.startsWith({json.dumps(page.resolve().as_uri())})"
        deadline = time.monotonic() + 60
        while not self.evaluate(f"{here} && document.readyState === 'complete'"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{page} did not load within 60 s")
            time.sleep(0.01)
        self.settle()

    def settle(self) -> None:
        """Wait until the next frame but one is painted."""
        frames = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        self.evaluate(f"{frames}.then(() => true)")

    def evaluate(self, expression: str) -> Any:
        """The JSON value of an expression in the page; promises are awaited."""
        options = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        result = self.call("Runtime.evaluate", **options)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"]["description"])
        return result["result"].get("value")

    def place(self, selector: str) -> dict[str, float]:
        """Where the first element of a selector is: x, y, width, height in pixels."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()"
        return dict(self.evaluate(box))

    def move(self, x: float, y: float) -> None:
        """Move the mouse."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.settle()

    def hover(self, selector: str) -> None:
        """Move the mouse over the middle of the first element of a selector."""
        place = self.place(selector)
        self.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)

    def click(self, selector: str) -> None:
        """Click on the middle of the first element of a selector."""
        self.hover(selector)
        place = self.place(selector)
        at = {"x": place["x"] + place["width"] / 2, "y": place["y"] + place["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)
        self.settle()

    def press(self, key: str) -> None:
        """Press and release a key: a character, or a name such as ArrowRight."""
        text = {"text": key} if len(key) == 1 else {}
        code = {"windowsVirtualKeyCode": _KEYS.get(key, ord(key.upper()[0]))}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **code)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **code)
        self.settle()

    def write(self, text: str) -> None:
        """Type a text where the cursor is."""
        self.call("Input.insertText", text=text)
        self.settle()

    def screenshot(self, file: Path) -> None:
        """A PNG of what the window shows."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        file.write_bytes(base64.b64decode(data))

    def _stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._profile.cleanup()
