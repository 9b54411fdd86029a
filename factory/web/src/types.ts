// The answers of /api/v1 that the page reads; docs/openapi.json has them whole.

export type Status = "queued" | "starting" | "running" | "succeeded" | "failed" | "canceled";
export type Size = "auto" | "s" | "m" | "l";
export type Box = [number, number, number, number];

export interface Point {
  x: number;
  y: number;
  label: 0 | 1;
}
export interface Problem {
  code: string;
  message: string;
  hint: string;
}
export interface Picture {
  id: string;
  width: number;
  height: number;
  has_alpha: boolean;
  url: string;
}
export interface Mask {
  id: string;
  image_id: string;
  area: number;
  bounds: Box;
  url: string;
  method?: string;
}
export interface ResultFile {
  name: string;
  bytes: number;
  sha256: string;
  url: string;
}
export type Params = Record<string, unknown>;
export interface Job {
  id: string;
  kind: string;
  status: Status;
  name: string;
  image_id: string | null;
  mask_ids: string[];
  names: string[];
  params: Params;
  queue_position: number | null;
  stage: string | null;
  progress: number;
  eta_s: number | null;
  cached: boolean;
  batch_id: string | null;
  created_at: string;
  seconds: number | null;
  outputs: ResultFile[];
  result: { engine?: string; seed?: number; warnings?: string[]; seconds?: number } | null;
  error: Problem | null;
  links: Record<string, string>;
}
export interface Batch {
  id: string;
  name: string;
  created_at: string;
  counts: Record<string, number>;
  done: boolean;
  jobs: Job[];
  links: Record<string, string>;
}
export interface Health {
  status: "starting" | "ready" | "busy" | "failed";
  queue?: number | null; // this and the workers: for those who may know
  workers?: { name: string; state: string; error: Problem | null }[];
}
export interface Info {
  version: string;
  engines: string[];
  formats: Record<string, string>;
  limits: Record<string, number | null>;
  segmenters: Record<string, string>;
}

export const OVER: readonly Status[] = ["succeeded", "failed", "canceled"];
export const isOver = (job: Job) => OVER.includes(job.status);
