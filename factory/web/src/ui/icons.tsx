// Drawn on a 20 by 20 grid, one line weight.

const PATHS = {
  add: "M10 4v12M4 10h12",
  point: "M10 2.5v4M10 13.5v4M2.5 10h4M13.5 10h4M10 9.2a.8.8 0 1 0 0 1.6.8.8 0 0 0 0-1.6Z",
  unpoint: "M10 3a7 7 0 1 0 0 14 7 7 0 0 0 0-14ZM6.8 10h6.4",
  box: "M3.5 6.5v-3h3M13.5 3.5h3v3M16.5 13.5v3h-3M6.5 16.5h-3v-3",
  brush: "M16.8 3.2 9 11M7.6 11.2c-2.6 0-2.4 3.8-5 4.6 3.6 1.6 7.4.6 7-2.6A2 2 0 0 0 7.6 11.2Z",
  erase: "M8.5 16.5 3.6 11.6a1.4 1.4 0 0 1 0-2l6-6a1.4 1.4 0 0 1 2 0l4.8 4.8a1.4 1.4 0 0 1 0 2l-6.1 6.1ZM6.6 6.6l6.8 6.8M8.5 16.5h8",
  undo: "M4 8h8a4.5 4.5 0 0 1 0 9H8M4 8l3.5-3.5M4 8l3.5 3.5",
  redo: "M16 8H8a4.5 4.5 0 0 0 0 9h4M16 8l-3.5-3.5M16 8l-3.5 3.5",
  close: "m5 5 10 10M15 5 5 15",
  trash: "M3.5 5.5h13M8 5.5v-2h4v2M5 5.5l.8 11h8.4l.8-11M8.3 8.5v5M11.7 8.5v5",
  options: "M3 6h8M15 6h2M3 14h2M9 14h8M13 4v4M7 12v4",
  download: "M10 3v9.5M6 9l4 4 4-4M3.5 16.5h13",
  camera: "M3 6.5h3l1.4-2h5.2l1.4 2h3v10H3ZM10 8.5a3 3 0 1 0 0 6 3 3 0 0 0 0-6Z",
  wire: "M10 2.5 16.5 6v8L10 17.5 3.5 14V6ZM3.5 6 10 9.5 16.5 6M10 9.5v8M3.5 14 10 9.5l6.5 4.5",
  cube: "M10 2.5 16.5 6v8L10 17.5 3.5 14V6ZM3.5 6 10 9.5 16.5 6M10 9.5v8",
  turn: "M16.5 10a6.5 6.5 0 1 1-2-4.7M16.5 3v3.5H13",
  home: "M3 9.5 10 3.5l7 6M5 8v8.5h10V8",
  dice: "M4 4h12v12H4ZM7.5 7.5h.01M12.5 7.5h.01M10 10h.01M7.5 12.5h.01M12.5 12.5h.01",
  folder: "M2.5 5.5v10h15v-8h-7l-2-2Z",
  picture: "M3 4h14v12H3ZM3 13l4-4 3.5 3.5L13 10l4 4M12.5 7h.01",
  sun: "M10 6.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7ZM10 1.8v1.7M10 16.5v1.7M1.8 10h1.7M16.5 10h1.7M4.2 4.2l1.2 1.2M14.6 14.6l1.2 1.2M4.2 15.8l1.2-1.2M14.6 5.4l1.2-1.2",
  moon: "M16.5 11.8A7 7 0 0 1 8.2 3.5a7 7 0 1 0 8.3 8.3Z",
  system: "M3 4h14v9.5H3ZM7 16.5h6M10 13.5v3",
  check: "m4 10.5 4 4 8-9",
  warn: "M10 3 18 16.5H2ZM10 8v4M10 14.3h.01",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, className = "size-5" }: { name: IconName; className?: string }) {
  return (
    <svg viewBox="0 0 20 20" className={className} fill="none" stroke="currentColor" strokeWidth="1.6" strokeLinecap="round" strokeLinejoin="round" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
