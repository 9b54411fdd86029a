// The keys of the picture's tools, wherever the focus is; and what the line below the picture says.

import { useEffect, useRef } from "react";
import type { Say } from "../text";
import type { Tool } from "./Stage";
import { currentOf } from "./things";
import { RADII } from "./Tools";
import type { DocState } from "./useDoc";

const KEYS: Record<string, Tool> = { p: "add", n: "remove", b: "box", d: "brush", e: "erase" };

interface Hands {
  state: DocState;
  setTool: (tool: Tool) => void;
  radius: number;
  setRadius: (radius: number) => void;
  send: (() => void) | null; // Ctrl+Enter; null: nothing to send
  modal?: boolean; // they stand in the open dialog, not behind it
}

export function useKeys(hands: Hands): void {
  const latest = useRef(hands);
  latest.current = hands;
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      const { state, setTool, radius, setRadius, send, modal = false } = latest.current;
      if ((document.querySelector("dialog[open]") !== null) !== modal) return;
      const typing = (event.target as HTMLElement).matches("input:not([type=checkbox]):not([type=range]), textarea, select");
      const command = event.ctrlKey || event.metaKey;
      const key = event.key.toLowerCase();
      if (command && key === "enter" && send) send();
      else if (typing || !state.doc) return;
      else if (command && key === "z") (event.shiftKey ? state.redo : state.undo)();
      else if (command && key === "y") state.redo();
      else if (!command && !event.altKey && KEYS[key]) setTool(KEYS[key]);
      else if (key === "[" || key === "]") setRadius(RADII[Math.min(RADII.length - 1, Math.max(0, RADII.indexOf(radius as (typeof RADII)[number]) + (key === "]" ? 1 : -1)))]!);
      else return;
      event.preventDefault();
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }, []);
}

export function hintOf(state: DocState, say: Say): string {
  if (!state.doc) return "";
  if (state.nothing) return say("hint.nothing");
  const thing = currentOf(state.doc);
  if (!thing.base && !thing.strokes.length) return say("hint.click");
  if (!thing.points.length && (thing.method === "alpha" || thing.method === "border")) return say("hint.auto");
  return say(matchMedia("(pointer: coarse)").matches ? "hint.moreTouch" : "hint.more");
}
