// Where a picture comes in: dropped, chosen, photographed, pasted, or one of the samples.

import { useEffect, useRef, useState } from "react";
import campsite from "../../../../examples/campsite/image.png";
import dog from "../../../../examples/camp_dog.png";
import camper from "../../../../examples/camper.png";
import mushroom from "../../../../examples/mushroom.png";
import pixel from "../../../../examples/pixel_campfire.png";
import steak from "../../../../examples/steak.png";
import { useText } from "../text";
import { Icon } from "../ui/icons";
import { Spinner } from "../ui/parts";

const SAMPLES = [
  ["steak", steak],
  ["camper", camper],
  ["mushroom", mushroom],
  ["dog", dog],
  ["pixel", pixel],
  ["campsite", campsite],
] as const;
export const TYPES = ["image/png", "image/jpeg", "image/webp"];

export function Drop({ busy, megabytes, onFile }: { busy: boolean; megabytes: number; onFile: (file: Blob, name: string) => void }) {
  const { say } = useText();
  const files = useRef<HTMLInputElement>(null);
  const photo = useRef<HTMLInputElement>(null);
  const touch = matchMedia("(pointer: coarse)").matches;
  const chosen = (list: FileList | null) => {
    const file = list?.[0];
    if (file) onFile(file, file.name);
  };
  return (
    <div className="flex h-full flex-col">
      <div className="flex min-h-64 flex-1 flex-col items-center justify-center gap-4 rounded-xl border-2 border-dashed border-line px-6 py-10 text-center">
        <span className="flex size-14 items-center justify-center rounded-2xl bg-accent-wash text-accent">{busy ? <Spinner className="size-6" /> : <Icon name="picture" className="size-7" />}</span>
        <div>
          <h2 className="text-lg font-semibold">{say(busy ? "drop.sending" : touch ? "drop.titleTouch" : "drop.title")}</h2>
          <p className="mt-1 text-soft">{say(touch ? "drop.textTouch" : "drop.text", { size: megabytes })}</p>
        </div>
        <div className="flex flex-wrap justify-center gap-2">
          <button type="button" className="button button-main" disabled={busy} onClick={() => files.current?.click()}>
            {say("drop.choose")}
          </button>
          {touch && (
            <button type="button" className="button button-quiet" disabled={busy} onClick={() => photo.current?.click()}>
              <Icon name="camera" />
              {say("drop.camera")}
            </button>
          )}
        </div>
        <input ref={files} type="file" hidden accept={TYPES.join(",")} data-testid="file" onChange={(event) => (chosen(event.target.files), (event.target.value = ""))} />
        <input ref={photo} type="file" hidden accept="image/*" capture="environment" onChange={(event) => (chosen(event.target.files), (event.target.value = ""))} />
      </div>
      <h3 className="mt-5 mb-2 text-sm text-soft">{say("drop.samples")}</h3>
      <div className="grid grid-cols-6 gap-2 max-sm:grid-cols-3">
        {SAMPLES.map(([name, url]) => (
          <button
            key={name}
            type="button"
            disabled={busy}
            aria-label={say("drop.sample", { name: say(`sample.${name}`) })}
            title={say(`sample.${name}`)}
            className="aspect-square overflow-hidden rounded-xl border border-line bg-sunk p-1.5 transition-transform hover:-translate-y-0.5 hover:border-accent"
            onClick={async () => onFile(await (await fetch(url)).blob(), `${name}.png`)}
          >
            <img src={url} alt="" className={`size-full object-contain ${name === "pixel" ? "[image-rendering:pixelated]" : ""}`} />
          </button>
        ))}
      </div>
    </div>
  );
}

/** Pictures dropped or pasted anywhere on the page. */
export function useDropAndPaste(onFile: (file: Blob, name: string) => void): { over: boolean } {
  const [over, setOver] = useState(false);
  const latest = useRef(onFile);
  latest.current = onFile;
  useEffect(() => {
    const holds = (event: globalThis.DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
    const drag = (event: globalThis.DragEvent) => {
      if (!holds(event)) return;
      event.preventDefault();
      setOver(true);
    };
    const leave = (event: globalThis.DragEvent) => event.relatedTarget === null && setOver(false);
    const drop = (event: globalThis.DragEvent) => {
      if (!holds(event)) return;
      event.preventDefault();
      setOver(false);
      const file = event.dataTransfer?.files[0];
      if (file) latest.current(file, file.name);
    };
    const paste = (event: ClipboardEvent) => {
      const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
      if (file) latest.current(file, file.name || "pasted.png");
    };
    document.addEventListener("dragover", drag);
    document.addEventListener("dragleave", leave);
    document.addEventListener("drop", drop);
    document.addEventListener("paste", paste);
    return () => {
      document.removeEventListener("dragover", drag);
      document.removeEventListener("dragleave", leave);
      document.removeEventListener("drop", drop);
      document.removeEventListener("paste", paste);
    };
  }, []);
  return { over };
}


