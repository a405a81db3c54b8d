"""A page in headless Chromium, of a given width: what it says on its console, how wide it became, what it shows."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
ASK = """
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, width = page.documentElement.clientWidth;
  const shown = selector => [...page.querySelectorAll(selector)].filter(each => {
    const box = each.getBoundingClientRect(); return box.width > 0 && box.height > 0; }).length;
  const outside = [...page.body.querySelectorAll("*")].filter(each => each.getBoundingClientRect().right > width + 1
    && !each.closest(".scroll")).map(each => each.tagName + "." + each.className);
  document.querySelector("pre").textContent = JSON.stringify({width: width, scroll: page.documentElement.scrollWidth,
    outside: outside, svg: shown("svg"), circles: shown("circle"), figures: shown("figure"), images: shown("img"),
    bars: shown(".track span, .reached i"), background: getComputedStyle(page.body).backgroundColor});
};
frame.srcdoc = %s;
"""


def look(page: str, width: int, folder: Path, dark: bool = False, shot: Path | None = None, height: int = 800) -> dict:
    """Facts of `page` (HTML) in a frame `width` pixels wide, and `console`: the lines that it wrote there."""
    wrapper = folder / "wrapper.html"
    source = json.dumps(page).replace("</", "<\\/")
    frame = f'<iframe width="{width}" height="{height}" style="border: 0"></iframe>'
    wrapper.write_text(f'<body style="margin: 0">{frame}<pre></pre><script>{ASK % source}</script>', encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    options += [f"--user-data-dir={folder / 'profile'}", f"--window-size={max(500, width)},{height}"]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    kind = [f"--screenshot={shot}"] if shot else ["--dump-dom"]
    command = [str(CHROMIUM), *options, *kind, "--virtual-time-budget=3000", wrapper.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    said = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    return {"console": console, **(json.loads(html.unescape(said[1])) if said else {})}
