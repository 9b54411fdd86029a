// What is being marked in a picture: a document of plain values, so that undo is a list of documents and a reload finds it again.

import type { Asked } from "../api";
import type { Box, Picture, Point, Size } from "../types";

export interface Stroke {
  erase: boolean;
  radius: number; // pixels of the picture
  path: number[]; // x0, y0, x1, y1, ...
}

/** An object: clicks and a box give `base`, a mask of the server's; strokes are painted over it. */
export interface Thing {
  key: number;
  name: string;
  points: Point[];
  box: Box | null;
  size: Size;
  base: string | null;
  method: string | null;
  strokes: Stroke[];
  taken: boolean; // is part of what Generate makes
}
export interface Doc {
  picture: Picture;
  title: string; // the file's name without its ending
  things: Thing[];
  current: number; // a key
}

/** The colours of objects, by their order: apart from each other also for people who confuse red and green. */
export const COLOURS = ["#12b5a6", "#f59e0b", "#6366f1", "#ec4899", "#84cc16", "#0ea5e9", "#f97316", "#a855f7"] as const;
export const colourOf = (doc: Doc, thing: Thing) => COLOURS[Math.max(0, doc.things.indexOf(thing)) % COLOURS.length]!;

export function newThing(key: number, name: string): Thing {
  return { key, name, points: [], box: null, size: "auto", base: null, method: null, strokes: [], taken: true };
}

export function newDoc(picture: Picture, title: string, name: (number: number) => string): Doc {
  return { picture, title, things: [newThing(1, name(1))], current: 1 };
}

export const currentOf = (doc: Doc): Thing => doc.things.find((thing) => thing.key === doc.current) ?? doc.things[0]!;
export const isMarked = (thing: Thing) => thing.base !== null || thing.strokes.some((stroke) => !stroke.erase);
export const replaced = (doc: Doc, thing: Thing): Doc => ({ ...doc, things: doc.things.map((one) => (one.key === thing.key ? thing : one)) });

export function added(doc: Doc, name: (number: number) => string): Doc {
  const key = 1 + Math.max(0, ...doc.things.map((thing) => thing.key));
  return { ...doc, things: [...doc.things, newThing(key, name(doc.things.length + 1))], current: key };
}

export function removed(doc: Doc, key: number, name: (number: number) => string): Doc {
  const things = doc.things.filter((thing) => thing.key !== key);
  if (!things.length) return { ...doc, things: [newThing(key + 1, name(1))], current: key + 1 };
  return { ...doc, things, current: doc.current === key ? things[things.length - 1]!.key : doc.current };
}

export const asked = (thing: Thing): Asked => ({ points: thing.points, box: thing.box, size: thing.size });

export interface Past {
  past: Doc[];
  now: Doc | null;
  future: Doc[];
}
const DEEP = 100;
export const step = (h: Past, now: Doc): Past => (h.now ? { past: [...h.past, h.now].slice(-DEEP), now, future: [] } : { past: [], now, future: [] });
export const amend = (h: Past, now: Doc): Past => ({ ...h, now });
export function back(h: Past): Past {
  const before = h.past[h.past.length - 1];
  return before && h.now ? { past: h.past.slice(0, -1), now: before, future: [h.now, ...h.future] } : h;
}
export function forth(h: Past): Past {
  const next = h.future[0];
  return next && h.now ? { past: [...h.past, h.now], now: next, future: h.future.slice(1) } : h;
}
