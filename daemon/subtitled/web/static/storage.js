// What this browser remembers of the page: nothing if its user has blocked storage, so that reading it raises an error.

/** Return a stored text, null without one. */
export function stored(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

/** Store a text; null removes it. Without storage or room for it, nothing is changed. */
export function store(key, text) {
  try {
    if (text === null) localStorage.removeItem(key);
    else localStorage.setItem(key, text);
  } catch {
    // blocked or full
  }
}
