// Looks at pages in a real browser, light and dark, wide and narrow: no accessibility violation by axe-core (WCAG 2.1 A
// and AA), nothing wider than the window, no script and no error in the console; screenshots for people to look at.
//
// The browser is Debian's chromium; CHROMIUM names another.

import assert from 'node:assert/strict';
import { mkdir, readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

// Looks at each of `pages`, `{ name, url, language, status }` with `httpCredentials` where they need a user, puts pictures into `directory` and ends the process: 1
// where something is wrong, which is printed after the name of the page.
export async function look(subject, pages, directory) {
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
  try {
    for (const page of pages) {
      for (const colorScheme of ['light', 'dark']) {
        for (const width of [1280, 320]) {
          const name = `${page.name}-${colorScheme}-${width}`;
          failures.push(...(await lookAt(browser, axe, { ...page, name }, { colorScheme, width }, directory)));
        }
      }
    }
  } finally {
    await browser.close();
  }
  for (const failure of failures) console.error(failure);
  console.log(`${subject}: ${failures.length === 0 ? 'no violation' : `${failures.length} failures`}`);
  process.exit(failures.length === 0 ? 0 : 1);
}

async function lookAt(browser, axe, { name, url, language, status, httpCredentials }, { colorScheme, width }, directory) {
  const failures = [];
  // axe runs in the page, where our policy forbids foreign scripts: only this browser is told to let it in.
  const context = await browser.newContext({ colorScheme, viewport: { width, height: 900 }, bypassCSP: true, httpCredentials });
  const page = await context.newPage();
  page.on('pageerror', (error) => failures.push(`${name}: ${error}`));
  page.on('console', (message) => {
    // The browser itself remarks that a page answers 404, also where it should.
    const isOfStatus = status !== 200 && message.location().url === url;
    if (message.type() === 'error' && !isOfStatus) failures.push(`${name}: ${message.text()}`);
  });
  const answer = await page.goto(url);
  assert.equal(answer.status(), status, name);
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
  return failures;
}
