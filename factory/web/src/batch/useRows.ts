// The rows of a batch that is being prepared: each picture is sent and its masks are found, two at a time.

import { useCallback, useRef, useState } from "react";
import { api } from "../api";
import type { Picture } from "../types";
import { type Entry, pair, type Row } from "./pairing";

export interface Item extends Row {
  key: number;
  state: "reading" | "ready" | "failed";
  how: "file" | "alpha" | "border" | "hand" | "none";
  image: Picture | null;
  maskIds: string[]; // ids
  problem: unknown;
}
export const isReady = (item: Item) => item.state === "ready" && item.maskIds.length > 0;

export function useRows() {
  const [items, setItems] = useState<Item[] | null>(null);
  const queue = useRef<Item[]>([]);
  const running = useRef(0);
  const keys = useRef(0);

  const change = useCallback((key: number, change: Partial<Item>) => setItems((before) => before?.map((item) => (item.key === key ? { ...item, ...change } : item)) ?? null), []);
  const work = useCallback(async () => {
    if (running.current >= 2) return;
    running.current++;
    for (let item = queue.current.shift(); item; item = queue.current.shift()) {
      const { key } = item;
      try {
        const image = await api.addImage(item.picture.file);
        change(key, { image });
        if (item.ambiguous.length) change(key, { state: "ready" });
        else if (item.masks.length) {
          const masks: string[] = [];
          for (const mask of item.masks) masks.push((await api.addMask(image.id, mask.file)).id);
          change(key, { state: "ready", how: "file", maskIds: masks });
        } else {
          const found = await api.segment(image.id, { points: [], box: null, size: "auto" });
          change(key, { state: "ready", how: found[0] ? (found[0].method === "alpha" ? "alpha" : "border") : "none", maskIds: found.slice(0, 1).map((mask) => mask.id) });
        }
      } catch (problem) {
        change(key, { state: "failed", problem });
      }
    }
    running.current--;
  }, [change]);

  const add = useCallback(
    (entries: Entry[]) => {
      const fresh = pair(entries).map((row): Item => ({ ...row, key: keys.current++, state: "reading", how: "none", image: null, maskIds: [], problem: null }));
      setItems((before) => [...(before ?? []), ...fresh]);
      queue.current.push(...fresh);
      void work();
      void work();
      return fresh.length;
    },
    [work],
  );
  const remove = useCallback((key: number) => {
    queue.current = queue.current.filter((item) => item.key !== key);
    setItems((before) => before?.filter((item) => item.key !== key) ?? null);
  }, []);
  return { items, add, remove, change };
}
