// Turns what is shown into what a fragment says, and touches nothing that is the same: focus, selection, scroll and a
// pressed button outlive it.

/** Make the children of `shown` like those of `wanted`; elements with an id are the same wherever they stand. */
export function morph(shown, wanted) {
  const known = new Map();
  for (const child of shown.children) if (child.id) known.set(child.id, child);
  let place = shown.firstChild;
  for (const next of [...wanted.childNodes]) {
    const found = same(place, next) ? place : known.get(next.id);
    if (!found) {
      shown.insertBefore(document.importNode(next, true), place);
      continue;
    }
    if (found === place) place = place.nextSibling;
    else shown.insertBefore(found, place);
    change(found, next);
  }
  while (place) {
    const gone = place;
    place = place.nextSibling;
    gone.remove();
  }
}

function same(shown, wanted) {
  return shown && shown.nodeName === wanted.nodeName && (shown.id ?? "") === (wanted.id ?? "");
}

function change(shown, wanted) {
  if (shown.nodeType !== Node.ELEMENT_NODE) {
    if (shown.nodeValue !== wanted.nodeValue) shown.nodeValue = wanted.nodeValue;
    return;
  }
  // A part that has a life of its own is not in the fragment.
  if (wanted.hasAttribute("data-keep") || shown.isEqualNode(wanted)) return;
  for (const { name } of [...shown.attributes]) {
    // What a reader has opened stays open.
    if (!wanted.hasAttribute(name) && !(name === "open" && shown.nodeName === "DETAILS")) shown.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  }
  morph(shown, wanted);
}
