import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App, applyTheme, Guard } from "./app";
import "./app.css";
import { Texts } from "./text";
import { remembered } from "./ui/memory";

applyTheme(remembered<"system" | "light" | "dark">("theme", "system", "browser"));
createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <Texts>
      <Guard>
        <App />
      </Guard>
    </Texts>
  </StrictMode>,
);
