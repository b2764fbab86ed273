// Messages for scripts, in the language of the page.
const messages = Object.assign({}, ...[...document.querySelectorAll("[data-messages]")].map((element) => JSON.parse(element.dataset.messages)));

/** Return the message of a key with its `{name}` placeholders filled in. */
export function message(key, values = {}) {
  return messages[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
