// The list of objects: which are there, what they are called, which are made.

import { useEffect, useState } from "react";
import { useText } from "../text";
import { Icon } from "../ui/icons";
import { layerOf } from "./layers";
import { added, colourOf, type Doc, isMarked, removed, replaced, type Thing } from "./things";
import type { DocState } from "./useDoc";

export function Objects({ state }: { state: DocState }) {
  const { say } = useText();
  const doc = state.doc!;
  const name = (number: number) => say("objects.default", { number });
  return (
    <section aria-label={say("objects.title")}>
      <ul className="flex flex-col gap-1.5">
        {doc.things.map((thing) => (
          <Row key={thing.key} doc={doc} thing={thing} state={state} nameOf={name} />
        ))}
      </ul>
      <button type="button" className="button button-bare mt-1.5 h-9 px-2.5 text-sm" onClick={() => state.change(added(doc, name))}>
        <Icon name="add" className="size-4" />
        {say("objects.add")}
      </button>
    </section>
  );
}

function Row({ doc, thing, state, nameOf }: { doc: Doc; thing: Thing; state: DocState; nameOf: (number: number) => string }) {
  const { say, language } = useText();
  const [share, setShare] = useState<number | null>(null);
  useEffect(() => {
    let current = true;
    if (!isMarked(thing)) setShare(null);
    else layerOf(doc.picture, thing).then((layer) => current && setShare(layer.share), () => undefined);
    return () => {
      current = false;
    };
  }, [doc.picture, thing]);
  const own = thing.key === doc.current;
  const many = doc.things.length > 1;
  return (
    <li className={`flex h-11 items-center gap-2.5 rounded-xl border px-2.5 ${own ? "border-accent bg-accent-wash" : "border-line"}`} onPointerDown={() => !own && state.touch({ ...doc, current: thing.key })}>
      {many ? (
        <input type="checkbox" className="size-4 shrink-0 accent-(--accent)" checked={thing.taken} aria-label={say("objects.take", { name: thing.name })} onChange={() => state.change(replaced(doc, { ...thing, taken: !thing.taken }))} />
      ) : null}
      <span className="size-3 shrink-0 rounded-full" style={{ background: colourOf(doc, thing) }} />
      <input
        className="min-w-0 flex-1 bg-transparent font-medium outline-none focus-visible:underline"
        value={thing.name}
        maxLength={60}
        aria-label={say("objects.name")}
        onFocus={() => !own && state.touch({ ...doc, current: thing.key })}
        onChange={(event) => state.touch(replaced(doc, { ...thing, name: event.target.value }))}
        onBlur={() => !thing.name.trim() && state.touch(replaced(doc, { ...thing, name: nameOf(doc.things.indexOf(thing) + 1) }))}
      />
      <span className="shrink-0 text-sm text-soft tabular-nums">
        {share === null ? say("objects.empty") : new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: share < 0.001 ? 3 : share < 0.1 ? 1 : 0 }).format(share)}
      </span>
      <button type="button" className="icon-button -mr-1 size-8" aria-label={say("objects.remove", { name: thing.name })} title={say("objects.remove", { name: thing.name })} disabled={!many && !isMarked(thing)} onClick={() => state.change(removed(doc, thing.key, nameOf))}>
        <Icon name="trash" className="size-4" />
      </button>
    </li>
  );
}
