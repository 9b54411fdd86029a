import { createContext, type ReactNode, useContext, useEffect, useMemo } from "react";
import { useShared } from "../ui/memory";
import { en, type Key } from "./en";
import { ja } from "./ja";

export type Language = "en" | "ja";
export type Say = (key: Key, values?: Record<string, string | number>) => string;

const Context = createContext<{ language: Language; locale: string; setLanguage: (next: Language) => void; say: Say }>(null!);

export function Texts({ children }: { children: ReactNode }) {
  const [chosen, setLanguage] = useShared<string>("language", navigator.language.startsWith("ja") ? "ja" : "en");
  const language: Language = chosen === "ja" ? "ja" : "en";
  useEffect(() => {
    document.documentElement.lang = language;
  }, [language]);
  const value = useMemo(() => {
    const words: Record<Key, string> = language === "ja" ? ja : en;
    const say: Say = (key, values = {}) => (words[key] ?? key).replace(/\{(\w+)\}/g, (_, name: string) => String(values[name] ?? ""));
    const locale = navigator.language.startsWith(language) ? navigator.language : language; // for dates: 24 hours in Britain, 12 in the States
    return { language, locale, setLanguage, say };
  }, [language]); // eslint-disable-line
  return <Context.Provider value={value}>{children}</Context.Provider>;
}

export const useText = () => useContext(Context);

/** Whether a name that the server uses (a stage, a status) has a text of its own. */
export const known = (key: string): key is Key => key in en;
