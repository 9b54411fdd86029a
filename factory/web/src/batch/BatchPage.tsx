import type { Info } from "../types";
export function BatchPage(_: { id: string | null; info: Info | null }) {
  return null;
}
