// Drives ComfyUI's real canvas in a real browser, for tests/test_comfyui.py and for making example_workflows/*.json.
//
//   node canvas.cjs '{"url": ..., "chromium": ..., "steps": [...]}'
//
// Prints one JSON object: what each step found, and the page's errors. Needs playwright-core on NODE_PATH.
const { chromium } = require("playwright-core");

const job = JSON.parse(process.argv[2]);
const result = { errors: [], steps: [] };

const steps = {
  // Load a graph: a UI graph as it is, an API graph as the frontend lays it out.
  async load(page, { graph, api, name }) {
    await page.evaluate(
      async ([graph, api, name]) => {
        if (api) await window.app.loadApiJson(graph, name);
        else await window.app.loadGraphData(graph);
      },
      [graph, api, name],
    );
    await page.waitForTimeout(1500);
    return page.evaluate(() => window.app.graph._nodes.map((n) => ({ id: n.id, type: n.type, error: !!n.has_errors })));
  },
  // Place nodes: id -> [x, y, width, height]; adds a note; returns the graph as the frontend saves it.
  async arrange(page, { places, note, title }) {
    return page.evaluate(
      ([places, note, title]) => {
        const graph = window.app.graph;
        for (const node of graph._nodes) {
          const [x, y, w, h] = places[node.id];
          node.pos = [x, y];
          node.setSize([w, h]);
          for (const widget of node.widgets || []) if (widget.name === "control_after_generate") widget.value = "fixed";
        }
        if (note) {
          const made = window.LiteGraph.createNode("MarkdownNote");
          graph.add(made);
          made.title = title;
          made.pos = [note.place[0], note.place[1]];
          made.setSize([note.place[2], note.place[3]]);
          made.widgets[0].value = note.text;
        }
        window.app.canvas.setDirty(true, true);
        return graph.serialize();
      },
      [places, note, title],
    );
  },
  // Queue as the button does and wait for the end.
  async queue(page, { seconds }) {
    return page.evaluate(async (seconds) => {
      const api = window.app.api;
      const seen = { progress: 0, executed: [], end: null, message: "" };
      const ended = new Promise((resolve) => {
        api.addEventListener("progress", () => seen.progress++);
        api.addEventListener("executed", (e) => seen.executed.push(String(e.detail.node)));
        for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
          api.addEventListener(kind, (e) => {
            seen.end = kind;
            seen.message = (e.detail && e.detail.exception_message) || "";
            resolve();
          });
      });
      await window.app.queuePrompt(0);
      await Promise.race([ended, new Promise((r) => setTimeout(r, seconds * 1000))]);
      return seen;
    }, seconds);
  },
  async wait(page, { seconds }) {
    await page.waitForTimeout(seconds * 1000);
  },
  // What the nodes show: pictures on them, 3D canvases, texts.
  async look(page) {
    return page.evaluate(() =>
      window.app.graph._nodes.map((n) => ({
        id: String(n.id),
        type: n.type,
        title: n.title,
        images: (n.imgs || []).map((i) => [i.naturalWidth, i.naturalHeight]),
        widgets: (n.widgets || []).map((w) => w.name),
        texts: (n.widgets || []).filter((w) => typeof w.value === "string").map((w) => w.value),
      })),
    );
  },
  // The 3D canvases over the nodes: where, and how many colours a screenshot of each has.
  async viewers(page) {
    const out = [];
    for (const canvas of await page.locator("canvas").all()) {
      const box = await canvas.boundingBox();
      if (!box || (await canvas.getAttribute("id")) === "graph-canvas" || box.width < 50 || box.width > 1500) continue;
      const png = await page.screenshot({ clip: box });
      const colors = await page.evaluate(async (base64) => {
        const picture = await createImageBitmap(await (await fetch(`data:image/png;base64,${base64}`)).blob());
        const copy = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
        copy.drawImage(picture, 0, 0);
        return new Set(new Uint32Array(copy.getImageData(0, 0, picture.width, picture.height).data.buffer)).size;
      }, png.toString("base64"));
      out.push({ box, colors });
    }
    return out;
  },
  // Wait until the pictures are on their nodes and the viewers show something, at most `seconds`; the viewers as above.
  async settle(page, { seconds }) {
    const end = Date.now() + seconds * 1000;
    for (;;) {
      const missing = await page.evaluate(() => window.app.graph._nodes.filter((n) => n.type === "SAM3DPreview" && !(n.imgs || []).length).length);
      const found = await steps.viewers(page);
      if ((!missing && found.every((v) => v.colors > 200)) || Date.now() > end) return found;
      await page.waitForTimeout(1000);
    }
  },
  async setting(page, { name, value }) {
    await page.evaluate(([name, value]) => window.app.extensionManager.setting.set(name, value), [name, value]);
    await page.waitForTimeout(500);
  },
  async reload(page) {
    await page.reload();
    await ready(page);
  },
  // Fit the whole graph into the window.
  async fit(page) {
    await page.evaluate(() => {
      const canvas = window.app.canvas;
      const nodes = window.app.graph._nodes;
      const x0 = Math.min(...nodes.map((n) => n.pos[0])) - 20;
      const y0 = Math.min(...nodes.map((n) => n.pos[1])) - 60;
      const x1 = Math.max(...nodes.map((n) => n.pos[0] + n.size[0])) + 20;
      const y1 = Math.max(...nodes.map((n) => n.pos[1] + n.size[1])) + 20;
      const width = canvas.canvas.clientWidth - 80;
      const height = canvas.canvas.clientHeight - 120;
      canvas.ds.scale = Math.min(width / (x1 - x0), height / (y1 - y0), 1.2);
      canvas.ds.offset[0] = -x0 + (70 + (width - (x1 - x0) * canvas.ds.scale) / 2) / canvas.ds.scale;
      canvas.ds.offset[1] = -y0 + (70 + (height - (y1 - y0) * canvas.ds.scale) / 2) / canvas.ds.scale;
      canvas.setDirty(true, true);
    });
    await page.waitForTimeout(800);
  },
  async screenshot(page, { path, clip, quality }) {
    await page.screenshot({ path, clip, ...(path.endsWith(".jpg") ? { quality: quality || 80, type: "jpeg" } : {}) });
  },
  async evaluate(page, { code }) {
    return page.evaluate(code);
  },
};

async function ready(page) {
  await page.waitForFunction(() => window.app && window.app.graph && window.app.canvas && window.LiteGraph.registered_node_types.SAM3DReconstruct, null, {
    timeout: 60000,
  });
  await page.waitForTimeout(1500);
  await page.keyboard.press("Escape"); // the template browser of a first visit
  await page.waitForTimeout(500);
}

(async () => {
  const browser = await chromium.launch({
    executablePath: job.chromium,
    args: ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"],
  });
  const page = await browser.newPage({ viewport: { width: 1600, height: 1000 }, locale: job.locale || "en-US" });
  // Nothing but the server on this machine is asked for anything.
  await page.route((url) => url.origin !== new URL(job.url).origin && !["data:", "blob:"].includes(url.protocol), (route) => route.abort());
  page.on("pageerror", (error) => result.errors.push(String(error)));
  page.on("response", (response) => {
    if (response.status() >= 500 || (response.status() >= 400 && response.url().includes("/view?"))) result.errors.push(`${response.status()}: ${response.url()}`);
  });
  await page.goto(job.url);
  await ready(page);
  await page.evaluate(async () => {
    for (const name of ["Comfy.Minimap.Visible"]) await window.app.extensionManager.setting.set(name, false).catch(() => {});
  });
  for (const step of job.steps) result.steps.push((await steps[step.do](page, step)) ?? null);
  await browser.close();
  console.log(JSON.stringify(result));
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
