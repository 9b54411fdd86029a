// Masks as canvases: the server's mask, the strokes over it, its edge. A thing never changes, so a layer is made once.

import { maskPicture } from "../api";
import type { Picture } from "../types";
import { type Doc, isMarked, type Stroke, type Thing } from "./things";

export interface Layer {
  mask: OffscreenCanvas; // white where the object is
  edge: OffscreenCanvas;
  share: number; // of the picture
}

export const SIDE = 1024; // pixels of the longer side of a layer on the screen
const bases = new Map<string, Promise<ImageBitmap>>();
const layers = new WeakMap<Thing, Promise<Layer>>();

export function layerOf(picture: Picture, thing: Thing): Promise<Layer> {
  let layer = layers.get(thing);
  if (!layer) layers.set(thing, (layer = make(picture, thing)));
  return layer;
}

async function make(picture: Picture, thing: Thing): Promise<Layer> {
  const scale = Math.min(1, SIDE / Math.max(picture.width, picture.height));
  const mask = await drawn(picture, thing, scale);
  const { width, height } = mask;
  const edge = new OffscreenCanvas(width, height);
  const pen = edge.getContext("2d")!;
  const reach = Math.max(1, Math.max(width, height) / 400);
  for (let turn = 0; turn < 8; turn++) pen.drawImage(mask, reach * Math.cos((turn * Math.PI) / 4), reach * Math.sin((turn * Math.PI) / 4));
  pen.globalCompositeOperation = "destination-out";
  pen.drawImage(mask, 0, 0);
  const values = mask.getContext("2d")!.getImageData(0, 0, width, height).data;
  let count = 0;
  for (let at = 3; at < values.length; at += 4) if (values[at]! >= 128) count++;
  return { mask, edge, share: count / (width * height) };
}

async function drawn(picture: Picture, thing: Thing, scale: number): Promise<OffscreenCanvas> {
  const canvas = new OffscreenCanvas(Math.max(1, Math.round(picture.width * scale)), Math.max(1, Math.round(picture.height * scale)));
  const pen = canvas.getContext("2d", { willReadFrequently: true })!;
  if (thing.base) {
    pen.drawImage(await baseOf(thing.base), 0, 0, canvas.width, canvas.height);
    const pixels = pen.getImageData(0, 0, canvas.width, canvas.height); // grey to opacity
    const values = pixels.data;
    for (let at = 0; at < values.length; at += 4) {
      values[at + 3] = values[at]!;
      values[at] = values[at + 1] = values[at + 2] = 255;
    }
    pen.putImageData(pixels, 0, 0);
  }
  pen.scale(canvas.width / picture.width, canvas.height / picture.height);
  for (const stroke of thing.strokes) paint(pen, stroke, "#fff");
  return canvas;
}

function baseOf(id: string): Promise<ImageBitmap> {
  let base = bases.get(id);
  if (!base) {
    base = fetch(maskPicture(id)).then(async (answer) => {
      if (!answer.ok) throw new Error(`mask: ${answer.status}`);
      return createImageBitmap(await answer.blob());
    });
    base.catch(() => bases.delete(id));
    bases.set(id, base);
    if (bases.size > 24) bases.delete(bases.keys().next().value!);
  }
  return base;
}

export function paint(pen: CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D, stroke: Stroke, colour: string): void {
  pen.save();
  pen.globalCompositeOperation = stroke.erase ? "destination-out" : "source-over";
  pen.strokeStyle = colour;
  pen.lineWidth = stroke.radius * 2;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(stroke.path[0]!, stroke.path[1]!);
  if (stroke.path.length === 2) pen.lineTo(stroke.path[0]! + 0.01, stroke.path[1]!);
  for (let at = 2; at < stroke.path.length; at += 2) pen.lineTo(stroke.path[at]!, stroke.path[at + 1]!);
  pen.stroke();
  pen.restore();
}

/** The mask at the picture's own size, as a PNG whose opacity is the mask: what is sent where strokes were painted. */
export async function maskFile(picture: Picture, thing: Thing): Promise<Blob> {
  return (await drawn(picture, thing, 1)).convertToBlob({ type: "image/png" });
}

export const LEAST = 0.001; // share of the picture below which a mask counts as a slip

/** The things that can be made. */
export async function ready(doc: Doc): Promise<Thing[]> {
  const marked = doc.things.filter((thing) => thing.taken && isMarked(thing));
  const shares = await Promise.all(marked.map((thing) => layerOf(doc.picture, thing).then((layer) => layer.share, () => 0)));
  return marked.filter((_, at) => shares[at]! >= LEAST);
}
