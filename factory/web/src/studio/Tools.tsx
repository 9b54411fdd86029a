import { useEffect, useState } from "react";
import { useText } from "../text";
import { IconButton, Choice } from "../ui/parts";
import type { Info, Size } from "../types";
import { remember, remembered } from "../ui/memory";
import type { Tool } from "./Stage";
import { currentOf } from "./things";
import type { DocState } from "./useDoc";

const TOOLS = [
  ["add", "point"],
  ["remove", "unpoint"],
  ["box", "box"],
  ["brush", "brush"],
  ["erase", "erase"],
] as const;

export const RADII = [0.006, 0.012, 0.02, 0.035, 0.06, 0.1] as const; // shares of the picture's longer side

export function Tools(props: { state: DocState; tool: Tool; onTool: (tool: Tool) => void; radius: number; onRadius: (radius: number) => void; info: Info | null }) {
  const { say } = useText();
  const { state, tool } = props;
  const painting = tool === "brush" || tool === "erase";
  return (
    <div className="flex min-h-9 flex-wrap items-center gap-x-1 gap-y-1.5">
      <div role="toolbar" className="flex">
        {TOOLS.map(([name, icon]) => (
          <IconButton key={name} icon={icon} label={say(`tool.${name}`)} pressed={tool === name} onClick={() => props.onTool(name)} />
        ))}
      </div>
      <span className="mx-1 h-5 w-px bg-line" />
      <IconButton icon="undo" label={say("tool.undo")} disabled={!state.canUndo} onClick={state.undo} />
      <IconButton icon="redo" label={say("tool.redo")} disabled={!state.canRedo} onClick={state.redo} />
      <span className="flex-1" />
      {painting ? (
        <label className="flex h-9 items-center gap-2 text-sm text-soft">
          <span>{say("tool.radius")}</span>
          <input type="range" className="w-28 accent-(--accent)" min={0} max={RADII.length - 1} value={RADII.indexOf(props.radius as (typeof RADII)[number])} onChange={(event) => props.onRadius(RADII[Number(event.target.value)]!)} />
        </label>
      ) : (
        <div className="flex h-9 gap-2 text-sm [&_.segment]:p-0.5" title={say("tool.size")}>
          <Segmenters info={props.info} />
          <Choice<Size> label={say("tool.size")} value={currentOf(state.doc!).size} options={[["auto", say("size.auto")], ["s", say("size.s")], ["m", say("size.m")], ["l", say("size.l")]]} onChange={state.resize} />
        </div>
      )}
    </div>
  );
}

const TITLES: Record<string, string> = { sam2: "SAM 2.1", sam3: "SAM 3" };

/** Who finds the mask: shown where the server has more than the usual one. One that is chosen and gone is forgotten. */
function Segmenters({ info }: { info: Info | null }) {
  const { say } = useText();
  const [chosen, setChosen] = useState(() => remembered("segmenter", "cascade"));
  const usable = Object.entries(info?.segmenters ?? {}).filter(([, why]) => !why).map(([name]) => name);
  useEffect(() => {
    if (info && !usable.includes(chosen)) remember("segmenter", null);
  });
  if (usable.length < 2) return null;
  return (
    <select
      className="field h-9 w-auto text-sm"
      aria-label={say("tool.segmenter")}
      title={say("tool.segmenter")}
      value={usable.includes(chosen) ? chosen : "cascade"}
      onChange={(event) => {
        setChosen(event.target.value);
        remember("segmenter", event.target.value === "cascade" ? null : event.target.value);
      }}
    >
      {usable.map((name) => (
        <option key={name} value={name}>
          {name === "cascade" ? say("segmenter.cascade") : (TITLES[name] ?? name)}
        </option>
      ))}
    </select>
  );
}
