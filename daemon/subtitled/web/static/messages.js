// Messages for scripts, in the language of the page.
const messages = {};

document.querySelectorAll("[data-messages]").forEach(addMessages);

/** Add the messages of an element that was loaded later. */
export function addMessages(element) {
  Object.assign(messages, JSON.parse(element.dataset.messages));
}

/** Return the message of an error response, translated if the server has a translation. */
export function errorText(body) {
  return body.text ?? body.message;
}

/** Return the message of a key with its `{name}` placeholders filled in. */
export function message(key, values = {}) {
  return messages[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
