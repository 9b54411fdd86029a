// The page for one picture: bring it, mark objects in it, make them, look at them.

import { useEffect, useState } from "react";
import { api, type JobIn } from "../api";
import { useText } from "../text";
import type { Info, Job, Picture } from "../types";
import { Icon } from "../ui/icons";
import { ErrorNote, Spinner } from "../ui/parts";
import { go } from "../route";
import { Drop, useDropAndPaste } from "./Drop";
import { History } from "./History";
import { maskFile, ready } from "./layers";
import { drawSeed, Options, useParams } from "./Options";
import { Objects } from "./Objects";
import { Result } from "./Result";
import { Stage, type Tool } from "./Stage";
import { type Doc, newDoc, newThing, type Thing } from "./things";
import { RADII, Tools } from "./Tools";
import { useDoc } from "./useDoc";
import { useJob } from "./useJob";
import { hintOf, useKeys } from "./useKeys";

export function Studio({ jobId, info }: { jobId: string | null; info: Info | null }) {
  const { say } = useText();
  const state = useDoc("document");
  const { doc } = state;
  const [tool, setTool] = useState<Tool>("add");
  const [radius, setRadius] = useState<number>(RADII[2]);
  const [params, setParams] = useParams();
  const [options, setOptions] = useState(false);
  const [opening, setOpening] = useState(false);
  const [sending, setSending] = useState(false);
  const [problem, setProblem] = useState<unknown>(null);
  const [makeable, setMakeable] = useState<Thing[]>([]);
  const { job, gone, preview } = useJob(jobId);
  const nameOf = (number: number) => say("objects.default", { number });

  const open = async (file: Blob, name: string) => {
    const limit = info?.limits.max_body ?? Infinity;
    setProblem(file.size > limit ? new Error(say("error.large")) : null);
    if (file.size > limit || opening) return;
    setOpening(true);
    try {
      const picture = await api.addImage(file);
      const title = name.replace(/\.[^.]*$/, "").slice(0, 60) || "object";
      const made = newDoc(picture, title, () => title);
      state.open(made);
      setTool("add");
      if (jobId) go("#/");
      void state.ask(made, made.things[0]!, true); // transparency or a plain background may say it all
    } catch (problem) {
      setProblem(problem);
    } finally {
      setOpening(false);
    }
  };
  const { over } = useDropAndPaste((file, name) => void open(file, name));

  useEffect(() => {
    if (gone) go("#/");
  }, [gone]);
  useEffect(() => {
    let current = true;
    if (!doc) setMakeable([]);
    else void ready(doc).then((found) => current && setMakeable(found));
    return () => {
      current = false;
    };
  }, [doc]);

  const send = async (seed?: number, from?: Job) => {
    setSending(true);
    setProblem(null);
    try {
      let asked: JobIn;
      if (from) asked = { image_id: from.image_id!, mask_ids: from.mask_ids, names: from.names, name: from.name, params: { ...from.params, seed } };
      else {
        const masks = await Promise.all(makeable.map(async (thing) => (thing.strokes.length || !thing.base ? (await api.addMask(doc!.picture.id, await maskFile(doc!.picture, thing))).id : thing.base)));
        const name = makeable.length === 1 ? makeable[0]!.name : doc!.title;
        asked = { image_id: doc!.picture.id, mask_ids: masks, names: makeable.map((thing) => thing.name), name, params };
      }
      go(`#/jobs/${(await api.addJob(asked)).id}`);
      show();
    } catch (problem) {
      setProblem(problem);
    } finally {
      setSending(false);
    }
  };
  const retry = async (job: Job) => {
    try {
      go(`#/jobs/${(await api.retry(job.id)).id}`);
    } catch (problem) {
      setProblem(problem);
    }
  };
  // A job from the history, from a link or after a reload brings its picture and masks along.
  useEffect(() => {
    if (!job?.image_id || job.image_id === doc?.picture.id) return;
    let current = true;
    void docOf(job, nameOf).then((next) => current && state.open(next), () => undefined);
    return () => {
      current = false;
    };
  }, [job?.id]); // eslint-disable-line

  useKeys({ state, setTool, radius, setRadius, send: makeable.length && !sending ? () => void send() : null });
  const shown = problem ?? state.problem;

  return (
    <>
      {shown != null && (
        <div className="toast">
          <ErrorNote problem={shown} onClose={() => (setProblem(null), state.setProblem(null))} />
        </div>
      )}
      <div className="grid grid-cols-2 gap-5 max-lg:grid-cols-1 max-sm:gap-3 lg:h-[max(36rem,calc(100dvh-22rem))]">
        <section aria-label={say("picture.title")} className={`card flex min-h-0 flex-col p-4 max-sm:p-3 ${over ? "border-accent ring-2 ring-accent" : ""}`}>
          {!doc ? (
            <Drop busy={opening} megabytes={Math.round((info?.limits.max_body ?? 32 * 2 ** 20) / 2 ** 20)} onFile={(file, name) => void open(file, name)} />
          ) : (
            <>
              <Tools state={state} tool={tool} onTool={setTool} radius={radius} onRadius={setRadius} info={info} />
              <div className="my-2.5 h-72 min-h-0 sm:h-96 lg:h-auto lg:flex-1">
                <Stage state={state} tool={tool} radius={radius} onEscape={() => setTool("add")} />
              </div>
              <p className={`mb-2.5 min-h-5 text-sm ${state.nothing ? "text-warn" : "text-soft"}`} role="status">
                {hintOf(state, say)}
              </p>
              <div className="max-h-44 min-h-0 overflow-y-auto">
                <Objects state={state} />
              </div>
              <div className="mt-3 flex flex-wrap items-center gap-2 border-t border-line pt-3 max-sm:sticky max-sm:bottom-0 max-sm:-mx-3 max-sm:bg-card max-sm:px-3 max-sm:pb-3">
                <button type="button" className="button button-bare px-3" onClick={() => (state.open(null), go("#/"))}>
                  <Icon name="picture" />
                  <span className="max-sm:sr-only">{say("picture.other")}</span>
                </button>
                <span className="flex-1 max-sm:hidden" />
                <button type="button" className="button button-quiet px-3" onClick={() => setOptions(true)}>
                  <Icon name="options" />
                  <span className="max-sm:sr-only">{say("go.options")}</span>
                </button>
                <button type="button" className="button button-main min-w-36 max-sm:flex-1" disabled={!makeable.length || sending} title={makeable.length ? "" : say("go.none")} onClick={() => void send()}>
                  {sending && <Spinner className="size-4" />}
                  {sending ? say("go.sending") : makeable.length > 1 ? say("go.generateMany", { count: makeable.length }) : say("go.generate")}
                </button>
              </div>
            </>
          )}
        </section>
        <Result key={job?.id} job={job} preview={preview} onAgain={(from) => void send(drawSeed(), from)} onRetry={(from) => void retry(from)} />
      </div>
      <History current={jobId} onOpen={(one) => go(`#/jobs/${one.id}`)} onForgotten={(one) => one.id === jobId && go("#/")} />
      <Options open={options} onClose={() => setOptions(false)} params={params} onChange={setParams} info={info} />
      {over && (
        <div className="pointer-events-none fixed inset-0 z-10 flex items-end justify-center p-8">
          <span className="rounded-xl bg-accent px-5 py-3 font-medium text-on-accent shadow-lg">{say("drop.now")}</span>
        </div>
      )}
    </>
  );
}

/** Where the result stands below the picture: bring it into sight. */
function show(): void {
  if (!matchMedia("(width < 64rem)").matches) return;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  document.getElementById("result")?.scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
}

/** A job's picture and masks, to be worked on again. */
async function docOf(job: Job, nameOf: (number: number) => string): Promise<Doc> {
  const image = new Image();
  image.src = `/api/v1/images/${job.image_id!}`;
  await image.decode();
  const picture: Picture = { id: job.image_id!, width: image.naturalWidth, height: image.naturalHeight, has_alpha: false, url: image.src };
  const doc = newDoc(picture, job.name, nameOf);
  if (!job.mask_ids.length) {
    const found = await api.segment(picture.id, { points: [], box: null, size: "auto" });
    doc.things[0] = { ...doc.things[0]!, base: found[0]?.id ?? null, method: found[0]?.method ?? null };
    return doc;
  }
  const things = job.mask_ids.map((base, at) => ({ ...newThing(at + 1, job.names[at] ?? nameOf(at + 1)), base }));
  return { ...doc, things, current: 1 };
}
