import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import tailwind from "@tailwindcss/vite";
import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";

/** Large text files get a packed twin, which the server sends to browsers that read it: no compression while people wait. */
function pack(): Plugin {
  let folder = "";
  return {
    name: "pack",
    apply: "build",
    configResolved: (config) => void (folder = `${config.root}/${config.build.outDir}/assets`),
    closeBundle() {
      for (const name of readdirSync(folder)) if (/\.(js|css)$/.test(name)) writeFileSync(`${folder}/${name}.gz`, gzipSync(readFileSync(`${folder}/${name}`), { level: 9 }));
    },
  };
}

/** The licences of what the browser gets, as the packages hold them: third-party.txt beside the page. */
function notices(): Plugin {
  return {
    name: "notices",
    apply: "build",
    generateBundle() {
      const parts = ["@sparkjsdev/spark", "react", "react-dom", "scheduler", "tailwindcss", "three"].map((name) => {
        const folder = new URL(`./node_modules/${name}/`, import.meta.url);
        const { version, license } = JSON.parse(readFileSync(new URL("package.json", folder), "utf8")) as { version: string; license: string };
        const file = readdirSync(folder).find((one) => /^licen[cs]e/i.test(one));
        return `${name} ${version}, ${license}\n\n${file ? readFileSync(new URL(file, folder), "utf8") : ""}`;
      });
      this.emitFile({ type: "asset", fileName: "third-party.txt", source: parts.join(`\n\n${"-".repeat(80)}\n\n`) });
    },
  };
}

// Nothing is inlined: the server's content policy allows no script and no font in the page itself. The API of `vite dev` is a server that runs beside it.
export default defineConfig({
  base: "./",
  plugins: [react(), tailwind(), notices(), pack()],
  build: { outDir: "dist", assetsInlineLimit: 0, target: "es2022", cssTarget: ["chrome123", "firefox121", "safari17.5"], modulePreload: { polyfill: false }, chunkSizeWarningLimit: 4000 },
  server: { host: "127.0.0.1", proxy: { "/api": "http://127.0.0.1:9001" }, fs: { allow: ["../.."] } },
});
