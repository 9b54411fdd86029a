// What the browser keeps between visits. A browser that keeps nothing is fine.

export function remembered<T>(name: string, otherwise: T): T {
  try {
    const text = localStorage.getItem(`sam3d.${name}`);
    return text === null ? otherwise : (JSON.parse(text) as T);
  } catch {
    return otherwise;
  }
}

export function remember(name: string, value: unknown): void {
  try {
    if (value === null) localStorage.removeItem(`sam3d.${name}`);
    else localStorage.setItem(`sam3d.${name}`, JSON.stringify(value));
  } catch {
    // full, or switched off
  }
}
