// Small parts that several screens have.

import { type ReactNode, useEffect, useRef } from "react";
import { useText } from "../text";
import { useProblem } from "../text/errors";
import { Icon, type IconName } from "./icons";

export function IconButton(props: { icon: IconName; label: string; onClick: () => void; pressed?: boolean; disabled?: boolean; className?: string }) {
  return (
    <button type="button" className={`icon-button ${props.className ?? ""}`} title={props.label} aria-label={props.label} aria-pressed={props.pressed} disabled={props.disabled} onClick={props.onClick}>
      <Icon name={props.icon} />
    </button>
  );
}

export function Choice<T extends string>(props: { label: string; value: T; options: readonly (readonly [T, string])[]; onChange: (value: T) => void; disabled?: readonly T[] }) {
  const move = (by: number) => {
    const open = props.options.filter(([value]) => !props.disabled?.includes(value));
    const at = open.findIndex(([value]) => value === props.value);
    const next = open[(at + by + open.length) % open.length];
    if (next) props.onChange(next[0]);
  };
  return (
    <div
      role="radiogroup"
      aria-label={props.label}
      className="segment"
      onKeyDown={(event) => {
        const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (by === undefined) return;
        event.preventDefault();
        event.stopPropagation();
        move(by);
        const group = event.currentTarget;
        requestAnimationFrame(() => group.querySelector<HTMLElement>('[aria-checked="true"]')?.focus());
      }}
    >
      {props.options.map(([value, text]) => (
        <button key={value} type="button" role="radio" aria-checked={value === props.value} tabIndex={value === props.value ? 0 : -1} disabled={props.disabled?.includes(value)} className="disabled:opacity-40" onClick={() => props.onChange(value)}>
          {text}
        </button>
      ))}
    </div>
  );
}

export function Spinner({ className = "size-5" }: { className?: string }) {
  return (
    <svg viewBox="0 0 20 20" className={`animate-spin ${className}`} fill="none" stroke="currentColor" strokeWidth="2" aria-hidden="true">
      <circle cx="10" cy="10" r="7.5" opacity="0.2" />
      <path d="M17.5 10A7.5 7.5 0 0 0 10 2.5" strokeLinecap="round" />
    </svg>
  );
}

/** An error in the page's language, with the server's own words where those are in another one. */
export function ErrorNote({ problem, onClose }: { problem: unknown; onClose?: () => void }) {
  const { say } = useText();
  const { text, hint, detail } = useProblem()(problem);
  return (
    <div role="alert" className="flex items-start gap-3 rounded-xl bg-bad-wash px-4 py-3 text-sm text-bad">
      <Icon name="warn" className="mt-px size-5 shrink-0" />
      <div className="min-w-0 flex-1 break-words">
        <p>
          <span className="font-medium">{text}</span> <span className="opacity-85">{hint}</span>
        </p>
        {detail && (
          <p lang="en" className="mt-0.5 text-xs opacity-85">
            {detail}
          </p>
        )}
      </div>
      {onClose && (
        <button type="button" className="-m-1 p-1" aria-label={say("error.close")} onClick={onClose}>
          <Icon name="close" className="size-4" />
        </button>
      )}
    </div>
  );
}

/** A modal dialog, the browser's own: it keeps the focus inside, and Escape closes it. Without onClose it can't be left: there is nothing behind it yet. */
export function Modal(props: { open: boolean; onClose?: () => void; label: string; className: string; children: ReactNode }) {
  const ref = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const dialog = ref.current;
    if (props.open && dialog && !dialog.open) dialog.showModal();
    if (!props.open && dialog?.open) dialog.close();
  }, [props.open]);
  return (
    <dialog
      ref={ref}
      aria-label={props.label}
      className={props.className}
      onCancel={(event) => !props.onClose && event.preventDefault()}
      onClose={() => {
        if (props.onClose) props.onClose();
        else if (props.open) ref.current?.showModal(); // browsers let a second Escape through
      }}
      onClick={(event) => event.target === ref.current && props.onClose?.()}
    >
      {props.open && props.children}
    </dialog>
  );
}

export function Progress({ value, label }: { value: number | null; label: string }) {
  return (
    <div role="progressbar" aria-label={label} aria-valuemin={0} aria-valuemax={100} aria-valuenow={value === null ? undefined : Math.round(value * 100)} className="h-1.5 w-full overflow-hidden rounded-full bg-line">
      <div className={`h-full rounded-full bg-accent transition-[width] duration-300 ${value === null ? "w-1/4 animate-pulse" : ""}`} style={value === null ? undefined : { width: `${Math.max(2, value * 100)}%` }} />
    </div>
  );
}
