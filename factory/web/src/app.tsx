import { Component, type ReactNode, useEffect, useLayoutEffect, useState } from "react";
import { api, ApiError, needToken } from "./api";
import { BatchPage } from "./batch/BatchPage";
import { useRoute } from "./route";
import { Studio } from "./studio/Studio";
import { useText } from "./text";
import type { Health, Info } from "./types";
import { remember, useShared } from "./ui/memory";
import { ErrorNote, IconButton, Modal } from "./ui/parts";

const THEMES = ["system", "light", "dark"] as const;
type Theme = (typeof THEMES)[number];

export function applyTheme(theme: Theme): void {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

export function App() {
  const { say } = useText();
  const route = useRoute();
  const [info, setInfo] = useState<Info | null>(null);
  const [token, setToken] = useState(false);
  const [round, setRound] = useState(0); // counts logins: everything is loaded anew then
  const health = useHealth();
  useEffect(() => {
    const need = () => setToken(true);
    needToken.addEventListener("need", need);
    return () => needToken.removeEventListener("need", need);
  }, []);
  const alive = health !== null;
  useEffect(() => {
    if (alive) api.info().then(setInfo, () => undefined);
  }, [alive, round, health?.status === "ready"]);
  const failed = health?.status === "failed" ? health.workers?.find((worker) => worker.error)?.error : null;
  return (
    <>
      <a href="#main" className="sr-only focus:not-sr-only focus:absolute focus:z-20 focus:m-2 focus:rounded-lg focus:bg-card focus:px-4 focus:py-2" onClick={(event) => (event.preventDefault(), document.getElementById("main")?.focus())}>
        {say("app.skip")}
      </a>
      <Header page={route.page} health={health} />
      <main id="main" tabIndex={-1} className="mx-auto max-w-[96rem] px-6 pt-2 pb-10 outline-none max-sm:px-3">
        {failed && (
          <div className="mb-4">
            <ErrorNote problem={failed} />
          </div>
        )}
        {route.page === "batch" ? <BatchPage key={`b${round}`} id={route.id} info={info} /> : <Studio key={`c${round}`} jobId={route.id} info={info} />}
      </main>
      <Token
        open={token}
        onDone={() => {
          setToken(false);
          setRound((n) => n + 1);
        }}
      />
    </>
  );
}

function Header({ page, health }: { page: string; health: Health | null | undefined }) {
  const { say, language, setLanguage } = useText();
  const [theme, setTheme] = useShared<Theme>("theme", "system");
  useLayoutEffect(() => applyTheme(theme), [theme]);
  const link = (to: string, name: "create" | "batch") => (
    <a href={to} aria-current={page === name ? "page" : undefined} className={`rounded-lg px-3 py-1.5 font-medium transition-colors ${page === name ? "bg-sunk text-ink" : "text-soft hover:text-ink"}`}>
      {say(`app.${name}`)}
    </a>
  );
  return (
    <header className="mx-auto flex h-16 max-w-[96rem] items-center gap-1 px-6 max-sm:px-3">
      <a href="#/" className="mr-4 flex h-9 items-center gap-2.5 text-lg font-semibold tracking-tight max-sm:mr-1">
        <img src="./icon.svg" alt="" className="size-7" />
        <span className="max-sm:sr-only">SAM 3D</span>
      </a>
      <nav className="flex gap-1">
        {link("#/", "create")}
        {link("#/batch", "batch")}
      </nav>
      <span className="flex-1" />
      <Pulse health={health} />
      <button type="button" className="button button-bare h-9 px-2.5 text-sm" lang={language === "en" ? "ja" : "en"} onClick={() => setLanguage(language === "en" ? "ja" : "en")}>
        {say("app.language")}
      </button>
      <IconButton icon={theme === "system" ? "system" : theme === "light" ? "sun" : "moon"} label={say("app.theme", { theme: say(`theme.${theme}`) })} onClick={() => setTheme(THEMES[(THEMES.indexOf(theme) + 1) % 3]!)} />
    </header>
  );
}

function Pulse({ health }: { health: Health | null | undefined }) {
  const { say } = useText();
  const colour = { ready: "bg-good", busy: "bg-accent", starting: "bg-warn", failed: "bg-bad" };
  const text = health === undefined ? say("app.loading") : health === null ? say("health.offline") : health.status === "busy" ? (health.queue ? say("health.busy", { queue: health.queue }) : say("job.running")) : say(`health.${health.status}`);
  return (
    <span className="mr-2 flex items-center gap-2 text-sm text-soft" role="status" title={text} data-testid="health" data-status={health?.status ?? "offline"}>
      <span className={`size-2 rounded-full ${health ? colour[health.status] : health === null ? "bg-bad" : "bg-line"}`} />
      <span className="max-md:sr-only">{text}</span>
    </span>
  );
}

/** undefined: not known yet; null: the server doesn't answer. */
function useHealth(): Health | null | undefined {
  const [health, setHealth] = useState<Health | null | undefined>(undefined);
  useEffect(() => {
    let timer = 0;
    let current = true;
    const ask = async () => {
      const found = await api.health().catch(() => null);
      if (!current) return;
      setHealth(found);
      clearTimeout(timer); // of `soon`, while this was under way: one after the other, not both for ever
      timer = window.setTimeout(() => void ask(), found?.status === "ready" ? 8000 : 2000);
    };
    const soon = () => {
      clearTimeout(timer);
      timer = window.setTimeout(() => void ask(), 500);
    };
    void ask();
    addEventListener("hashchange", soon); // a job was sent, or another one looked at
    return () => {
      current = false;
      clearTimeout(timer);
      removeEventListener("hashchange", soon);
    };
  }, []);
  return health;
}

function Token({ open, onDone }: { open: boolean; onDone: () => void }) {
  const { say } = useText();
  const [text, setText] = useState("");
  const [problem, setProblem] = useState<unknown>(null);
  return (
    <Modal open={open} label={say("token.title")} className="m-auto w-full max-w-sm rounded-2xl border border-line bg-card p-6 text-ink">
      <form
        className="grid gap-4"
        onSubmit={(event) => {
          event.preventDefault();
          api.login(text.trim()).then(onDone, (problem) => setProblem(problem instanceof ApiError && problem.code === "E_DENIED" ? new Error(say("token.wrong")) : problem));
        }}
      >
        <h2 className="text-lg font-semibold">{say("token.title")}</h2>
        <p className="text-soft">{say("token.text")}</p>
        <input className="field" type="password" autoFocus autoComplete="current-password" aria-label={say("token.field")} value={text} onChange={(event) => setText(event.target.value)} />
        {problem !== null && <ErrorNote problem={problem} />}
        <button className="button button-main" disabled={!text.trim()}>
          {say("token.send")}
        </button>
      </form>
    </Modal>
  );
}

export class Guard extends Component<{ children: ReactNode }, { problem: Error | null }> {
  override state = { problem: null as Error | null };
  static getDerivedStateFromError(problem: Error) {
    return { problem };
  }
  override render() {
    return this.state.problem ? <Broken problem={this.state.problem} /> : this.props.children;
  }
}

function Broken({ problem }: { problem: Error }) {
  const { say } = useText();
  return (
    <div className="flex min-h-dvh flex-col items-center justify-center gap-4 p-6">
      <h1 className="text-lg font-semibold">{say("app.broken")}</h1>
      <p className="text-soft">{problem.message}</p>
      <button type="button" className="button button-main" onClick={() => (remember("document", null), location.reload())}>
        {say("app.reload")}
      </button>
    </div>
  );
}
