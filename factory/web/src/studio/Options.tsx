// The drawer of settings. The usual ones by name; all others from the API's own description, so that none is ever missing.

import { useEffect, useState } from "react";
import { call } from "../api";
import { known, useText } from "../text";
import type { Info, Params } from "../types";
import { remember, remembered } from "../ui/memory";
import { Choice, IconButton, Modal } from "../ui/parts";

export const USUAL: Params = { quality: "standard", seed: 0, outputs: ["glb", "ply", "preview"], ply_frame: "y_down" };
const TARGETS = ["none", "blender", "unity", "unreal", "godot", "web"];
const SHOWN = new Set(["quality", "engine", "seed", "outputs", "ply_frame", "target"]);

export function useParams(): [Params, (next: Params) => void] {
  const [params, set] = useState<Params>(() => ({ ...USUAL, ...remembered<Params>("params", {}) }));
  return [
    params,
    (next) => {
      set(next);
      remember("params", next);
    },
  ];
}

export const drawSeed = () => Math.floor(Math.random() * 1_000_000);

export function Options(props: { open: boolean; onClose: () => void; params: Params; onChange: (next: Params) => void; info: Info | null }) {
  const { say } = useText();
  const { params, info } = props;
  const set = (name: string, value: unknown) => {
    const next = { ...params, [name]: value };
    if (value === undefined) delete next[name];
    props.onChange(next);
  };
  const outputs = params.outputs as string[];
  const engines = ["auto", ...(info?.engines ?? [])] as string[];
  return (
    <Modal open={props.open} onClose={props.onClose} label={say("options.title")} className="sheet w-full max-w-md border-l border-line bg-card text-ink">
      <div className="flex h-full flex-col">
        <header className="flex items-center justify-between border-b border-line px-5 py-3">
          <h2 className="text-lg font-semibold">{say("options.title")}</h2>
          <IconButton icon="close" label={say("options.close")} onClick={props.onClose} />
        </header>
        <div className="flex flex-1 flex-col gap-5 overflow-y-auto px-5 py-5">
          <Field label={say("options.quality")}>
            <Choice label={say("options.quality")} value={params.quality as string} options={(["fast", "standard", "best"] as const).map((one) => [one, say(`quality.${one}`)] as const)} onChange={(value) => set("quality", value)} />
          </Field>
          <Field label={say("options.engine")}>
            <Choice label={say("options.engine")} value={(params.engine as string | undefined) ?? "auto"} options={engines.map((one) => [one, one === "auto" ? say("engine.auto") : one] as const)} onChange={(value) => set("engine", value === "auto" ? undefined : value)} />
          </Field>
          <label className="block">
            <Caption text={say("options.seed")} />
            <span className="flex gap-2">
              <input className="field tabular-nums" inputMode="numeric" value={String(params.seed)} onChange={(event) => /^\d{0,15}$/.test(event.target.value) && set("seed", Number(event.target.value))} />
              <IconButton icon="dice" label={say("options.seed.new")} className="size-10 border border-line" onClick={() => set("seed", drawSeed())} />
            </span>
          </label>
          <Field label={say("options.outputs")}>
            <div className="grid grid-cols-2 gap-x-4 gap-y-1">
              {Object.entries(info?.formats ?? { glb: "model.glb", ply: "splat.ply", preview: "preview.png" }).map(([name, file]) => (
                <label key={name} className="flex h-8 items-center gap-2">
                  <input
                    type="checkbox"
                    className="size-4 accent-(--accent)"
                    checked={outputs.includes(name)}
                    disabled={outputs.length === 1 && outputs[0] === name}
                    onChange={() => set("outputs", outputs.includes(name) ? outputs.filter((one) => one !== name) : [...outputs, name])}
                  />
                  <span className="truncate" title={file}>
                    {name} <span className="text-sm text-faint">{file.slice(file.indexOf("."))}</span>
                  </span>
                </label>
              ))}
            </div>
          </Field>
          <label className="block">
            <Caption text={say("options.target")} />
            <select className="field" value={(params.target as string | undefined) ?? "none"} onChange={(event) => set("target", event.target.value === "none" ? undefined : event.target.value)}>
              {TARGETS.map((one) => (
                <option key={one} value={one}>
                  {one === "none" ? say("target.none") : one}
                </option>
              ))}
            </select>
          </label>
          <label className="block">
            <Caption text={say("options.plyFrame")} />
            <select className="field" value={params.ply_frame as string} onChange={(event) => set("ply_frame", event.target.value)}>
              {(["y_down", "y_up", "z_up"] as const).map((one) => (
                <option key={one} value={one}>
                  {say(`plyFrame.${one}`)}
                </option>
              ))}
            </select>
          </label>
          <More params={params} set={set} />
        </div>
        <footer className="flex justify-between gap-2 border-t border-line px-5 py-3">
          <button type="button" className="button button-bare" onClick={() => props.onChange({ ...USUAL })}>
            {say("options.reset")}
          </button>
          <button type="button" className="button button-main" onClick={props.onClose}>
            {say("options.close")}
          </button>
        </footer>
      </div>
    </Modal>
  );
}

const Caption = ({ text }: { text: string }) => <span className="mb-1.5 block text-sm font-medium text-soft">{text}</span>;
function Field({ label, children }: { label: string; children: React.ReactNode }) {
  return (
    <div>
      <Caption text={label} />
      {children}
    </div>
  );
}

interface Schema {
  type?: string;
  enum?: string[];
  const?: string;
  minimum?: number;
  maximum?: number;
  anyOf?: Schema[];
}

function More({ params, set }: { params: Params; set: (name: string, value: unknown) => void }) {
  const { say } = useText();
  const [schema, setSchema] = useState<Record<string, Schema> | null>(null);
  const [open, setOpen] = useState(false);
  useEffect(() => {
    if (!open || schema) return;
    type Described = { components: { schemas: Record<string, { properties: Record<string, Schema> }> } };
    call<Described>("openapi.json").then((found) => setSchema(found.components.schemas.Parameters?.properties ?? {}), () => setSchema({}));
  }, [open, schema]);
  const rest = Object.entries(schema ?? {}).flatMap(([name, { anyOf }]) => {
    const kind = anyOf?.find((one) => one.type !== "null");
    return kind && !SHOWN.has(name) && ["integer", "number", "boolean", "string"].includes(kind.type ?? "") && (kind.type !== "string" || kind.enum || kind.const) ? [[name, kind] as const] : [];
  });
  return (
    <details open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary className="text-sm font-medium text-accent">{say("options.more")}</summary>
      <div className="mt-3 grid gap-2">
        {rest.map(([name, kind]) => (
          <label key={name} className="grid grid-cols-[1fr_9.5rem] items-center gap-3">
            <code className="truncate text-[13px]">{name}</code>
            {kind.enum || kind.const || kind.type === "boolean" ? (
              <select className="field h-9 text-sm" value={String(params[name] ?? "")} onChange={(event) => set(name, event.target.value === "" ? undefined : kind.type === "boolean" ? event.target.value === "true" : event.target.value)}>
                <option value="">{say("options.usual")}</option>
                {(kind.type === "boolean" ? ["true", "false"] : (kind.enum ?? [kind.const!])).map((one) => (
                  <option key={one}>{one}</option>
                ))}
              </select>
            ) : (
              <input className="field h-9 text-sm tabular-nums" type="number" step={kind.type === "integer" ? 1 : "any"} min={kind.minimum} max={kind.maximum} placeholder={say("options.usual")} value={params[name] === undefined ? "" : String(params[name])} onChange={(event) => set(name, event.target.value === "" ? undefined : Number(event.target.value))} />
            )}
          </label>
        ))}
      </div>
    </details>
  );
}

/** A stage as the engine names it, in the page's language. */
export function useStage(): (stage: string | null) => string | null {
  const { say } = useText();
  return (stage) => (stage === null ? null : known(`stage.${stage}`) ? say(`stage.${stage}` as "stage.decode") : stage);
}
