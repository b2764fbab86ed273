// The subtitles of a job that the player shows: those of its only task or of each of two, which can be edited, and translations.
import { errorText } from "./messages.js";
import { stored } from "./storage.js";

/** Return the query of requests for a track. */
export function trackQuery({ task, language }, parameters = {}) {
  const query = new URLSearchParams({ ...(task && { task }), ...(language && { language }), ...parameters });
  return query.size ? `?${query}` : "";
}

/** Return the cues of a track, as `GET /api/jobs/ID/cues`; raises an error with the server's message. */
export async function fetchCues(job, track, parameters = {}, signal = null) {
  const response = await fetch(`/api/jobs/${job}/cues${trackQuery(track, parameters)}`, { signal });
  const body = await response.json();
  if (!response.ok) throw new Error(errorText(body));
  return body;
}

/** Return the key of an edit that this browser keeps until the server has it. */
export function backupKey(job, { task }) {
  return `subtitled.edit.${job}${task && `.${task}`}`;
}

/** Return whether this browser has an edit that the server may lack. */
export function hasUnsavedEdit(job, track) {
  return !track.language && stored(backupKey(job, track)) !== null;
}
