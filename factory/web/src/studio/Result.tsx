// What has come of a job, or how far it is.

import { lazy, Suspense, useState } from "react";
import { api, previewPicture } from "../api";
import { useText } from "../text";
import { isOver, type Job, type ResultFile } from "../types";
import { Icon } from "../ui/icons";
import { ErrorNote, Progress, Spinner } from "../ui/parts";
import { useStage } from "./Options";

const Viewer = lazy(() => import("../viewer/Viewer"));

export function Result({ job, preview, onAgain, onRetry }: { job: Job | null; preview: number; onAgain: (job: Job) => void; onRetry: (job: Job) => void }) {
  const { say } = useText();
  return (
    <section id="result" aria-label={say("result.title")} className="card scroll-mt-3 flex min-h-0 flex-col p-4 max-lg:min-h-[32rem] max-sm:p-3">
      {job === null ? <Empty /> : job.status === "succeeded" ? <Made job={job} onAgain={onAgain} /> : isOver(job) ? <Ended job={job} onRetry={onRetry} /> : <Running job={job} preview={preview} />}
    </section>
  );
}

function Empty() {
  const { say } = useText();
  return (
    <div className="stage flex flex-1 flex-col items-center justify-center rounded-xl p-8 text-center">
      <Icon name="cube" className="size-16 text-faint [stroke-width:0.7]" />
      <h2 className="mt-4 text-lg font-semibold">{say("result.empty")}</h2>
      <p className="mt-1 text-soft">{say("result.emptyText")}</p>
    </div>
  );
}

function Running({ job, preview }: { job: Job; preview: number }) {
  const { say } = useText();
  const stageOf = useStage();
  const [asked, setAsked] = useState(false);
  const waiting = job.status === "queued";
  const title = say(`job.${job.status}`);
  const about = waiting ? (job.queue_position ? say("job.position", { count: job.queue_position }) : "") : (stageOf(job.stage) ?? "");
  return (
    <div className="stage flex flex-1 flex-col items-center justify-center rounded-xl p-8" data-testid="running" data-status={job.status}>
      <div className="w-full max-w-sm rounded-2xl border border-line bg-card p-6" role="status" aria-live="polite">
        {preview > 0 && <img src={previewPicture(job.id, preview)} alt={say("job.preview")} className="mb-5 h-56 w-full rounded-xl bg-[#181818] object-contain max-sm:h-44" onError={(event) => (event.currentTarget.hidden = true)} onLoad={(event) => (event.currentTarget.hidden = false)} />}
        <div className="flex items-baseline justify-between gap-3">
          <h2 className="text-lg font-semibold">{title}</h2>
          <span className="text-soft tabular-nums">{waiting ? "" : `${Math.round(job.progress * 100)} %`}</span>
        </div>
        <div className="my-3">
          <Progress value={waiting ? null : job.progress} label={title} />
        </div>
        <p className="flex min-h-6 justify-between gap-3 text-sm text-soft">
          <span>{about}</span>
          <span className="tabular-nums">{job.eta_s !== null && job.eta_s >= 1 && !waiting ? say("job.eta", { seconds: Math.round(job.eta_s) }) : ""}</span>
        </p>
        <button
          type="button"
          className="button button-quiet mt-4 w-full"
          disabled={asked}
          onClick={() => {
            setAsked(true);
            api.cancel(job.id).catch(() => setAsked(false));
          }}
        >
          {say("job.cancel")}
        </button>
      </div>
    </div>
  );
}

function Ended({ job, onRetry }: { job: Job; onRetry: (job: Job) => void }) {
  const { say } = useText();
  return (
    <div className="stage flex flex-1 flex-col items-center justify-center gap-4 rounded-xl p-8" data-testid="ended" data-status={job.status}>
      <h2 className="text-lg font-semibold">{say(`job.${job.status}`)}</h2>
      {job.error && job.status === "failed" && (
        <div className="w-full max-w-md">
          <ErrorNote problem={job.error} />
        </div>
      )}
      <button type="button" className="button button-main" onClick={() => onRetry(job)}>
        {say("job.retry")}
      </button>
    </div>
  );
}

const FIRST = [
  ["model.glb", "result.mesh"],
  ["splat.ply", "result.splat"],
  ["preview.png", "result.picture"],
] as const;

function Made({ job, onAgain }: { job: Job; onAgain: (job: Job) => void }) {
  const { say, language } = useText();
  const files = new Map(job.outputs.map((file) => [file.name, file]));
  const warnings = job.result?.warnings ?? [];
  const number = (value: number) => new Intl.NumberFormat(language, { maximumFractionDigits: 1 }).format(value);
  return (
    <>
      <div className="min-h-80 flex-1">
        <Suspense fallback={<div className="flex h-full items-center justify-center text-accent"><Spinner className="size-7" /></div>}>
          <Viewer job={job} />
        </Suspense>
      </div>
      <div className="mt-3 flex flex-wrap items-center gap-2">
        {FIRST.map(([name, label]) => files.has(name) && <Download key={name} file={files.get(name)!} text={say(label)} name={`${job.name}${name.slice(name.indexOf("."))}`} />)}
        {job.links.archive && (
          <a className="button button-bare px-3" href={job.links.archive} download>
            {say("result.all")}
          </a>
        )}
      </div>
      <div className="mt-2 flex items-center gap-3">
        <p className="min-w-0 flex-1 text-sm text-soft" data-testid="took">
          {say("job.took", { engine: job.result?.engine ?? "", seed: job.result?.seed ?? 0, seconds: number(job.result?.seconds ?? job.seconds ?? 0) })}
          {job.cached && ` · ${say("job.cached")}`}
        </p>
        <button type="button" className="button button-quiet" onClick={() => onAgain(job)}>
          <Icon name="dice" />
          {say("result.seed")}
        </button>
      </div>
      {warnings.length > 0 && (
        <details className="mt-1 text-sm text-warn">
          <summary>
            {say("result.warnings")} ({warnings.length})
          </summary>
          <ul className="mt-1 list-disc pl-5">
            {warnings.map((text) => (
              <li key={text}>{text}</li>
            ))}
          </ul>
        </details>
      )}
    </>
  );
}

function Download({ file, text, name }: { file: ResultFile; text: string; name: string }) {
  const { say, language } = useText();
  const mega = file.bytes >= 1e6;
  const size = `${new Intl.NumberFormat(language, { maximumSignificantDigits: 2 }).format(mega ? file.bytes / 1e6 : Math.max(1, Math.round(file.bytes / 1e3)))} ${mega ? "MB" : "KB"}`;
  return (
    <a className="button button-quiet px-3" href={file.url} download={name} aria-label={`${say("result.download")} ${text}`}>
      <Icon name="download" className="size-4.5 text-accent" />
      {text}
      <span className="text-sm font-normal text-faint">{size}</span>
    </a>
  );
}


