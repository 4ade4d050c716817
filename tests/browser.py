"""Headless Chromium through its DevTools protocol: what a page logs, asks for, shows and says to screen readers.

No driver and no package beyond aiohttp. Debian's `chromium`, or whatever `CHROMIUM` names.
"""

import asyncio
import base64
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

_PATIENCE_S = 120


def chromium() -> str:
    """Path of the browser; FileNotFoundError says how to get one."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise FileNotFoundError("no Chromium: apt-get install chromium, or name one in CHROMIUM")
    return found


@dataclass
class Page:
    """An open page, and what came of opening it."""

    _socket: aiohttp.ClientWebSocketResponse
    _waiting: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    """What the console says, violations of the page's own policy included, and errors that nobody caught."""
    requests: list[str] = field(default_factory=list)
    """URLs asked for, without `data:` ones."""
    loaded: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the protocol; RuntimeError where it fails."""
        number = len(self._waiting) + 1
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        answer = await asyncio.wait_for(self._waiting[number], _PATIENCE_S)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def listen(self) -> None:
        """Take what the browser says until it closes."""
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._waiting[said["id"]].set_result(said)
            elif said["method"] in {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}:
                self.complaints.append(str(said["params"]))
            elif said["method"] == "Network.requestWillBeSent":
                url = said["params"]["request"]["url"]
                if not url.startswith("data:"):
                    self.requests.append(url)
            elif said["method"] == "Page.loadEventFired":
                self.loaded.set()

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, a promise's once it is kept. The page's policy does not hold it up."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def press(self, key: str) -> None:
        """Press a key and let it go."""
        for kind in ("rawKeyDown", "keyUp"):
            code = {"Tab": 9, "Enter": 13}[key]
            text = "\r" if key == "Enter" and kind == "rawKeyDown" else ""
            kind_sent = "keyDown" if text else kind
            await self.call(
                "Input.dispatchKeyEvent", type=kind_sent, key=key, code=key, windowsVirtualKeyCode=code, text=text
            )

    async def screenshot(self, into: Path, width: int, scheme: str, height: int = 900, top: int | None = None) -> None:
        """A PNG of the page `width` CSS pixels wide in `light` or `dark`: all of it, or `height` of it from `top`."""
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        whole = (await self.call("Page.getLayoutMetrics"))["cssContentSize"]["height"]
        clip = {"x": 0, "y": top or 0, "width": width, "height": whole if top is None else height, "scale": 1}
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        into.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def opened(file: Path) -> AsyncIterator[Page]:
    """A file, opened and loaded in a browser of its own."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
        quiet = ["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]
        process = await asyncio.create_subprocess_exec(
            chromium(),
            *options,
            *quiet,
            f"--user-data-dir={profile}",
            "--remote-debugging-port=0",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            port = await asyncio.wait_for(_port(Path(profile) / "DevToolsActivePort", process), _PATIENCE_S)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as listed:
                    (target, *_) = [one for one in await listed.json() if one["type"] == "page"]
                async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    page = Page(socket)
                    listening = asyncio.create_task(page.listen())
                    for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
                        await page.call(f"{domain}.enable")
                    await page.call("Page.navigate", url=file.absolute().as_uri())
                    await asyncio.wait_for(page.loaded.wait(), _PATIENCE_S)
                    yield page
                    listening.cancel()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _port(file: Path, process: asyncio.subprocess.Process) -> int:
    """The port that the browser has chosen, once it says so."""
    while not (file.exists() and file.read_text().strip()):
        if process.returncode is not None:
            raise RuntimeError(f"{chromium()} ended with {process.returncode} before it could be asked anything")
        await asyncio.sleep(0.05)
    return int(file.read_text().split()[0])


def visit(file: Path, look: Callable[[Page], Awaitable[None]]) -> None:
    """Open a file and do `look` with its page."""

    async def look_at_it() -> None:
        async with opened(file) as page:
            await look(page)

    asyncio.run(look_at_it())
