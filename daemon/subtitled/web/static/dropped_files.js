// The files of what was dropped: of folders all media that are in them.

const KNOWN = /\.(mkv|mka|ts|m2ts|mts|vob|wmv|wma|flv|opus|ogg|amr|mp[34]|m4[av]|mov|avi|wav|flac|aac|webm)$/i;

/** Return the files of a drop. */
export async function walk(transfer) {
  // What was dropped is gone after this turn of the event loop: the entries are taken at once.
  const found = [...transfer.items]
    .filter((item) => item.kind === "file")
    .map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  const files = [];
  for (const entry of found) await collect(entry, files, true);
  return files;
}

async function collect(entry, files, wasNamed) {
  if (entry instanceof File) files.push(entry);
  else if (entry.isFile) {
    const file = await new Promise((resolve) => entry.file(resolve, () => resolve(null)));
    if (file && (wasNamed || isMedia(file))) files.push(file);
  } else {
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
      if (!some.length) return;
      for (const inner of some) await collect(inner, files, false);
    }
  }
}

function isMedia(file) {
  return /^(audio|video)\//.test(file.type) || KNOWN.test(file.name);
}
