// What the browser keeps between visits. A browser that keeps nothing is fine.
//
// The work at hand (picture, marks, options) is each tab's own: it survives a reload whatever other tabs do, and a new tab begins with what was kept last
// in any. Language and colours are one choice for all tabs, and tabs that are open follow.

import { useEffect, useState } from "react";

type Whose = "tab" | "browser";
const full = (name: string) => `sam3d.${name}`;

export function remembered<T>(name: string, otherwise: T, whose: Whose = "tab"): T {
  try {
    const own = whose === "tab" ? sessionStorage.getItem(full(name)) : null;
    return (JSON.parse(own ?? localStorage.getItem(full(name)) ?? "null") as T | null) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function remember(name: string, value: unknown, whose: Whose = "tab"): void {
  const text = JSON.stringify(value);
  try {
    if (whose === "tab") sessionStorage.setItem(full(name), text); // also null: this tab has nothing, whatever others keep
    if (value === null) localStorage.removeItem(full(name));
    else localStorage.setItem(full(name), text);
  } catch {
    // full, or switched off
  }
}

/** A choice for all tabs: what one of them sets, the others show. */
export function useShared<T>(name: string, otherwise: T): [T, (next: T) => void] {
  const [value, set] = useState<T>(() => remembered(name, otherwise, "browser"));
  useEffect(() => {
    const changed = (event: StorageEvent) => (event.key === full(name) || event.key === null) && set(remembered(name, otherwise, "browser"));
    addEventListener("storage", changed);
    return () => removeEventListener("storage", changed);
  }, [name]); // eslint-disable-line
  const change = (next: T) => {
    remember(name, next, "browser");
    set(next);
  };
  return [value, change];
}
