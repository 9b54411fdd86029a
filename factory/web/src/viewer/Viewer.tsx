// The result in three dimensions. The libraries come when the first result does.

import { type KeyboardEvent, useEffect, useRef, useState } from "react";
import { useText } from "../text";
import type { Job } from "../types";
import { Choice, IconButton, Spinner } from "../ui/parts";
import type { Mode, Scene3d } from "./scene";

export function fileOf(job: Job, name: string) {
  return job.outputs.find((file) => file.name === name) ?? null;
}

const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

export default function Viewer({ job }: { job: Job }) {
  const { say, language } = useText();
  const canvas = useRef<HTMLCanvasElement>(null);
  const scene = useRef<Scene3d | null>(null);
  const [state, setState] = useState<"loading" | "ready" | string>("loading");
  const mesh = fileOf(job, "model.glb");
  const splat = fileOf(job, "splat.ply");
  const [mode, setMode] = useState<Mode>(mesh ? "mesh" : "splat");
  const [wire, setWire] = useState(false);
  const [turning, setTurning] = useState(!still());
  const [divider, setDivider] = useState(0.5);
  const [shown, setShown] = useState("");
  const frame = typeof job.params.ply_frame === "string" ? job.params.ply_frame : "y_down";
  const meshUrl = mesh?.url ?? null;
  const splatUrl = splat?.url ?? null;

  useEffect(() => {
    let current = true;
    setState("loading");
    setShown("");
    setMode((before) => (before === "mesh" && !meshUrl ? "splat" : before !== "mesh" && !splatUrl ? "mesh" : before));
    void import("./scene")
      .then(async (module) => {
        if (!current) return;
        scene.current ??= new module.Scene3d(canvas.current!);
        scene.current.onDrawn = (what) => setShown([what.mesh && "mesh", what.splat && "splat"].filter(Boolean).join(" "));
        await scene.current.load({ mesh: meshUrl, splat: splatUrl, frame });
        if (current) setState("ready");
      })
      .catch((problem: unknown) => {
        const text = String(problem instanceof Error ? problem.message : problem);
        if (current) setState(/webgl/i.test(text) ? say("view.noWebgl") : text);
      });
    return () => {
      current = false;
    };
  }, [meshUrl, splatUrl, frame]); // eslint-disable-line
  useEffect(
    () => () => {
      scene.current?.end();
      scene.current = null;
    },
    [],
  );
  useEffect(() => {
    if (!scene.current) return;
    Object.assign(scene.current, { mode, wireframe: wire, turning, divider });
    scene.current.draw();
  }, [mode, wire, turning, divider, state]);

  const snapshot = async () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await scene.current!.snapshot());
    link.download = `${job.name}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  };
  const key = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !scene.current) return;
    const arrows: Record<string, [number, number]> = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, 0.12], ArrowDown: [0, -0.12] };
    const by = arrows[event.key];
    if (by) scene.current.turn(...by);
    else if (event.key === "+" || event.key === "=") scene.current.zoom(0.87);
    else if (event.key === "-") scene.current.zoom(1.15);
    else if (event.key === "0") scene.current.reset();
    else if (event.key.toLowerCase() === "w" && mesh) setWire(!wire);
    else if (event.key.toLowerCase() === "r") setTurning(!turning);
    else return;
    event.preventDefault();
  };
  const ready = state === "ready";
  const number = (value: number) => value.toLocaleString(language);
  return (
    <div className="flex h-full flex-col gap-2.5">
      <div className="flex min-h-9 flex-wrap items-center gap-1 max-sm:gap-0 max-sm:[&_.icon-button]:size-8.5">
        <div className="text-sm max-sm:[&_.segment]:auto-cols-auto max-sm:[&_.segment>*]:px-2 [&_.segment]:p-0.5">
          <Choice<Mode>
            label={say("result.title")}
            value={mode}
            disabled={[...(mesh ? [] : (["mesh"] as const)), ...(splat ? [] : (["splat"] as const)), ...(mesh && splat ? [] : (["compare"] as const))]}
            options={[["mesh", say("view.mesh")], ["splat", say("view.splat")], ["compare", say("view.compare")]]}
            onChange={setMode}
          />
        </div>
        <span className="flex-1" />
        <IconButton icon="wire" label={say("view.wireframe")} pressed={wire} disabled={!ready || mode === "splat"} onClick={() => setWire(!wire)} />
        <IconButton icon="turn" label={say("view.rotate")} pressed={turning} disabled={!ready} onClick={() => setTurning(!turning)} />
        <IconButton icon="home" label={say("view.reset")} disabled={!ready} onClick={() => scene.current?.reset()} />
        <IconButton icon="camera" label={say("view.snapshot")} disabled={!ready} onClick={() => void snapshot()} />
      </div>
      <div className="stage relative min-h-0 flex-1 overflow-hidden rounded-xl" data-testid="viewer" data-state={ready ? "ready" : state === "loading" ? "loading" : "failed"} data-shown={shown}>
        <canvas ref={canvas} tabIndex={0} role="img" aria-label={say("view.canvas")} className="block size-full touch-none outline-offset-[-3px]" onKeyDown={key} onPointerDown={() => setTurning(false)} />
        {mode === "compare" && ready && (
          <>
            <span className="pointer-events-none absolute inset-y-0 w-0.5 -translate-x-1/2 bg-white shadow-[0_0_0_0.5px_rgb(0_0_0/0.35)]" style={{ left: `${divider * 100}%` }} />
            <span className="pointer-events-none absolute bottom-12 left-3 rounded-md bg-card/85 px-2 py-0.5 text-xs text-soft">{say("view.mesh")}</span>
            <span className="pointer-events-none absolute right-3 bottom-12 rounded-md bg-card/85 px-2 py-0.5 text-xs text-soft">{say("view.splat")}</span>
            <input type="range" aria-label={say("view.divider")} className="absolute inset-x-3 bottom-3 accent-(--accent)" min={0} max={100} value={Math.round(divider * 100)} onChange={(event) => setDivider(Number(event.target.value) / 100)} />
          </>
        )}
        {ready && mode !== "mesh" && scene.current && scene.current.count.shown < scene.current.count.all && (
          <p className="pointer-events-none absolute inset-x-3 top-3 rounded-lg bg-card/85 px-2.5 py-1 text-center text-xs text-soft" role="note">
            {say("view.thinned", { shown: number(scene.current.count.shown), all: number(scene.current.count.all) })}
          </p>
        )}
        {!ready && (
          <div className="absolute inset-0 flex flex-col items-center justify-center gap-3 p-6 text-center text-soft" role="status">
            {state === "loading" ? (
              <>
                <Spinner className="size-7 text-accent" />
                {say("view.loading")}
              </>
            ) : (
              say("view.failed", { reason: state })
            )}
          </div>
        )}
      </div>
    </div>
  );
}
