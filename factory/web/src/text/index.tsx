import { createContext, type ReactNode, useContext, useEffect, useMemo, useState } from "react";
import { remember, remembered } from "../ui/memory";
import { en, type Key } from "./en";
import { ja } from "./ja";

export type Language = "en" | "ja";
export type Say = (key: Key, values?: Record<string, string | number>) => string;

const Context = createContext<{ language: Language; setLanguage: (next: Language) => void; say: Say }>(null!);

function first(): Language {
  const kept = remembered<string>("language", "");
  return kept === "ja" || (kept === "" && navigator.language.startsWith("ja")) ? "ja" : "en";
}

export function Texts({ children }: { children: ReactNode }) {
  const [language, set] = useState<Language>(first);
  useEffect(() => {
    document.documentElement.lang = language;
  }, [language]);
  const value = useMemo(() => {
    const words: Record<Key, string> = language === "ja" ? ja : en;
    const say: Say = (key, values = {}) => (words[key] ?? key).replace(/\{(\w+)\}/g, (_, name: string) => String(values[name] ?? ""));
    const setLanguage = (next: Language) => {
      remember("language", next);
      set(next);
    };
    return { language, setLanguage, say };
  }, [language]);
  return <Context.Provider value={value}>{children}</Context.Provider>;
}

export const useText = () => useContext(Context);

/** Whether a name that the server uses (a stage, a status) has a text of its own. */
export const known = (key: string): key is Key => key in en;
