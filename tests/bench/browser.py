"""A page in headless Chromium, of a given width or as printed: its console, its width, what is cut, what is shown."""

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
  const all = [...page.body.querySelectorAll("*")];
  if (%s) for (const sheet of page.styleSheets) for (const rule of sheet.cssRules)
    if (rule.media) rule.media.mediaText = rule.media.mediaText === "print" ? "all" : "not all";
  const name = each => each.tagName + "." + each.className;
  const shown = selector => [...page.querySelectorAll(selector)].filter(each => {
    const box = each.getBoundingClientRect(); return box.width > 0 && box.height > 0; }).length;
  const outside = all.filter(each => each.getBoundingClientRect().right > width + 1).map(name);
  const cut = all.filter(each => !each.ownerSVGElement && each.clientWidth > 0
    && each.scrollWidth > each.clientWidth + 1).map(name);
  for (const text of page.querySelectorAll("svg text")) {
    const own = text.getBoundingClientRect(), box = text.closest("svg").getBoundingClientRect();
    if (own.left < box.left - 1 || own.right > box.right + 1) cut.push("text: " + text.textContent); }
  document.querySelector("pre").textContent = JSON.stringify({width: width, scroll: page.documentElement.scrollWidth,
    outside: outside, cut: cut, svg: shown("svg"), circles: shown("circle"), figures: shown("figure"),
    images: shown("img"), bars: shown(".track span, .reached i"),
    background: getComputedStyle(page.body).backgroundColor});
};
frame.srcdoc = %s;
"""


def look(
    page: str,
    width: int,
    folder: Path,
    dark: bool = False,
    shot: Path | None = None,
    height: int = 800,
    printed: bool = False,
) -> dict:
    """Facts of `page` (HTML) in a frame `width` pixels wide, and `console`: the lines that it wrote there. `cut`: what
    is wider than its box. `printed`: with the style that is for print."""
    wrapper = folder / "wrapper.html"
    ask = ASK % (json.dumps(printed), json.dumps(page).replace("</", "<\\/"))
    frame = f'<iframe width="{width}" height="{height}" style="border: 0"></iframe>'
    wrapper.write_text(f'<body style="margin: 0">{frame}<pre></pre><script>{ask}</script>', encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    options += [f"--user-data-dir={folder / 'profile'}", f"--window-size={max(500, width)},{height}"]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    kind = [f"--screenshot={shot}"] if shot else ["--dump-dom"]
    command = [str(CHROMIUM), *options, *kind, "--virtual-time-budget=3000", wrapper.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    said = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    return {"console": console, **(json.loads(html.unescape(said[1])) if said else {})}
