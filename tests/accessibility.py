"""Accessibility of a page: axe-core's rules, and the elements that the keyboard reaches.

axe-core (https://github.com/dequelabs/axe-core) is one script, which `axe-playwright-python` contains; nothing else of that package is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webdriver import DESKTOP, PHONE, Size

if TYPE_CHECKING:
    from browser import Browser

Views = Sequence[tuple[str, Size]]
VIEWS: dict[str, Views] = {
    "en": (("light", DESKTOP), ("dark", PHONE)),
    "zh-Hant": (("dark", DESKTOP), ("light", PHONE)),
}
"""By language: color schemes and windows. Each scheme and each window occurs in each language."""

_RUN = """
document.querySelectorAll('details').forEach((one) => (one.open = true));
const { violations } = await axe.run(document, { rules: { 'target-size': { enabled: true } }, resultTypes: ['violations'] });
return violations.map(({ id, impact, help, nodes }) =>
  `${id} (${impact}): ${help}: ${nodes.map(({ html, failureSummary }) => `${html.slice(0, 200)} ${failureSummary}`).join('; ')}`);
"""
"""All rules but those that axe-core calls experimental and those of level AAA; `target-size` is of WCAG 2.2."""
_SHOWN = """
const isShown = (one) => one.checkVisibility({visibilityProperty: true, opacityProperty: true}) && !one.closest('[inert]');
const controls = 'a[href], button, input:not([type=hidden]), select, textarea, summary, audio[controls], [tabindex]';
const isReached = (one) => one.tabIndex >= 0 && !one.disabled && isShown(one);
"""
_FOCUSABLE = (
    _SHOWN
    + """
const found = [...document.querySelectorAll(controls)].filter(isReached);
// Not an attribute, which a live update of the page would remove.
window.focusableElements = found;
return found.map((one, index) => [String(index), one.outerHTML.slice(0, 120)]);
"""
)
_STYLES = """
const one = window.focusableElements[arguments[0]];
// A file field is shown by its label.
return [one, one.labels?.[0], one.parentElement].filter(Boolean).map((part) => {
  const {outline, boxShadow, borderColor, backgroundColor, textDecoration, opacity, translate, position} = getComputedStyle(part);
  return [outline, boxShadow, borderColor, backgroundColor, textDecoration, opacity, translate, position];
});
"""


def focusable(browser: Browser) -> dict[str, str]:
    """Mark the elements that the keyboard reaches; return a name for `appearance` and the HTML of each, in tab order."""
    found: list[tuple[str, str]] = browser.script(_FOCUSABLE)
    return dict(found)


def appearance(browser: Browser, name: str) -> Any:
    """Return the computed style of an element that a focus indicator would change."""
    return browser.script(_STYLES, name)


def violations(browser: Browser, views: Views) -> list[str]:
    """Return what axe-core finds on the page in its current state, in color schemes and windows, with all `details` open."""
    if not browser.script("return Boolean(window.axe)"):
        browser.script(_axe_core())
    found: list[str] = []
    for scheme, size in views:
        browser.prefer(scheme)
        browser.resize(size)
        found += (f"{browser.path}, {scheme}, {size.width} px: {one}" for one in browser.script(_RUN))
    return found


@cache
def _axe_core() -> str:
    # The package is not imported: it needs Playwright.
    spec = find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name("axe.min.js").read_text("utf-8")
