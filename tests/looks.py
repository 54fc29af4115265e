"""What a page must be at every width, in light and dark: nothing cut, nothing scrolls sideways, keyboard and axe."""

from contextlib import contextmanager
from pathlib import Path

WIDTHS = (360, 768, 1600)
SCHEMES = ("light", "dark")
SCRIPT = Path(__file__).with_suffix(".js").read_text("utf-8")


@contextmanager
def looked_at(browser, address, width, scheme, key="", offline=False):
    """A page and the list of what it complains about: its console, and requests that leave its own server or file."""
    own = "/".join(address.split("/")[:3]) if address.startswith("http") else address
    said = []
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_offline(offline)
    if key:
        context.add_init_script(f"sessionStorage.setItem('ialign-api-key', '{key}')")
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith(own) else None)
    page.goto(address)
    try:
        yield page, said
    finally:
        context.close()


def faults(page):
    """Everything that is wrong with the open page, in words.

    Contrast is measured at the narrowest width alone: it takes axe up to half a minute a page, and colours differ by
    scheme, not by width; on a narrow screen most text is on panels, where contrast is least.
    """
    from axe_playwright_python.sync_playwright import Axe

    found = page.evaluate(f"({SCRIPT}).layout()")
    contrast = page.viewport_size["width"] == WIDTHS[0]
    options = {"resultTypes": ["violations"], "rules": {"color-contrast": {"enabled": contrast}}}
    violations = Axe().run(page, options=options).response["violations"]
    found += [
        f"axe: {v['id']}: {node['target']} {node['failureSummary'][:200]}"
        for v in violations
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"][:3]
    ]
    return found + keyboard_faults(page)


def keyboard_faults(page):
    """Press Tab through the page: each control must get the focus, be seen and show it."""
    controls, reached, found = page.evaluate(f"({SCRIPT}).controls()"), set(), []
    # Tab starts where the focus was last, after a click at its button: begin at the top
    page.evaluate("() => { document.body.tabIndex = -1; document.body.focus(); scrollTo(0, 0); }")
    for _ in range(controls + 5):
        page.keyboard.press("Tab")
        focused = page.evaluate(f"({SCRIPT}).focused()")
        if focused is None:
            break
        number, shown, name = focused
        reached.add(number)
        if not shown:
            found.append(f"the focus cannot be seen: {name}")
    missed = controls - len(reached - {None})
    return found + ([f"Tab misses {missed} of {controls} controls"] if missed else [])
