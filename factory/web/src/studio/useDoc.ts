// The document with its past, and the conversation with the segmenter: of several clicks in a row the last one's answer counts.

import { useCallback, useEffect, useRef, useState } from "react";
import { api, ApiError } from "../api";
import { remember, remembered } from "../ui/memory";
import type { Box, Point, Size } from "../types";
import { amend, asked, back, currentOf, type Doc, forth, type Past, replaced, step, type Stroke, type Thing } from "./things";

const EMPTY: Past = { past: [], now: null, future: [] };
export const session = Math.random().toString(36).slice(2);

export function useDoc(kept?: string) {
  const [history, setHistory] = useState<Past>(() => ({ ...EMPTY, now: kept ? remembered<Doc | null>(kept, null) : null }));
  const [pending, setPending] = useState<Thing | null>(null); // as it will be when the segmenter has answered
  const [nothing, setNothing] = useState(false);
  const [problem, setProblem] = useState<unknown>(null);
  const flight = useRef<AbortController | null>(null);
  const latest = useRef<{ history: Past; pending: Thing | null }>({ history, pending });
  latest.current = { history, pending };
  const doc = history.now;

  useEffect(() => {
    if (kept) remember(kept, doc);
  }, [kept, doc]);

  const stop = useCallback(() => {
    flight.current?.abort();
    flight.current = null;
    setPending(null);
  }, []);

  const open = useCallback(
    (next: Doc | null) => {
      stop();
      setNothing(false);
      setProblem(null);
      setHistory({ ...EMPTY, now: next });
    },
    [stop],
  );
  const change = useCallback((next: Doc) => setHistory((h) => step(h, next)), []);
  const touch = useCallback((next: Doc) => setHistory((h) => amend(h, next)), []);

  /** Ask for the mask of `thing`. quiet: as part of opening a picture, no step of its own, and no word where nothing is found. */
  const ask = useCallback(
    async (doc: Doc, thing: Thing, quiet = false) => {
      flight.current?.abort();
      const mine = (flight.current = new AbortController());
      setPending(thing);
      setNothing(false);
      setProblem(null);
      try {
        const engine = quiet ? undefined : remembered<string | undefined>("segmenter", undefined); // what the picture itself shows needs no other
        const found = await api.segment(doc.picture.id, { ...asked(thing), engine, session }, mine.signal);
        if (flight.current !== mine) return;
        const best = found[0];
        setPending(null);
        if (!best) {
          setNothing(!quiet);
          return;
        }
        const now = latest.current.history.now;
        if (!now || now.picture.id !== doc.picture.id) return;
        const next = replaced(now, { ...thing, base: best.id, method: best.method ?? null });
        setHistory((h) => (quiet ? amend(h, next) : step(h, next)));
      } catch (problem) {
        if (flight.current !== mine || mine.signal.aborted) return;
        setPending(null);
        if (!(problem instanceof ApiError && problem.status === 409) && !quiet) setProblem(problem);
      }
    },
    [],
  );

  const here = (): Thing | null => latest.current.pending ?? (latest.current.history.now && currentOf(latest.current.history.now));
  const mark = useCallback(
    (point: Point) => {
      const now = latest.current.history.now;
      const thing = here();
      if (!now || !thing) return;
      const next = { ...thing, points: [...thing.points, point] };
      latest.current.pending = next; // the next click may come before this one is drawn
      void ask(now, next);
    },
    [ask],
  );
  const frame = useCallback(
    (box: Box) => {
      const now = latest.current.history.now;
      const thing = here();
      if (now && thing) void ask(now, { ...thing, box, points: [] });
    },
    [ask],
  );
  const resize = useCallback(
    (size: Size) => {
      const now = latest.current.history.now;
      const thing = here();
      if (!now || !thing) return;
      const next = { ...thing, size };
      if (next.points.length && !next.box) void ask(now, next);
      else setHistory((h) => amend(h, replaced(now, next)));
    },
    [ask],
  );
  const stroke = useCallback((line: Stroke) => {
    setNothing(false);
    setHistory((h) => (h.now ? step(h, replaced(h.now, { ...currentOf(h.now), strokes: [...currentOf(h.now).strokes, line] })) : h));
  }, []);
  const undo = useCallback(() => {
    if (latest.current.pending) stop();
    else setHistory(back);
    setNothing(false);
  }, [stop]);
  const redo = useCallback(() => setHistory(forth), []);

  return { doc, pending, nothing, problem, setProblem, canUndo: history.past.length > 0 || pending !== null, canRedo: history.future.length > 0, open, change, touch, ask, mark, frame, resize, stroke, undo, redo, stop };
}

export type DocState = ReturnType<typeof useDoc>;
