// Updates the DOM to match a fragment and leaves equal nodes untouched, so that focus, selection, scroll position and
// a pressed button are kept.

/** Make the children of `current` equal to those of `target`; elements with the same id are moved, not replaced. */
export function morph(current, target) {
  const byId = new Map();
  for (const child of current.children) if (child.id) byId.set(child.id, child);
  let position = current.firstChild;
  for (const next of [...target.childNodes]) {
    const match = isSame(position, next) ? position : byId.get(next.id);
    if (!match) {
      current.insertBefore(document.importNode(next, true), position);
      continue;
    }
    if (match === position) position = position.nextSibling;
    else current.insertBefore(match, position);
    update(match, next);
  }
  while (position) {
    const removed = position;
    position = position.nextSibling;
    removed.remove();
  }
}

function isSame(current, target) {
  return current && current.nodeName === target.nodeName && (current.id ?? "") === (target.id ?? "");
}

function update(current, target) {
  if (current.nodeType !== Node.ELEMENT_NODE) {
    if (current.nodeValue !== target.nodeValue) current.nodeValue = target.nodeValue;
    return;
  }
  if (target.hasAttribute("data-morph-skip") || current.isEqualNode(target)) return;
  for (const { name } of [...current.attributes]) {
    // <details> that the user has opened stay open.
    if (!target.hasAttribute(name) && !(name === "open" && current.nodeName === "DETAILS")) current.removeAttribute(name);
  }
  for (const { name, value } of target.attributes) {
    if (current.getAttribute(name) !== value) current.setAttribute(name, value);
  }
  morph(current, target);
}
