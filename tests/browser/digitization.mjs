// Opens the pages of a digitization project in a real browser: no accessibility violation by axe-core (WCAG 2.1 A and
// AA), nothing wider than the window, no script and no error in the console; screenshots for people to look at.
//
// Usage: node digitization.mjs OPERATIONS_URL SCREENSHOT_DIR UNIT
// The browser is Debian's chromium; CHROMIUM names another.

import assert from 'node:assert/strict';
import { mkdir, readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const [base, directory, unit] = process.argv.slice(2);
if (!base || !directory || !unit) {
  console.error('usage: node digitization.mjs OPERATIONS_URL SCREENSHOT_DIR UNIT');
  process.exit(64);
}
await mkdir(directory, { recursive: true });
const axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
  ],
});
const failures = [];
const pages = [['project', '/digitization'], ['units', '/digitization/units'], ['unit', `/digitization/units/${unit}`]];
try {
  for (const [title, path] of pages) {
    for (const language of ['ro', 'en']) {
      for (const [colorScheme, width] of [['light', 1280], ['dark', 1280], ['light', 320], ['dark', 320]]) {
        const name = `digitization-${title}-${language}-${colorScheme}-${width}`;
        // axe runs in the page, where our policy forbids foreign scripts: only this browser is told to let it in.
        const context = await browser.newContext({ colorScheme, viewport: { width, height: 900 }, bypassCSP: true });
        const page = await context.newPage();
        page.on('pageerror', (error) => failures.push(`${name}: ${error}`));
        page.on('console', (message) => {
          if (message.type() === 'error') failures.push(`${name}: ${message.text()}`);
        });
        const answer = await page.goto(new URL(`${path}?lang=${language}`, base).href);
        assert.equal(answer.status(), 200, name);
        assert.equal(await page.getAttribute('html', 'lang'), language, name);
        assert.equal(await page.locator('script').count(), 0, `${name}: a script`);
        await page.screenshot({ path: join(directory, `${name}.png`), fullPage: true });
        // Opened, so that their content is checked too.
        for (const summary of await page.locator('summary').all()) await summary.click();
        const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
        if (overflow > 0) failures.push(`${name}: ${overflow} px wider than the window`);
        await page.evaluate(axe);
        const found = await page.evaluate(() => globalThis.axe.run(document, {
          runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'],
        }));
        for (const violation of found.violations) {
          const where = violation.nodes.map((node) => node.target.join(' ')).join('; ');
          failures.push(`${name}: ${violation.id}: ${violation.help}: ${where}`);
        }
        await context.close();
      }
    }
  }
} finally {
  await browser.close();
}
for (const failure of failures) console.error(failure);
console.log(failures.length === 0 ? 'digitization pages: no violation' : `digitization pages: ${failures.length} failures`);
process.exit(failures.length === 0 ? 0 : 1);
