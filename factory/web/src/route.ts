// Where in the page we are, from the address's hash: it survives a reload, and Back works.

import { useSyncExternalStore } from "react";

export type Route = { page: "create"; id: string | null } | { page: "batch"; id: string | null };

function read(): string {
  return location.hash;
}
function listen(changed: () => void): () => void {
  addEventListener("hashchange", changed);
  return () => removeEventListener("hashchange", changed);
}
export function useRoute(): Route {
  const hash = useSyncExternalStore(listen, read);
  const [, first, id] = hash.split("/");
  const given = id && /^[0-9A-Z]{26}$/.test(id) ? id : null;
  return first === "batch" ? { page: "batch", id: given } : { page: "create", id: first === "jobs" ? given : null };
}
export const go = (hash: string) => {
  if (location.hash !== hash) location.hash = hash;
};
