// The files of a drop; of a dropped folder, all media files in it, each with its `folder`: "Season 1/Extras/".

const MEDIA_NAME = /\.(mkv|mka|ts|m2ts|mts|vob|wmv|wma|flv|opus|ogg|amr|mp[34]|m4[av]|mov|avi|wav|flac|aac|webm)$/i;

/** Return the files of a DataTransfer. */
export async function droppedFiles(transfer) {
  // A DataTransfer is empty after this turn of the event loop: its entries are read at once.
  const entries = [...transfer.items]
    .filter((item) => item.kind === "file")
    .map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  const files = [];
  for (const entry of entries) await collect(entry, files, "");
  return files;
}

async function collect(entry, files, folder) {
  if (entry instanceof File) files.push(entry);
  else if (entry.isFile) {
    const file = await new Promise((resolve) => entry.file(resolve, () => resolve(null)));
    if (file && (!folder || isMedia(file))) files.push(Object.assign(file, { folder: folder.slice(-200) }));
  } else {
    const reader = entry.createReader();
    for (;;) {
      const batch = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
      if (!batch.length) return;
      for (const child of batch) await collect(child, files, `${folder}${entry.name}/`);
    }
  }
}

function isMedia(file) {
  return /^(audio|video)\//.test(file.type) || MEDIA_NAME.test(file.name);
}
