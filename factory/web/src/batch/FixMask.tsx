// The picture's own tools in a dialog, for one row of a batch.

import { useEffect, useState } from "react";
import { api } from "../api";
import { maskFile, ready } from "../studio/layers";
import { Objects } from "../studio/Objects";
import { Stage, type Tool } from "../studio/Stage";
import { newDoc, newThing, type Thing } from "../studio/things";
import { RADII, Tools } from "../studio/Tools";
import { useDoc } from "../studio/useDoc";
import { hintOf, useKeys } from "../studio/useKeys";
import { useText } from "../text";
import { ErrorNote, IconButton, Modal, Spinner } from "../ui/parts";
import type { Info } from "../types";
import type { Item } from "./useRows";

export function FixMask({ item, info, onClose, onDone }: { item: Item; info: Info | null; onClose: () => void; onDone: (masks: string[]) => void }) {
  const { say } = useText();
  const state = useDoc();
  const [tool, setTool] = useState<Tool>("add");
  const [radius, setRadius] = useState<number>(RADII[2]);
  const [makeable, setMakeable] = useState<Thing[]>([]);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<unknown>(null);
  const { open } = state;
  useEffect(() => {
    const doc = newDoc(item.image!, item.name, () => item.name);
    const things = item.maskIds.map((base, at) => ({ ...newThing(at + 1, item.maskIds.length > 1 ? `${item.name} ${at + 1}` : item.name), base }));
    open(things.length ? { ...doc, things } : doc);
  }, [item, open]);
  useEffect(() => {
    if (state.doc) void ready(state.doc).then(setMakeable);
  }, [state.doc]);
  const done = async () => {
    setBusy(true);
    try {
      const masks: string[] = [];
      for (const thing of makeable) masks.push(thing.strokes.length || !thing.base ? (await api.addMask(item.image!.id, await maskFile(item.image!, thing))).id : thing.base);
      onDone(masks);
    } catch (problem) {
      setProblem(problem);
      setBusy(false);
    }
  };
  useKeys({ state, setTool, radius, setRadius, send: makeable.length && !busy ? () => void done() : null, modal: true });
  return (
    <Modal open onClose={onClose} label={say("batch.fix")} className="m-auto h-[min(46rem,94dvh)] w-[min(56rem,94vw)] rounded-2xl border border-line bg-card text-ink">
      <div className="flex h-full flex-col gap-3 p-4">
        <header className="flex items-center justify-between">
          <h2 className="truncate text-lg font-semibold">{item.name}</h2>
          <IconButton icon="close" label={say("options.close")} onClick={onClose} />
        </header>
        {state.doc && (
          <>
            <Tools state={state} tool={tool} onTool={setTool} radius={radius} onRadius={setRadius} info={info} />
            <div className="min-h-0 flex-1">
              <Stage state={state} tool={tool} radius={radius} onEscape={() => setTool("add")} />
            </div>
            <p className={`min-h-5 text-sm ${state.nothing ? "text-warn" : "text-soft"}`} role="status">
              {hintOf(state, say)}
            </p>
            <div className="max-h-32 overflow-y-auto">
              <Objects state={state} />
            </div>
          </>
        )}
        {problem !== null && <ErrorNote problem={problem} />}
        <footer className="flex justify-end">
          <button type="button" className="button button-main" disabled={!makeable.length || busy} onClick={() => void done()}>
            {busy && <Spinner className="size-4" />}
            {say("batch.done")}
          </button>
        </footer>
      </div>
    </Modal>
  );
}
