"use strict";
// Looks at one file in Chromium, in light, in dark and as it prints, and says what it
// found, one JSON line each: violations of axe's rules, requests to anywhere, console
// errors. Reads {"chromium": "/usr/bin/chromium", "file": "/path/page.html"}.
const fs = require("fs");
const { pathToFileURL } = require("url");
const { chromium } = require("playwright-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

async function main() {
  const want = JSON.parse(fs.readFileSync(0, "utf8"));
  const at = pathToFileURL(want.file).href;
  const browser = await chromium.launch({
    executablePath: want.chromium, headless: true,
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking"],
  });
  try {
    for (const scheme of ["light", "dark", "print"]) {
      const context = await browser.newContext(scheme === "print" ? {} : { colorScheme: scheme, viewport: { width: 1280, height: 900 } });
      const page = await context.newPage();
      if (scheme === "print") await page.emulateMedia({ media: "print" });
      const external = [], errors = [], dialogs = [];
      page.on("request", (r) => { if (r.url() !== at) external.push(r.url()); });
      page.on("console", (m) => { if (m.type() === "error" || m.type() === "warning") errors.push(m.text()); });
      page.on("pageerror", (e) => errors.push(String(e)));
      page.on("dialog", (d) => { dialogs.push(d.message()); d.dismiss(); });
      await page.goto(at, { waitUntil: "load" });
      await page.waitForTimeout(50);
      const before = { external: [...external], errors: [...errors], dialogs: [...dialogs] };
      await page.evaluate(axe);
      const result = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
      const marks = await page.evaluate(() => ({ title: document.title, text: document.body.innerText.slice(0, 200000), scripts: document.scripts.length, pwned: String(window.pwned) }));
      if (scheme === "print" && (await page.pdf({ preferCSSPageSize: true })).length < 1000) before.errors.push("it does not print");
      fs.writeSync(1, JSON.stringify({
        page: "assessment", scheme, status: 200, ...before, ...marks,
        violations: result.violations.map((v) => ({ id: v.id, help: v.help, nodes: v.nodes.slice(0, 5).map((n) => n.html.slice(0, 200) + " @ " + n.target + " " + n.failureSummary) })),
      }) + "\n");
      await context.close();
    }
  } finally {
    await browser.close();
  }
}

main().catch((e) => { fs.writeSync(1, JSON.stringify({ failed: String(e && e.stack) }) + "\n"); process.exit(1); });
