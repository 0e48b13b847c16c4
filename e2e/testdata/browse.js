"use strict";
// Drives Chromium through pages of the UI and says what it found, one JSON line a
// page: violations of axe's rules, requests to other hosts, console errors,
// dialogs, and how many bytes its files have. Reads one JSON document:
//
//   {"base": "http://127.0.0.1:1", "chromium": "/usr/bin/chromium", "token": "…",
//    "pages": ["/ui/", …], "schemes": ["light", "dark"], "shots": "/folder or empty"}
//
// modules: node_modules of tools/install.sh playwright, by NODE_PATH.
const fs = require("fs");
const path = require("path");
const zlib = require("zlib");
const { chromium } = require("playwright-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const say = (o) => fs.writeSync(1, JSON.stringify(o) + "\n");

async function main() {
  const want = JSON.parse(fs.readFileSync(0, "utf8"));
  const browser = await chromium.launch({
    executablePath: want.chromium, headless: true,
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking"],
  });
  try {
    for (const scheme of want.schemes) await visit(browser, want, scheme);
  } finally {
    await browser.close();
  }
}

async function visit(browser, want, scheme) {
  const context = await browser.newContext({ colorScheme: scheme, viewport: { width: want.width || 1280, height: 900 } });
  const page = await context.newPage();
  let found;
  const fresh = () => { found = { external: [], errors: [], dialogs: [], files: 0 }; };
  fresh();
  page.on("request", (r) => { if (new URL(r.url()).origin !== want.base && !r.url().startsWith("data:")) found.external.push(r.url()); });
  page.on("console", (m) => { if (m.type() === "error" || m.type() === "warning") found.errors.push(m.text()); });
  page.on("pageerror", (e) => found.errors.push(String(e)));
  page.on("dialog", (d) => { found.dialogs.push(d.message()); d.dismiss(); });
  page.on("response", async (r) => {
    try {
      if (r.headers()["content-type"] !== "text/event-stream") found.files += zlib.gzipSync(await r.body()).length;
    } catch { /* a redirect has no body */ }
  });

  const look = async (at, name) => {
    fresh();
    const resp = await page.goto(want.base + at, { waitUntil: "load" });
    await page.waitForTimeout(30); // what arrived is counted
    const before = { ...found };
    // The page's own policy lets no script in: axe is put in by the debugger's way.
    await page.evaluate(axe);
    const result = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
    const marks = await page.evaluate(() => ({
      title: document.title, text: document.body.innerText.slice(0, 200000), scripts: document.scripts.length, pwned: String(window.pwned),
      wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
    }));
    if (want.shots) await page.screenshot({ path: path.join(want.shots, name + "-" + scheme + ".png"), fullPage: !want.fold });
    say({
      page: at, scheme, status: resp.status(), external: before.external, errors: before.errors, dialogs: before.dialogs, bytes: before.files,
      violations: result.violations.map((v) => ({ id: v.id, help: v.help, nodes: v.nodes.slice(0, 5).map((n) => n.html.slice(0, 200) + " @ " + n.target + " " + n.failureSummary) })),
      ...marks,
    });
  };
  const name = (at) => at.replace(/^\/ui\/?/, "").replace(/[^a-z0-9]+/gi, "-").slice(0, 100) || "overview";

  await look("/ui/login", "login");
  await page.fill("input[name=token]", want.token);
  await Promise.all([page.waitForURL((u) => !u.pathname.endsWith("/login")), page.click("main button")]);
  for (const at of want.pages) await look(at, name(at));
  // By the keyboard alone: to the search, out of it, to a page, along its rows.
  await page.goto(want.base + "/ui/runbooks", { waitUntil: "load" });
  await page.keyboard.press("/");
  const search = await page.evaluate(() => document.activeElement.id === "q");
  await page.keyboard.press("Escape");
  await page.keyboard.press("g");
  await Promise.all([page.waitForURL((u) => u.pathname === "/ui/artifacts"), page.keyboard.press("a")]);
  await page.keyboard.press("j");
  const row = await page.evaluate(() => document.activeElement.closest("tbody tr") !== null);
  say({ page: "keyboard", scheme, status: 200, title: "keyboard", pwned: "undefined", scripts: 1, keys: search && row });
  await context.close();
}

main().catch((e) => { say({ failed: String(e && e.stack || e) }); process.exit(1); });
