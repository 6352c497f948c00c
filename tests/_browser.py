"""A headless Chromium to look at our pages with: what it made of one, complained of, asked the net for."""

import functools
import html as html_module
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--hide-scrollbars",
    "--disable-default-apps", "--disable-domain-reliability", "--dns-prefetch-disable", "--enable-logging=stderr",
    "--allow-file-access-from-files", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
NARROWEST = 500  # of a window, in CSS pixels
CONSOLE = re.compile(r":CONSOLE[:(]\d+\)?\] (.*)")


@functools.cache
def find() -> str | None:
    """The browser's path: what CHROME names, else the first that is installed; None without one."""
    return os.environ.get("CHROME") or next(filter(None, map(shutil.which, NAMES)), None)


# A test that looks at a page carries both: the marker to choose it by, and a skip that says why.
needs_browser = pytest.mark.skipif(
    find() is None, reason="needs Chromium: none of " + ", ".join(NAMES) + ", no $CHROME"
)


class Visit:
    """What a page became.

    dom        its HTML once loaded
    console    what it, or the browser about it, wrote to the console
    addresses  what it asked the net for; the browser's own requests do not count, and none gets out
    """

    def __init__(self, path: Path, *, width: int = 1000, height: int = 900, dark: bool = False, probe: str = "",
                 screenshot: Path | None = None):  # fmt: skip
        """Open a file. `probe` is JavaScript run at the end of a copy of it that has no content security policy.

        Raises RuntimeError with the browser's own words if it fails.
        """
        with tempfile.TemporaryDirectory() as folder:
            scratch = Path(folder)
            if probe:
                html = re.sub(r"<meta http-equiv=.*?>", "", path.read_text(encoding="utf-8"))
                path = scratch / "probed.html"
                path.write_text(f"{html}<script>{probe}</script>", encoding="utf-8")
            if width < NARROWEST:
                path = framed(path, scratch, width, height)
            wanted = [f"--screenshot={screenshot}"] if screenshot else ["--dump-dom"]
            theme = ["--blink-settings=preferredColorScheme=0"] if dark else []
            run = subprocess.run(
                [find() or "chromium", *QUIET, *theme, f"--user-data-dir={scratch}/profile",
                 f"--log-net-log={scratch}/net.json", f"--window-size={width},{height}", *wanted, path.as_uri()],
                capture_output=True, text=True, timeout=60, encoding="utf-8", errors="replace",
            )  # fmt: skip
            if run.returncode:
                raise RuntimeError(f"the browser left with {run.returncode}: {run.stderr[-2000:]}")
            inner = re.search('data-inner="([^"]*)"', run.stdout)
            self.dom = html_module.unescape(inner[1]) if inner else run.stdout
            self.console = CONSOLE.findall(run.stderr)
            self.addresses = requested(scratch / "net.json")


def framed(path: Path, scratch: Path, width: int, height: int) -> Path:
    """A page with this one in a frame as narrow as a phone, which a window cannot be."""
    tell = "document.documentElement.dataset.inner = this.contentDocument.documentElement.outerHTML"
    frame = (
        f'<iframe style="border:0;width:{width}px;height:{height}px" src="{path.as_uri()}" onload="{tell}"></iframe>'
    )
    wrapper = scratch / "frame.html"
    wrapper.write_text(f'<!doctype html><body style="margin:0">{frame}', encoding="utf-8")
    return wrapper


def requested(log: Path) -> set[str]:
    """Every address that a page, and not the browser by itself, made a request for, from a net log."""
    text = log.read_text(encoding="utf-8", errors="replace")
    try:
        events = json.loads(text)["events"]
    except json.JSONDecodeError:  # the browser may leave before it closes the list
        events = [json.loads(line.rstrip(",\n]}") + "}") for line in text.splitlines() if '"initiator"' in line]
    asked = [event["params"] for event in events if "initiator" in event.get("params", {})]
    return {params["url"] for params in asked if params["initiator"] != "not an origin"}
