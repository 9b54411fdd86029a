// Fewer splats for small devices: every k-th of a binary PLY, each as much larger as keeps the surface closed.

const SIZES: Record<string, number> = { char: 1, uchar: 1, int8: 1, uint8: 1, short: 2, ushort: 2, int16: 2, uint16: 2, int: 4, uint: 4, int32: 4, uint32: 4, float: 4, float32: 4, double: 8, float64: 8 };

export interface Thinned {
  bytes: ArrayBuffer;
  shown: number;
  all: number;
}

/** bytes: a binary little-endian PLY of Gaussians, scales as logarithms in float32 (scale_0, scale_1, ...). Anything else, and what has no more than `most`,
 * comes back as it is (all: 0 where it couldn't be read). The file's order is kept: neighbours stand together in it, so every part loses the same share. */
export function thinned(bytes: ArrayBuffer, most: number): Thinned {
  const head = new TextDecoder("latin1").decode(new Uint8Array(bytes, 0, Math.min(bytes.byteLength, 16_384)));
  const end = head.indexOf("end_header\n");
  const lines = head.slice(0, Math.max(0, end)).split("\n");
  const element = lines.filter((line) => line.startsWith("element "));
  const all = Number(/^element vertex (\d+)$/.exec(element[0] ?? "")?.[1] ?? 0);
  if (end < 0 || element.length !== 1 || !lines.includes("format binary_little_endian 1.0")) return { bytes, shown: all, all: 0 };
  let size = 0;
  const scales: number[] = [];
  for (const line of lines) {
    const [word, type, name] = line.split(" ");
    if (word !== "property") continue;
    if (/^scale_\d$/.test(name ?? "") && SIZES[type!] === 4) scales.push(size);
    size += SIZES[type!] ?? NaN;
  }
  const start = end + "end_header\n".length;
  if (!(bytes.byteLength >= start + all * size)) return { bytes, shown: all, all: 0 };
  if (all <= most) return { bytes, shown: all, all };
  const shown = Math.max(1, Math.floor(most));
  const text = new TextEncoder().encode(head.slice(0, start).replace(/^element vertex \d+$/m, `element vertex ${shown}`));
  const made = new Uint8Array(text.length + shown * size);
  made.set(text);
  const from = new Uint8Array(bytes, start);
  const view = new DataView(made.buffer);
  const larger = Math.log(all / shown) / 2; // a surface: its area is shared by fewer
  for (let at = 0; at < shown; at++) {
    const source = Math.floor(((at + 0.5) * all) / shown) * size;
    const target = text.length + at * size;
    made.set(from.subarray(source, source + size), target);
    for (const offset of scales) view.setFloat32(target + offset, view.getFloat32(target + offset, true) + larger, true);
  }
  return { bytes: made.buffer, shown, all };
}
