// Looks at the pages of a digitization project, in both languages, as barriers.mjs tells.
//
// Usage: node digitization.mjs OPERATIONS_URL SCREENSHOT_DIR UNIT USER PASSWORD

import assert from 'node:assert/strict';
import { look } from './barriers.mjs';
import { launched } from './floor.mjs';

const [base, directory, unit, username, password] = process.argv.slice(2);
if (!base || !directory || !unit || !password) {
  console.error('usage: node digitization.mjs OPERATIONS_URL SCREENSHOT_DIR UNIT USER PASSWORD');
  process.exit(64);
}
const paths = [['project', '/digitization'], ['units', '/digitization/units'], ['search', '/digitization/units?q=0003&stage=returned'],
  ['unit', `/digitization/units/${unit}`], ['held', '/digitization/units/CJT-SIM-0271'],
  ['labels', '/digitization/labels?q=0003'], ['boxes', '/digitization/labels?what=boxes'], ['no-labels', '/digitization/labels?q=none'],
  ['stations', '/digitization/stations'], ['quality', '/digitization/quality'],
  ['lot-accepted', '/digitization/lots/L-0001'], ['lot-rejected', '/digitization/lots/L-0002'], ['lot-drawn', '/digitization/lots/L-0003'],
  ['fixity', '/digitization/fixity'], ['storage', '/digitization/storage'], ['privacy', '/digitization/privacy'],
  ['what-if', '/digitization/what-if'], ['what-if-asked', '/digitization/what-if?stations=5&shifts=2&rejects=3.5&days_off=2026-12-21..2026-12-24'],
  ['what-if-wrong', '/digitization/what-if?stations=0&days_off=soon', 400],
  ['figure', '/digitization/figure?of=accepted&measure=mm'], ['waiting', '/digitization/figure?of=waiting'],
  ['reports', '/digitization/reports'], ['report', '/digitization/reports/2026-05'], ['events', '/digitization/events?day=2026-05-14'],
  ['unknown-unit', '/digitization/units/CJT-SIM-9999', 404], ['wrong', '/digitization/units?stage=lost&limit=0', 400],
  ['waiting-unit', '/digitization/units/CJT-NEC-1990-0001'],
];
const pages = paths.flatMap(([title, path, status = 200]) => ['ro', 'en'].map((language) => ({
  name: `digitization-${title}-${language}`,
  url: new URL(`${path}${path.includes('?') ? '&' : '?'}lang=${language}`, base).href,
  language,
  status,
  httpCredentials: title === 'privacy' ? { username, password } : undefined,
})));

// The link to the other language keeps what is looked at.
const browser = await launched();
const page = await browser.newPage();
for (const [path, kept] of [['/digitization/labels?what=units&q=0003&stage=returned', ['what=units', 'q=0003', 'stage=returned']],
  ['/digitization/units?q=0003&stage=returned', ['q=0003', 'stage=returned']],
  ['/digitization/what-if?stations=5&rejects=3', ['stations=5', 'rejects=3']],
  ['/digitization/figure?of=accepted&measure=mm', ['of=accepted', 'measure=mm']],
  ['/digitization/events?day=2026-05-14', ['day=2026-05-14']]]) {
  await page.goto(new URL(`${path}&lang=en`, base).href);
  const items = await page.locator('main li, main tr').count();
  for (const language of ['ro', 'en']) {
    await page.click('header nav a[hreflang]');
    assert.equal(await page.getAttribute('html', 'lang'), language, path);
    const query = new URL(page.url()).search;
    for (const part of kept) assert.ok(query.includes(part), `${path}: ${query} lost ${part}`);
    assert.equal(await page.locator('main li, main tr').count(), items, path);
  }
}
// The announced archive, worked out on its page.
await page.goto(new URL('/digitization/what-if?from=2026-03-02&pages=900000&per_day=5000&lang=en', base).href);
assert.match(await page.textContent('main table'), /12 November 2026/);
await browser.close();
await look('digitization pages', pages, directory);
