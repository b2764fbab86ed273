// What scripts say, in the language of the page.
const words = Object.assign({}, ...[...document.querySelectorAll("[data-words]")].map((part) => JSON.parse(part.dataset.words)));

/** Return the words of a key, with values in the places of `{name}`. */
export function say(key, values = {}) {
  return words[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
