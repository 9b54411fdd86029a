// Which mask belongs to which picture, by their names: the rules of docs/batch.md that names alone decide. One row for each picture; its masks are its objects.

export interface Entry {
  path: string; // with forward slashes, below the folder that was dropped
  file: File;
}
export interface Row {
  name: string;
  picture: Entry;
  masks: Entry[];
  ambiguous: string[]; // masks that could be meant, where it isn't clear which
}

const PICTURE = /\.(png|jpe?g|webp)$/i;
const MASK = /[._-]mask$/i;
const order = new Intl.Collator("en", { numeric: true });

interface Named {
  entry: Entry;
  folder: string;
  stem: string;
}

export function pair(entries: Entry[]): Row[] {
  const files: Named[] = entries
    .filter(({ path }) => PICTURE.test(path) && !path.split("/").some((part) => part.startsWith(".")))
    .map((entry) => {
      const parts = entry.path.normalize("NFC").split("/");
      return { entry, stem: parts.pop()!.replace(/\.[^.]*$/, ""), folder: parts.join("/") };
    })
    .sort((a, b) => order.compare(a.entry.path, b.entry.path));
  const at = new Map<string, Named[]>();
  for (const one of files) {
    const key = `${one.folder}/${one.stem}`.toLowerCase();
    at.set(key, [...(at.get(key) ?? []), one]);
  }
  const find = (folder: string, stem: string) => at.get(`${folder}/${stem}`.toLowerCase()) ?? [];
  const parallel = (folder: string) => [`${folder}/masks`.replace(/^\//, ""), folder.replace(/(^|\/)images(?=\/|$)/i, "$1masks")].filter((one) => one !== folder);
  const inMasks = (folder: string) => folder.split("/").some((part) => part.toLowerCase() === "masks");

  const rows: Row[] = [];
  for (const one of files) {
    if (inMasks(one.folder)) continue;
    if (MASK.test(one.stem) && find(one.folder, one.stem.replace(MASK, "")).length) continue;
    const layout = find(one.folder, "image").length > 0;
    if (layout && /^\d+$/.test(one.stem)) continue;
    const found = parallel(one.folder).map((folder) => find(folder, one.stem));
    found.push(["_mask", "-mask", ".mask"].flatMap((end) => find(one.folder, one.stem + end)));
    const first = found.find((list) => list.length) ?? [];
    const numbered = one.stem.toLowerCase() === "image" ? files.filter((other) => other.folder === one.folder && /^\d+$/.test(other.stem)) : [];
    const masks = first.length ? first : numbered;
    const clear = first.length < 2;
    rows.push({
      name: numbered.length && !first.length && one.folder ? one.folder.split("/").pop()! : one.stem,
      picture: one.entry,
      masks: clear ? masks.map((mask) => mask.entry) : [],
      ambiguous: clear ? [] : first.map((mask) => mask.entry.path),
    });
  }
  return rows;
}

/** Everything that was dropped, folders to their depth. */
export async function dropped(transfer: DataTransfer): Promise<Entry[]> {
  const roots = [...transfer.items].map((item) => item.webkitGetAsEntry()).filter((entry): entry is FileSystemEntry => entry !== null);
  const found: Entry[] = [];
  const walk = async (entry: FileSystemEntry, path: string): Promise<void> => {
    if (entry.isFile) {
      found.push({ path, file: await new Promise<File>((done, failed) => (entry as FileSystemFileEntry).file(done, failed)) });
      return;
    }
    const reader = (entry as FileSystemDirectoryEntry).createReader();
    for (;;) {
      const some = await new Promise<FileSystemEntry[]>((done, failed) => reader.readEntries(done, failed)); // a hundred at a time
      if (!some.length) return;
      for (const one of some) await walk(one, path ? `${path}/${one.name}` : one.name);
    }
  };
  const single = roots.length === 1 && roots[0]!.isDirectory;
  for (const root of roots) await walk(root, single ? "" : root.name);
  return found;
}

/** From a file chooser; a folder's own name is left away. */
export const chosen = (list: FileList): Entry[] => [...list].map((file) => ({ path: file.webkitRelativePath ? file.webkitRelativePath.split("/").slice(1).join("/") : file.name, file }));
