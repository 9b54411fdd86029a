// Calls of /api/v1. Every failure is an ApiError with the server's own words.

import type { Batch, Box, Health, Info, Job, Mask, Params, Picture, Point, Problem, Size } from "./types";

export const V1 = "/api/v1";

export class ApiError extends Error implements Problem {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly hint: string,
  ) {
    super(message);
  }
}

export const needToken = new EventTarget();

export async function call<T>(path: string, init: RequestInit = {}): Promise<T> {
  let answer: Response;
  try {
    answer = await fetch(path.startsWith("/") ? path : `${V1}/${path}`, { credentials: "same-origin", ...init });
  } catch (problem) {
    if (init.signal?.aborted) throw problem;
    throw new ApiError(0, "E_OFFLINE", "The server doesn't answer.", "");
  }
  if (answer.ok) return (answer.status === 204 ? null : await answer.json()) as T;
  const told = (await answer.json().catch(() => null)) as { error?: Problem } | null;
  if (answer.status === 401) needToken.dispatchEvent(new Event("need"));
  throw new ApiError(answer.status, told?.error?.code ?? "E_SERVICE", told?.error?.message ?? `Status ${answer.status}.`, told?.error?.hint ?? "");
}

function post<T>(path: string, body: unknown, init: RequestInit = {}): Promise<T> {
  return call<T>(path, { method: "POST", body: JSON.stringify(body), ...init, headers: { "Content-Type": "application/json", ...init.headers } });
}

function upload<T>(path: string, file: Blob, fields: Record<string, string> = {}): Promise<T> {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.set(name, value);
  form.set("file", file, "picture.png");
  return again(() => call<T>(path, { method: "POST", body: form }));
}

/** A busy server (429) is asked again, a few times. */
async function again<T>(ask: () => Promise<T>): Promise<T> {
  for (let wait = 400; ; wait *= 2) {
    try {
      return await ask();
    } catch (problem) {
      if (!(problem instanceof ApiError) || problem.status !== 429 || wait > 7000) throw problem;
      await new Promise((done) => setTimeout(done, wait));
    }
  }
}

export interface JobIn {
  image_id: string;
  mask_ids: string[];
  names: string[];
  name: string;
  params: Params;
}
export interface Asked {
  points: Point[];
  box: Box | null;
  size: Size;
  engine?: string;
  session?: string;
}

export const api = {
  info: () => call<Info>("info"),
  health: async (): Promise<Health> => {
    const found = (await (await fetch(`${V1}/readyz`)).json()) as Partial<Health>;
    if (!found.status) throw new Error("no state"); // refused before it was asked: too many connections, say
    return found as Health;
  },
  login: (token: string) => post<null>("session", { token }),
  addImage: (file: Blob) => upload<Picture>("images", file),
  addMask: (image: string, file: Blob) => upload<Mask>("masks", file, { image_id: image }),
  segment: (image: string, asked: Asked, signal?: AbortSignal) =>
    again(() => post<{ masks: Mask[] }>(`images/${image}/segment`, asked, { signal })).then((found) => found.masks),
  addJob: (job: JobIn) => post<Job>("jobs", job),
  job: (id: string) => call<Job>(`jobs/${id}`),
  jobs: (cursor?: string | null) => call<{ jobs: Job[]; next: string | null }>(`jobs?limit=24${cursor ? `&cursor=${cursor}` : ""}`),
  cancel: (id: string) => call<Job>(`jobs/${id}/cancel`, { method: "POST" }),
  retry: (id: string) => call<Job>(`jobs/${id}/retry`, { method: "POST" }),
  forget: (id: string) => call<null>(`jobs/${id}`, { method: "DELETE" }),
  addBatch: (name: string, items: JobIn[], params: Params) => post<Batch>("batches", { name, items, params }),
  batch: (id: string) => call<Batch>(`batches/${id}`),
  batches: () => call<{ batches: Omit<Batch, "jobs" | "links">[] }>("batches?limit=10"),
  cancelBatch: (id: string) => call<Batch>(`batches/${id}/cancel`, { method: "POST" }),
};

/** Tells of every change of a job, or of all jobs. The browser reconnects by itself; meanwhile, and where events can't pass, a slow clock asks. A tab that
 * nobody sees listens to nothing: a browser has six connections to a server for all its tabs, and each stream takes one. */
export function watch(job: string | null, changed: (kind: string, data: Record<string, unknown>) => void): () => void {
  let source: EventSource | null = null;
  const look = () => {
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (!source) {
      source = new EventSource(job ? `${V1}/jobs/${job}/events` : `${V1}/events`);
      for (const kind of ["status", "progress", "preview", "output", "done"])
        source.addEventListener(kind, (event) => changed(kind, JSON.parse((event as MessageEvent<string>).data) as Record<string, unknown>));
    }
  };
  const seen = () => {
    look();
    if (source) changed("poll", {}); // what has happened meanwhile
  };
  look();
  document.addEventListener("visibilitychange", seen);
  const clock = setInterval(() => source && source.readyState !== EventSource.OPEN && changed("poll", {}), 3000);
  return () => {
    document.removeEventListener("visibilitychange", seen);
    clearInterval(clock);
    source?.close();
  };
}

export const thumbnail = (image: string, width: 128 | 256 | 512 | 1024) => `${V1}/images/${image}?w=${width}`;
export const fullPicture = (image: string) => `${V1}/images/${image}`;
/** The last picture that a running job sent; number: so that a new one is asked for. */
export const previewPicture = (job: string, number: number) => `${V1}/jobs/${job}/preview?${number}`;
export const maskPicture = (mask: string) => `${V1}/masks/${mask}`;
