import { useEffect, useState } from "react";
import { api, ApiError, watch } from "../api";
import { isOver, type Job, type Status } from "../types";

/** A job and what happens to it, until it has ended. `gone`: there is no such job. `preview`: how many pictures of its work it has sent. */
export function useJob(id: string | null): { job: Job | null; gone: boolean; preview: number } {
  const [job, setJob] = useState<Job | null>(null);
  const [gone, setGone] = useState(false);
  const [preview, setPreview] = useState(0);
  useEffect(() => {
    setGone(false);
    setPreview(0);
    if (!id) {
      setJob(null);
      return;
    }
    let current = true;
    let stop: (() => void) | null = null;
    const load = async () => {
      try {
        const found = await api.job(id);
        if (!current) return;
        setJob(found);
        if (isOver(found)) stop?.();
        return found;
      } catch (problem) {
        if (current && problem instanceof ApiError && (problem.status === 404 || problem.status === 422)) {
          current = false;
          setGone(true);
        }
      }
    };
    let later = 0;
    const begin = async () => {
      const found = await load();
      if (!current || (found && isOver(found))) return;
      if (!found) {
        later = window.setTimeout(() => void begin(), 2000); // the line, or the server, is away
        return;
      }
      stop = watch(id, (kind, data) => {
        if (kind === "progress") setJob((job) => job && { ...job, status: job.status === "queued" ? "running" : job.status, stage: data.stage as string, progress: Math.max(job.progress, data.progress as number), eta_s: data.eta_s as number | null });
        else if (kind === "preview") setPreview((n) => n + 1);
        else if (kind === "status" && data.status === "running") setJob((job) => job && { ...job, status: data.status as Status });
        else if (kind !== "output") void load();
      });
    };
    void begin();
    // Where it stands in the queue changes without an event of its own.
    const clock = setInterval(() => setJob((job) => (job?.status === "queued" && void load(), job)), 1000);
    return () => {
      current = false;
      clearInterval(clock);
      clearTimeout(later);
      stop?.();
    };
  }, [id]);
  return { job: job?.id === id ? job : null, gone, preview };
}
