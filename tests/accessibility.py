"""Accessibility faults of a page: controls without a name, skipped heading levels, low contrast.

A few of the rules of WCAG 2.2 (level AA), as far as they can be checked in the page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from browser import Browser

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
_FAULTS = (
    _SHOWN
    + r"""
const faults = [];
const tell = (what, one) => faults.push(`${what}: ${one.outerHTML.slice(0, 160)}`);

if (!document.documentElement.lang) faults.push('no language');
if (!document.title) faults.push('no title');
const headings = [...document.querySelectorAll('h1, h2, h3, h4')].filter(isShown);
if (headings.filter((one) => one.nodeName === 'H1').length !== 1) faults.push('not one h1');
headings.reduce((before, one) => {
  const level = Number(one.nodeName[1]);
  if (level > before + 1) tell('a heading of a level too deep', one);
  return level;
}, 0);
if (document.querySelectorAll('main').length !== 1) faults.push('not one main');
const ids = [...document.querySelectorAll('[id]')].map((one) => one.id);
for (const id of ids.filter((id, index) => ids.indexOf(id) !== index)) faults.push(`two elements are #${id}`);
for (const name of ['aria-labelledby', 'aria-describedby', 'aria-controls', 'for']) {
  for (const one of document.querySelectorAll(`[${name}]`)) {
    if (one.getAttribute(name).split(' ').some((id) => !document.getElementById(id))) tell(`${name} of nothing`, one);
  }
}
for (const one of document.querySelectorAll('img:not([alt]), svg:not([aria-hidden], [role=img])')) tell('a picture without words', one);
for (const one of document.querySelectorAll('[aria-hidden=true]')) {
  if ([one, ...one.querySelectorAll(controls)].some((inner) => inner.matches(controls) && isReached(inner))) tell('hidden, and reached', one);
}

// WCAG 2.2, 2.5.8: 24 by 24 pixels, but for links in a text.
for (const one of [...document.querySelectorAll('button, input:not([type=hidden]), select, summary, a.button')].filter(isReached)) {
  const part = one.labels?.[0] ?? one;
  const {width, height} = part.getBoundingClientRect();
  if (Math.max(width, one.getBoundingClientRect().width) < 24 || Math.max(height, one.getBoundingClientRect().height) < 24) tell('too small to hit', one);
}

// WCAG 2.2, 1.4.3: 4.5 to 1, and 3 to 1 for large text.
const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
const rgba = (color) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
const light = (color) => {
  const [r, g, b] = color.slice(0, 3).map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (one) => {
  const layers = [];
  for (let at = one; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
  return layers.reverse().reduce((below, layer) => over(layer, below), rgba('Canvas'));
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const seen = new Set();
while (walker.nextNode()) {
  const one = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || seen.has(one) || !isShown(one) || one.closest(':disabled, option')) continue;
  seen.add(one);
  if (one.matches('.visually-hidden') || one.getBoundingClientRect().width < 2) continue;
  const style = getComputedStyle(one);
  const below = ground(one);
  const [bright, dark] = [light(over(rgba(style.color), below)), light(below)].sort((a, b) => b - a);
  const size = parseFloat(style.fontSize);
  const least = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
  const ratio = (bright + 0.05) / (dark + 0.05);
  if (ratio < least) tell(`contrast ${ratio.toFixed(2)} of ${least}`, one);
}
return [faults, [...document.querySelectorAll(controls)].filter(isReached)];
"""
)


def focusable(browser: Browser) -> dict[str, str]:
    """Mark the elements that the keyboard reaches; return a name for `appearance` and the HTML of each, in tab order."""
    found: list[tuple[str, str]] = browser.script(_FOCUSABLE)
    return dict(found)


def appearance(browser: Browser, name: str) -> Any:
    """Return the computed style of an element that a focus indicator would change."""
    return browser.script(_STYLES, name)


def faults(browser: Browser) -> list[str]:
    """Return the accessibility faults of the page in its current state."""
    found, controls = browser.script(_FAULTS)
    nameless = [one for one in controls if not one.name.strip()]
    return [*found, *(f"no name: {browser.script('return arguments[0].outerHTML', one)}" for one in nameless)]
