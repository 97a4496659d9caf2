// Uses the page of the floor as a phone does: with and without script, and with the network cut and back.
//
// Usage: node scan-in.mjs OPERATIONS_URL SCREENSHOT_DIR USER PASSWORD UNIT...
// The units must be in the inventory; each is told of once, the ledger must know each event once.

import assert from 'node:assert/strict';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { launched, phone, resolved, stagesOf as toldOf } from './floor.mjs';

const [base, directory, username, password, ...units] = process.argv.slice(2);
if (units.length < 4) {
  console.error('usage: node scan-in.mjs OPERATIONS_URL SCREENSHOT_DIR USER PASSWORD UNIT UNIT UNIT UNIT');
  process.exit(64);
}
await mkdir(directory, { recursive: true });
const address = (path) => new URL(path, base).href;
const page_address = address('/digitization/scan-in?lang=en');
const axe = await readFile(resolved('axe-core/axe.min.js'), 'utf8');
const stagesOf = (unit) => toldOf(base, unit);

const browser = await launched();
try {
  // Without script: a plain form; sent twice by its id it counts once.
  const plain = await browser.newContext({ ...phone, javaScriptEnabled: false, httpCredentials: { username, password } });
  const form = await plain.newPage();
  await form.goto(page_address);
  await form.fill('#unit', units[0]);
  await form.selectOption('#action', 'prep:enter');
  await form.click('button[type=submit]');
  assert.match(await form.textContent('#state'), /kept/);
  await form.reload();
  assert.deepEqual(await stagesOf(units[0]), ['prep enter'], 'a repeat counts once');
  await plain.close();

  // Who is not signed in tells nothing: the browser asks for a password, and what was told waits.
  const stranger = await browser.newContext(phone);
  const closed = await stranger.newPage();
  await closed.goto(page_address);
  await closed.fill('#unit', units[1]);
  await closed.click('button[type=submit]');
  await closed.waitForFunction(() => document.querySelectorAll('#queue li').length === 1);
  await stranger.close();
  assert.deepEqual(await stagesOf(units[1]), []);

  const context = await browser.newContext({ ...phone, httpCredentials: { username, password } });
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('console', (message) => {
    // The browser remarks that a request failed while there is no network, and that a 401 came before the password.
    if (message.type() === 'error' && !/Failed to load resource/.test(message.text())) errors.push(message.text());
  });
  await page.goto(page_address);
  await page.waitForFunction(() => document.documentElement.dataset.ready === 'yes');
  // Once more, so that the worker has the page itself.
  await page.reload();
  await page.waitForFunction(() => navigator.serviceWorker.controller !== null);
  const tell = async (unit, action) => {
    await page.fill('#unit', unit);
    await page.selectOption('#action', action);
    await page.click('button[type=submit]');
  };
  await tell(units[1], 'scan:enter');
  await page.waitForFunction(() => document.getElementById('state').textContent.includes('Everything is sent'));
  assert.deepEqual(await stagesOf(units[1]), ['scan enter']);

  await context.setOffline(true);
  await tell(units[2], 'scan:enter');
  await page.waitForFunction(() => document.getElementById('state').textContent.includes('No network'));
  // The phone was put away and taken out again, still without a network.
  await page.reload();
  await tell(units[3], 'reassemble:exit');
  await page.waitForFunction(() => document.querySelectorAll('#queue li').length === 2);
  assert.deepEqual(await stagesOf(units[2]), []);
  await page.screenshot({ path: join(directory, 'scan-in-offline.png'), fullPage: true });

  // Back: the queue goes by itself. The answer to the first try gets lost, so that all of it is sent twice.
  let isLost = false;
  await page.route('**/v1/digitization/events', async (route) => {
    if (isLost) return route.continue();
    isLost = true;
    await route.fetch();
    return route.abort();
  });
  await context.setOffline(false);
  await page.waitForFunction(() => document.getElementById('state').textContent.includes('No network')
    || document.querySelectorAll('#queue li').length === 0);
  if (await page.locator('#queue li').count() > 0) await page.click('#again');
  await page.waitForFunction(() => document.querySelectorAll('#queue li').length === 0);
  assert.deepEqual(await stagesOf(units[2]), ['scan enter']);
  assert.deepEqual(await stagesOf(units[3]), ['reassemble exit']);
  assert.ok(isLost, 'no answer was lost');
  assert.deepEqual(errors, []);
  await context.close();

  // No barrier, light and dark, narrow and wide.
  for (const language of ['ro', 'en']) {
    for (const colorScheme of ['light', 'dark']) {
      for (const width of [390, 1280]) {
        const looking = await browser.newContext({ colorScheme, viewport: { width, height: 844 }, bypassCSP: true });
        const look = await looking.newPage();
        await look.goto(address(`/digitization/scan-in?lang=${language}`));
        await look.waitForFunction(() => !document.getElementById('queueing').hidden);
        await look.screenshot({ path: join(directory, `scan-in-${language}-${colorScheme}-${width}.png`), fullPage: true });
        await look.evaluate(axe);
        const found = await look.evaluate(() => globalThis.axe.run(document, {
          runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'],
        }));
        assert.deepEqual(found.violations.map((violation) => `${violation.id}: ${violation.help}`), []);
        const overflow = await look.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
        assert.ok(overflow <= 0, `${overflow} px wider than the window`);
        await looking.close();
      }
    }
  }
} finally {
  await browser.close();
}
console.log('page of the floor: no failure');
process.exit(0);
