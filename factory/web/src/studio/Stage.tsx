// The picture with its masks over it, and what the pointer and the keys do there.

import { type KeyboardEvent, type PointerEvent, useEffect, useRef, useState } from "react";
import { fullPicture, thumbnail } from "../api";
import { useText } from "../text";
import { Spinner } from "../ui/parts";
import type { Box } from "../types";
import { type Layer, layerOf, paint } from "./layers";
import { colourOf, currentOf, isMarked, type Stroke, type Thing } from "./things";
import type { DocState } from "./useDoc";

export type Tool = "add" | "remove" | "box" | "brush" | "erase";
const STILL = matchMedia("(prefers-reduced-motion: reduce)");

export function Stage({ state, tool, radius, onEscape }: { state: DocState; tool: Tool; radius: number; onEscape: () => void }) {
  const { say } = useText();
  const doc = state.doc!;
  const { picture } = doc;
  const frame = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const image = useRef<HTMLImageElement>(null);
  const [layers, setLayers] = useState<Map<Thing, Layer>>(new Map());
  const [line, setLine] = useState<Stroke | null>(null);
  const [box, setBox] = useState<Box | null>(null);
  const [away, setAway] = useState(false);
  const [round, setRound] = useState(0);
  const [loads, setLoads] = useState(0);
  const [cross, setCross] = useState<{ x: number; y: number; keys: boolean } | null>(null);
  const shown = state.pending ? { ...doc, things: doc.things.map((one) => (one.key === state.pending!.key ? { ...state.pending!, base: one.base } : one)) } : doc;

  useEffect(() => {
    let current = true;
    const marked = doc.things.filter(isMarked);
    void Promise.all(marked.map(async (thing) => [thing, await layerOf(picture, thing).catch(() => null)] as const)).then((found) => {
      if (current) setLayers(new Map(found.filter((one): one is readonly [Thing, Layer] => one[1] !== null)));
    });
    return () => {
      current = false;
    };
  }, [doc, picture]);

  const source = Math.max(picture.width, picture.height) > 2048 ? thumbnail(picture.id, 1024) : fullPicture(picture.id);
  /** A picture that the server has no more can't be worked on; one that didn't arrive is no reason to forget what was marked in it: it is asked for again. */
  const missing = () => {
    setAway(true);
    void fetch(source).then((answer) => answer.status === 404 && state.open(null), () => undefined);
    setTimeout(() => setRound((n) => n + 1), 2000);
  };
  const scale = Math.min(1, 1024 / Math.max(picture.width, picture.height));
  const width = Math.max(1, Math.round(picture.width * scale));
  const height = Math.max(1, Math.round(picture.height * scale));

  // The overlay: what belongs to no object is darker, the objects have a shade of their colour, the current one a moving edge.
  useEffect(() => {
    const pen = canvas.current?.getContext("2d");
    if (!pen) return;
    const shade = layers.size && image.current?.complete && image.current.naturalWidth ? shaded(image.current, [...layers.values()], width, height) : null;
    let shift = 0;
    const draw = () => {
      pen.clearRect(0, 0, width, height);
      if (shade) pen.drawImage(shade, 0, 0);
      for (const thing of doc.things) {
        const layer = layers.get(thing);
        const own = thing.key === doc.current;
        if (layer) pen.drawImage(tinted(layer, colourOf(doc, thing), own, shift), 0, 0, width, height);
      }
      if (line) {
        pen.save();
        pen.scale(width / picture.width, height / picture.height);
        pen.globalAlpha = 0.6;
        paint(pen, { ...line, erase: false }, line.erase ? "#ffffff" : colourOf(doc, currentOf(doc)));
        pen.restore();
      }
    };
    draw();
    if (STILL.matches || line || !layers.size) return;
    const clock = setInterval(() => {
      shift = (shift + 1) % 12;
      if (!document.hidden) draw();
    }, 120);
    return () => clearInterval(clock);
  }, [doc, layers, line, width, height, picture, loads]);

  const at = (event: { clientX: number; clientY: number }) => {
    const area = frame.current!.getBoundingClientRect();
    const inside = (value: number, size: number) => Math.min(size - 1, Math.max(0, Math.floor(value)));
    return {
      x: inside(((event.clientX - area.left) / area.width) * picture.width, picture.width),
      y: inside(((event.clientY - area.top) / area.height) * picture.height, picture.height),
    };
  };
  const reach = radius * Math.max(picture.width, picture.height);

  const down = (event: PointerEvent) => {
    if (event.button > 0 && event.button !== 2) return;
    const { x, y } = at(event);
    setCross(null);
    if (tool === "add" || tool === "remove") {
      state.mark({ x, y, label: tool === "remove" || event.shiftKey || event.altKey || event.button === 2 ? 0 : 1 });
      return;
    }
    frame.current!.setPointerCapture(event.pointerId);
    if (tool === "box") setBox([x, y, x, y]);
    else setLine({ erase: tool === "erase", radius: reach, path: [x, y] });
  };
  const moved = (event: PointerEvent) => {
    if (!box && !line) return;
    const { x, y } = at(event);
    if (box) setBox([box[0], box[1], x, y]);
    if (line) setLine({ ...line, path: [...line.path, x, y] });
  };
  const up = () => {
    if (box) {
      const [x0, x1] = [Math.min(box[0], box[2]), Math.max(box[0], box[2]) + 1];
      const [y0, y1] = [Math.min(box[1], box[3]), Math.max(box[1], box[3]) + 1];
      if (x1 - x0 > 4 && y1 - y0 > 4) state.frame([x0, y0, x1, y1]);
      setBox(null);
    }
    if (line) {
      state.stroke(line);
      setLine(null);
    }
  };
  const key = (event: KeyboardEvent) => {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (by) {
      event.preventDefault();
      const far = Math.max(1, Math.round(Math.max(picture.width, picture.height) * (event.shiftKey ? 0.05 : 0.012)));
      const from = cross ?? { x: Math.round(picture.width / 2), y: Math.round(picture.height / 2) };
      setCross({ x: Math.min(picture.width - 1, Math.max(0, from.x + by[0]! * far)), y: Math.min(picture.height - 1, Math.max(0, from.y + by[1]! * far)), keys: true });
    } else if ((event.key === "Enter" || event.key === " ") && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      const where = cross ?? { x: Math.round(picture.width / 2), y: Math.round(picture.height / 2) };
      setCross({ ...where, keys: true });
      if (tool === "brush" || tool === "erase") state.stroke({ erase: tool === "erase", radius: reach, path: [where.x, where.y] });
      else state.mark({ x: where.x, y: where.y, label: tool === "remove" || event.shiftKey ? 0 : 1 });
    } else if (event.key === "Escape") {
      setBox(null);
      setLine(null);
      setCross(null);
      state.stop();
      onEscape();
    }
  };

  const part = (value: number, whole: number) => `${(value / whole) * 100}%`;
  const drawnBox = box ?? currentOf(shown).box;
  return (
    <div className="checker flex h-full items-center justify-center overflow-hidden rounded-xl [container-type:size]">
      <div
        ref={frame}
        role="application"
        tabIndex={0}
        aria-label={say("picture.stage")}
        aria-busy={state.pending !== null}
        data-testid="stage"
        className="relative select-none"
        style={{ aspectRatio: `${picture.width} / ${picture.height}`, width: `min(100cqw, ${(100 * picture.width) / picture.height}cqh)`, cursor: tool === "add" ? "copy" : "crosshair", touchAction: tool === "add" || tool === "remove" ? "manipulation" : "none" }}
        onPointerDown={down}
        onPointerMove={moved}
        onPointerUp={up}
        onPointerCancel={() => (setBox(null), setLine(null))}
        onContextMenu={(event) => event.preventDefault()}
        onKeyDown={key}
        onBlur={() => setCross(null)}
      >
        <img key={round} ref={image} src={source} alt="" draggable={false} className={`block size-full ${away ? "opacity-0" : ""}`} onError={missing} onLoad={() => (setAway(false), setLoads((n) => n + 1))} />
        <canvas ref={canvas} width={width} height={height} className="pointer-events-none absolute inset-0 size-full" />
        {drawnBox && (
          <div
            className="pointer-events-none absolute rounded-sm border-2 border-white shadow-[0_0_0_1px_rgb(0_0_0/0.5)]"
            style={{ left: part(Math.min(drawnBox[0], drawnBox[2]), picture.width), top: part(Math.min(drawnBox[1], drawnBox[3]), picture.height), width: part(Math.abs(drawnBox[2] - drawnBox[0]), picture.width), height: part(Math.abs(drawnBox[3] - drawnBox[1]), picture.height) }}
          />
        )}
        {currentOf(shown).points.map((point, number) => (
          <span
            key={number}
            className="pointer-events-none absolute flex size-4 -translate-1/2 items-center justify-center rounded-full border-2 border-white text-[11px] leading-none font-bold text-white shadow-[0_0_0_1px_rgb(0_0_0/0.4)]"
            style={{ left: part(point.x + 0.5, picture.width), top: part(point.y + 0.5, picture.height), background: point.label ? colourOf(shown, currentOf(shown)) : "#b42318" }}
          >
            {point.label ? "+" : "−"}
          </span>
        ))}
        {cross && (
          <span data-testid="cross" className="pointer-events-none absolute size-7 -translate-1/2 rounded-full border-2 border-white shadow-[0_0_0_1.5px_rgb(0_0_0/0.7)]" style={{ left: part(cross.x + 0.5, picture.width), top: part(cross.y + 0.5, picture.height) }} />
        )}
        {state.pending && (
          <span className="absolute top-2 right-2 rounded-full bg-card p-1.5 text-accent shadow">
            <Spinner className="size-4" />
          </span>
        )}
      </div>
    </div>
  );
}

/** What of the picture belongs to no object, as a shadow over it. Where it is transparent there is nothing to be darkened. */
function shaded(image: HTMLImageElement, layers: Layer[], width: number, height: number): OffscreenCanvas {
  const made = new OffscreenCanvas(width, height);
  const pen = made.getContext("2d")!;
  pen.drawImage(image, 0, 0, width, height);
  pen.globalCompositeOperation = "source-in";
  pen.fillStyle = "rgb(12 12 11 / 0.45)";
  pen.fillRect(0, 0, width, height);
  pen.globalCompositeOperation = "destination-out";
  for (const layer of layers) pen.drawImage(layer.mask, 0, 0, width, height);
  return made;
}

const scratch = { fill: new OffscreenCanvas(1, 1), edge: new OffscreenCanvas(1, 1) };

/** The mask in its colour, and its edge: dashed and moving for the current object, plain for the others. */
function tinted(layer: Layer, colour: string, current: boolean, shift: number): OffscreenCanvas {
  const { width, height } = layer.mask;
  for (const one of [scratch.fill, scratch.edge]) {
    one.width = width;
    one.height = height;
  }
  const pen = scratch.fill.getContext("2d")!;
  pen.drawImage(layer.mask, 0, 0);
  pen.globalCompositeOperation = "source-in";
  pen.fillStyle = colour;
  pen.globalAlpha = 0.1;
  pen.fillRect(0, 0, width, height);
  const rim = scratch.edge.getContext("2d")!;
  rim.drawImage(layer.edge, 0, 0);
  rim.globalCompositeOperation = "source-in";
  rim.fillStyle = current ? "#ffffff" : colour;
  rim.fillRect(0, 0, width, height);
  if (current) {
    rim.globalCompositeOperation = "source-atop";
    rim.fillStyle = colour;
    const dash = Math.max(6, Math.max(width, height) / 85);
    rim.beginPath();
    for (let at = -height - 2 * dash + (shift / 12) * 2 * dash; at < width + height; at += 2 * dash) {
      rim.moveTo(at, 0);
      rim.lineTo(at + dash, 0);
      rim.lineTo(at + dash + height, height);
      rim.lineTo(at + height, height);
    }
    rim.fill();
  }
  pen.globalCompositeOperation = "source-over";
  pen.globalAlpha = 1;
  pen.drawImage(scratch.edge, 0, 0);
  return scratch.fill;
}


