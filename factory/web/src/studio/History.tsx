// What was made, newest first, as the server remembers it.

import { useCallback, useEffect, useRef, useState } from "react";
import { api, ApiError, thumbnail, watch } from "../api";
import { useText } from "../text";
import { isOver, type Job } from "../types";
import { Icon } from "../ui/icons";
import { ErrorNote, Progress } from "../ui/parts";

export function History({ current, onOpen, onForgotten }: { current: string | null; onOpen: (job: Job) => void; onForgotten: (job: Job) => void }) {
  const { say, locale } = useText();
  const [jobs, setJobs] = useState<Job[] | null>(null);
  const [next, setNext] = useState<string | null>(null);
  const [problem, setProblem] = useState<unknown>(null);
  const timer = useRef(0);
  const paged = useRef(false); // further pages were asked for: `next` is theirs
  const load = useCallback(async () => {
    try {
      const found = await api.jobs();
      setJobs((before) => [...found.jobs, ...(before ?? []).filter((job) => job.id < (found.jobs[found.jobs.length - 1]?.id ?? "~"))].filter((job) => job.kind === "reconstruct"));
      if (!paged.current) setNext(found.next);
      setProblem(null);
    } catch (problem) {
      setProblem(problem);
    }
  }, []);
  useEffect(() => {
    void load();
    const stop = watch(null, (kind) => {
      if (kind === "progress" || kind === "preview") return;
      clearTimeout(timer.current);
      timer.current = window.setTimeout(() => void load(), 250); // a batch tells many things at once
    });
    return () => {
      clearTimeout(timer.current);
      stop();
    };
  }, [load]);
  const more = async () => {
    try {
      const found = await api.jobs(next);
      paged.current = true;
      setJobs((before) => [...(before ?? []), ...found.jobs.filter((job) => job.kind === "reconstruct" && !before?.some((one) => one.id === job.id))]);
      setNext(found.next);
    } catch {
      // the button stays
    }
  };
  const forget = async (job: Job) => {
    await api.forget(job.id).catch(() => undefined);
    setJobs((before) => before?.filter((one) => one.id !== job.id) ?? null);
    onForgotten(job);
  };
  return (
    <section aria-label={say("history.title")} className="mt-6">
      <h2 className="mb-2.5 font-semibold">{say("history.title")}</h2>
      {problem !== null && jobs === null && !(problem instanceof ApiError && problem.status === 401) && <ErrorNote problem={problem} />}
      <ul className="flex h-48 gap-3 overflow-x-auto pb-2" data-testid="history">
        {jobs === null && problem === null && Array.from({ length: 6 }, (_, at) => <li key={at} className="h-44 w-36 shrink-0 animate-pulse rounded-2xl bg-sunk" />)}
        {jobs?.length === 0 && <li className="flex h-44 flex-1 items-center justify-center rounded-2xl border border-dashed border-line text-soft">{say("history.empty")}</li>}
        {jobs?.map((job) => {
          const preview = job.outputs.find((file) => file.name === "preview.png");
          return (
            <li key={job.id} className="group relative h-44 w-36 shrink-0">
              <button type="button" aria-current={job.id === current} aria-label={say("history.open", { name: job.name })} className={`card flex size-full flex-col overflow-hidden p-1.5 text-left transition-colors hover:border-accent ${job.id === current ? "border-accent ring-1 ring-accent" : ""}`} onClick={() => onOpen(job)}>
                <span className={`relative block h-32 w-full overflow-hidden rounded-xl ${preview ? "stage" : "bg-sunk"}`}>
                  {preview ? <img src={preview.url} alt="" loading="lazy" className="size-full object-cover" /> : job.image_id && <img src={thumbnail(job.image_id, 128)} alt="" loading="lazy" className="size-full object-contain opacity-50" />}
                  {!isOver(job) && (
                    <span className="absolute inset-x-2 bottom-2">
                      <Progress value={job.status === "queued" ? null : job.progress} label={say(`job.${job.status}`)} />
                    </span>
                  )}
                  {job.status === "failed" && <Icon name="warn" className="absolute top-1.5 right-1.5 size-5 text-bad" />}
                </span>
                <span className="mt-1.5 truncate px-1 text-sm font-medium">{job.name}</span>
                <span className="truncate px-1 text-xs text-soft">{isOver(job) && job.status === "succeeded" ? new Date(job.created_at).toLocaleTimeString(locale, { hour: "2-digit", minute: "2-digit" }) : say(`job.${job.status}`)}</span>
              </button>
              {isOver(job) && (
                <button type="button" className="absolute top-2.5 left-2.5 flex size-7 items-center justify-center rounded-lg bg-card/90 text-soft opacity-0 transition-opacity group-hover:opacity-100 hover:text-bad focus-visible:opacity-100 [@media(pointer:coarse)]:opacity-100" aria-label={say("history.forget", { name: job.name })} title={say("history.forget", { name: job.name })} onClick={() => void forget(job)}>
                  <Icon name="trash" className="size-4" />
                </button>
              )}
            </li>
          );
        })}
        {next && (
          <li className="flex h-44 w-28 shrink-0 items-center">
            <button type="button" className="button button-bare" onClick={() => void more()}>
              {say("history.more")}
            </button>
          </li>
        )}
      </ul>
    </section>
  );
}
