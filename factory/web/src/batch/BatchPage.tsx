// A folder of pictures: see what belongs together, mend masks, run, watch, take all.

import { type DragEvent, useEffect, useRef, useState } from "react";
import { api, maskPicture, thumbnail, watch } from "../api";
import { go } from "../route";
import { Options, useParams, useStage } from "../studio/Options";
import { useText } from "../text";
import { useProblem } from "../text/errors";
import { type Batch, type Info, isOver, type Job } from "../types";
import { Icon } from "../ui/icons";
import { ErrorNote, IconButton, Progress, Spinner } from "../ui/parts";
import { FixMask } from "./FixMask";
import { chosen, dropped, type Entry } from "./pairing";
import { isReady, type Item, useRows } from "./useRows";

export function BatchPage({ id, info }: { id: string | null; info: Info | null }) {
  const { say } = useText();
  return (
    <>
      <div className="mb-4">
        <h1 className="text-xl font-semibold">{say("batch.title")}</h1>
        {!id && <p className="mt-1 max-w-3xl text-soft">{say("batch.text")}</p>}
      </div>
      {id ? <Watch key={id} id={id} /> : <Prepare info={info} />}
    </>
  );
}

function Prepare({ info }: { info: Info | null }) {
  const { say } = useText();
  const rows = useRows();
  const [params, setParams] = useParams();
  const [options, setOptions] = useState(false);
  const [fixing, setFixing] = useState<Item | null>(null);
  const [over, setOver] = useState(false);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<unknown>(null);
  const folder = useRef<HTMLInputElement>(null);
  const files = useRef<HTMLInputElement>(null);
  useEffect(() => folder.current?.setAttribute("webkitdirectory", ""), []);

  const take = (entries: Entry[]) => setProblem(rows.add(entries) ? null : new Error(say("batch.none")));
  const drop = async (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    take(await dropped(event.dataTransfer));
  };
  const ready = rows.items?.filter(isReady) ?? [];
  const reading = rows.items?.some((item) => item.state === "reading") ?? false;
  const missing = (rows.items?.length ?? 0) - ready.length;
  const most = Math.min(info?.limits.max_batch ?? Infinity, info?.limits.max_queue ?? Infinity);
  const run = async () => {
    setBusy(true);
    setProblem(null);
    try {
      const when = new Date().toISOString().slice(0, 16).replace("T", " ").replace(":", "-");
      const parts = portions(ready, most);
      const made: Batch[] = [];
      for (const part of parts) {
        const items = part.map((item) => ({ image_id: item.image!.id, mask_ids: item.maskIds, names: item.maskIds.map((_, at) => (item.maskIds.length > 1 ? `${item.name}_${at}` : item.name)), name: item.name, params: {} }));
        made.push(await api.addBatch(parts.length > 1 ? `${when} ${made.length + 1}` : when, items, params));
        if (parts.length > 1) for (const item of part) rows.remove(item.key); // the next may be refused: then what is left can be tried again
      }
      go(`#/batch/${made[0].id}`);
    } catch (problem) {
      setProblem(problem);
      setBusy(false);
    }
  };
  const buttons = (
    <div className="flex flex-wrap justify-center gap-2">
      <button type="button" className={`button ${rows.items?.length ? "button-quiet" : "button-main"}`} onClick={() => folder.current?.click()}>
        <Icon name="folder" />
        {say("batch.choose")}
      </button>
      <button type="button" className="button button-quiet" onClick={() => files.current?.click()}>
        {say("batch.files")}
      </button>
    </div>
  );
  return (
    <div onDragOver={(event) => (event.preventDefault(), setOver(true))} onDragLeave={() => setOver(false)} onDrop={(event) => void drop(event)}>
      <input ref={folder} type="file" hidden multiple data-testid="folder" onChange={(event) => event.target.files && (take(chosen(event.target.files)), (event.target.value = ""))} />
      <input ref={files} type="file" hidden multiple accept="image/png,image/jpeg,image/webp" data-testid="files" onChange={(event) => event.target.files && (take(chosen(event.target.files)), (event.target.value = ""))} />
      {problem !== null && (
        <div className="toast">
          <ErrorNote problem={problem} onClose={() => setProblem(null)} />
        </div>
      )}
      {!rows.items?.length ? (
        <>
          <div className={`card flex min-h-72 flex-col items-center justify-center gap-4 border-2 border-dashed p-8 ${over ? "border-accent bg-accent-wash" : ""}`}>
            <span className="flex size-14 items-center justify-center rounded-2xl bg-accent-wash text-accent">
              <Icon name="folder" className="size-7" />
            </span>
            {buttons}
          </div>
          <Earlier />
        </>
      ) : (
        <>
          <div className={`card overflow-x-auto ${over ? "border-accent ring-2 ring-accent" : ""}`}>
            <table className="w-full text-left" data-testid="pairs">
              <thead className="text-sm text-soft">
                <tr className="border-b border-line [&>th]:px-4 [&>th]:py-2.5 [&>th]:font-medium max-sm:[&>th]:px-3">
                  <th>{say("batch.picture")}</th>
                  <th>{say("batch.mask")}</th>
                  <th className="max-sm:hidden">{say("batch.state")}</th>
                  <th>
                    <span className="sr-only">{say("batch.fix")}</span>
                  </th>
                </tr>
              </thead>
              <tbody>
                {rows.items.map((item) => (
                  <PairRow key={item.key} item={item} onFix={() => setFixing(item)} onRemove={() => rows.remove(item.key)} />
                ))}
              </tbody>
            </table>
          </div>
          <div className="sticky bottom-0 mt-4 flex flex-wrap items-center gap-2 bg-page py-3">
            {buttons}
            <span className="min-w-0 flex-1 text-sm text-warn max-sm:order-first max-sm:basis-full">{!reading && [missing > 0 && say("batch.missing", { count: missing }), ready.length > most && say("batch.several", { count: Math.ceil(ready.length / most), most })].filter(Boolean).join(". ")}</span>
            <button type="button" className="button button-quiet" onClick={() => setOptions(true)}>
              <Icon name="options" />
              {say("go.options")}
            </button>
            <button type="button" className="button button-main min-w-32 max-sm:flex-1" disabled={!ready.length || reading || busy} onClick={() => void run()}>
              {(busy || reading) && <Spinner className="size-4" />}
              {say("batch.run", { count: ready.length })}
            </button>
          </div>
        </>
      )}
      {fixing && (
        <FixMask
          item={fixing}
          info={info}
          onClose={() => setFixing(null)}
          onDone={(masks) => {
            rows.change(fixing.key, { maskIds: masks, how: "hand", ambiguous: [] });
            setFixing(null);
          }}
        />
      )}
      <Options open={options} onClose={() => setOptions(false)} params={params} onChange={setParams} info={info} />
    </div>
  );
}

function portions<T>(all: T[], most: number): T[][] {
  const parts: T[][] = [];
  for (let at = 0; at < all.length; at += most) parts.push(all.slice(at, at + most));
  return parts;
}

function PairRow({ item, onFix, onRemove }: { item: Item; onFix: () => void; onRemove: () => void }) {
  const { say } = useText();
  const tell = useProblem();
  const how = item.how === "file" ? say("batch.pair.file", { count: item.maskIds.length }) : say(`batch.pair.${item.how}`);
  return (
    <tr className="border-b border-line last:border-0 [&>td]:px-4 [&>td]:py-2 max-sm:[&>td]:px-3" data-name={item.name} data-how={item.how} data-state={item.state}>
      <td>
        <span className="flex items-center gap-3">
          <span className="checker block size-14 shrink-0 overflow-hidden rounded-lg">{item.image && <img src={thumbnail(item.image.id, 128)} alt="" className="size-full object-contain" />}</span>
          <span className="min-w-0">
            <span className="block max-w-60 truncate font-medium max-sm:max-w-24">{item.name}</span>
            <span className="block max-w-60 truncate text-sm text-soft max-sm:hidden">{item.picture.path}</span>
          </span>
        </span>
      </td>
      <td>
        <span className="flex items-center gap-3">
          <span className="flex gap-1">
            {item.maskIds.slice(0, 4).map((mask) => (
              <img key={mask} src={maskPicture(mask)} alt="" className="size-14 rounded-lg bg-black object-contain" />
            ))}
            {!item.maskIds.length && <span className="block size-14 rounded-lg border border-dashed border-line" />}
          </span>
          <span className={`text-sm max-sm:hidden ${item.maskIds.length ? "text-soft" : "text-warn"}`}>{item.ambiguous.length ? say("batch.two", { names: item.ambiguous.join(", ") }) : item.state === "ready" ? how : ""}</span>
        </span>
      </td>
      <td className="text-sm max-sm:hidden">
        {item.state === "reading" ? (
          <span className="flex items-center gap-2 text-soft">
            <Spinner className="size-4" />
            {say("batch.reading")}
          </span>
        ) : item.state === "failed" ? (
          <span className="text-bad" title={tell(item.problem).detail}>{tell(item.problem).text}</span>
        ) : isReady(item) ? (
          <span className="flex items-center gap-1.5 text-good">
            <Icon name="check" className="size-4" />
            {say("batch.ready")}
          </span>
        ) : (
          <span className="text-warn">{say("batch.pair.none")}</span>
        )}
      </td>
      <td>
        <span className="flex justify-end gap-1">
          <button type="button" className="button button-quiet h-9 px-3 text-sm" disabled={!item.image || item.state === "reading"} onClick={onFix}>
            <Icon name="brush" className="size-4" />
            <span className="max-sm:sr-only">{say("batch.fix")}</span>
          </button>
          <IconButton icon="close" label={say("batch.remove", { name: item.name })} onClick={onRemove} />
        </span>
      </td>
    </tr>
  );
}

function Earlier() {
  const { say, locale } = useText();
  const [list, setList] = useState<Awaited<ReturnType<typeof api.batches>>["batches"]>([]);
  useEffect(() => {
    api.batches().then((found) => setList(found.batches), () => undefined);
  }, []);
  if (!list.length) return null;
  return (
    <section className="mt-6">
      <h2 className="mb-2 font-semibold">{say("batch.earlier")}</h2>
      <ul className="card divide-y divide-line">
        {list.map((one) => {
          const all = Object.values(one.counts).reduce((sum, count) => sum + count, 0);
          return (
            <li key={one.id}>
              <a href={`#/batch/${one.id}`} className="flex justify-between gap-4 px-4 py-2.5 hover:bg-sunk">
                <span>{new Date(one.created_at).toLocaleString(locale, { dateStyle: "medium", timeStyle: "short" })}</span>
                <span className="text-soft">{say("batch.progress", { done: one.counts.succeeded ?? 0, all })}</span>
              </a>
            </li>
          );
        })}
      </ul>
    </section>
  );
}

function Watch({ id }: { id: string }) {
  const { say } = useText();
  const [batch, setBatch] = useState<Batch | null>(null);
  const [problem, setProblem] = useState<unknown>(null);
  const timer = useRef(0);
  useEffect(() => {
    let current = true;
    const load = () =>
      api.batch(id).then(
        (found) => current && (setBatch(found), setProblem(null)),
        (problem) => current && setProblem(problem),
      );
    void load();
    const stop = watch(null, (kind) => {
      if (timer.current || kind === "preview") return; // at most one look every half second, however much happens
      timer.current = window.setTimeout(() => {
        timer.current = 0;
        void load();
      }, 500);
    });
    return () => {
      current = false;
      clearTimeout(timer.current);
      timer.current = 0;
      stop();
    };
  }, [id]);
  if (!batch) return problem ? <ErrorNote problem={problem} /> : <div className="card h-72 animate-pulse" />;
  const all = batch.jobs.length;
  const over = batch.jobs.filter(isOver).length;
  const failed = batch.counts.failed ?? 0;
  const share = all ? batch.jobs.reduce((sum, job) => sum + (isOver(job) ? 1 : job.progress), 0) / all : 1;
  return (
    <>
      {problem !== null && <ErrorNote problem={problem} />}
      <div className="card mb-4 flex flex-wrap items-center gap-x-5 gap-y-3 p-4">
        <div className="min-w-56 flex-1">
          <p className="mb-2 flex justify-between gap-4" role="status" data-testid="count">
            <span className="font-medium">{say("batch.progress", { done: over, all })}</span>
            {failed > 0 && <span className="text-bad">{say("batch.failedCount", { count: failed })}</span>}
          </p>
          <Progress value={share} label={say("batch.title")} />
        </div>
        <div className="flex flex-wrap gap-2">
          {!batch.done && (
            <button type="button" className="button button-quiet" onClick={() => void api.cancelBatch(id).then(setBatch, setProblem)}>
              {say("batch.cancel")}
            </button>
          )}
          <a className={`button button-main ${batch.counts.succeeded ? "" : "pointer-events-none opacity-45"}`} aria-disabled={!batch.counts.succeeded} href={batch.links.archive} download>
            <Icon name="download" />
            {say("batch.zip")}
          </a>
          <a className="button button-bare" href="#/batch">
            {say("batch.clear")}
          </a>
        </div>
      </div>
      <ul className="grid grid-cols-[repeat(auto-fill,minmax(11rem,1fr))] gap-3" data-testid="jobs">
        {batch.jobs.map((job) => (
          <Card key={job.id} job={job} />
        ))}
      </ul>
    </>
  );
}

function Card({ job }: { job: Job }) {
  const { say } = useText();
  const tell = useProblem();
  const stageOf = useStage();
  const preview = job.outputs.find((file) => file.name === "preview.png");
  const running = job.status === "running" || job.status === "starting";
  return (
    <li data-status={job.status}>
      <a href={`#/jobs/${job.id}`} className="card block p-2 transition-colors hover:border-accent" aria-label={say("history.open", { name: job.name })}>
        <span className={`relative block aspect-square overflow-hidden rounded-xl ${preview ? "stage" : "bg-sunk"}`}>
          {preview ? <img src={preview.url} alt="" loading="lazy" className="size-full object-contain" /> : job.image_id && <img src={thumbnail(job.image_id, 256)} alt="" loading="lazy" className="size-full object-contain opacity-50" />}
          {running && (
            <span className="absolute inset-x-3 bottom-3">
              <Progress value={job.progress} label={job.name} />
            </span>
          )}
        </span>
        <span className="mt-2 flex items-baseline justify-between gap-2 px-1">
          <span className="min-w-16 truncate font-medium">{job.name}</span>
          <span className={`min-w-0 truncate text-sm ${job.status === "failed" ? "text-bad" : "text-soft"}`}>{running ? (stageOf(job.stage) ?? say(`job.${job.status}`)) : job.status === "queued" ? say("batch.waiting") : say(`job.${job.status}`)}</span>
        </span>
        {job.error && job.status === "failed" && <span className="mt-1 line-clamp-2 px-1 text-xs text-bad" title={tell(job.error).detail}>{tell(job.error).text}</span>}
      </a>
    </li>
  );
}
