// Looks at the pages of a digitization project, in both languages, as barriers.mjs tells.
//
// Usage: node digitization.mjs OPERATIONS_URL SCREENSHOT_DIR UNIT USER PASSWORD

import { look } from './barriers.mjs';

const [base, directory, unit, username, password] = process.argv.slice(2);
if (!base || !directory || !unit || !password) {
  console.error('usage: node digitization.mjs OPERATIONS_URL SCREENSHOT_DIR UNIT USER PASSWORD');
  process.exit(64);
}
const paths = [['project', '/digitization'], ['units', '/digitization/units'], ['unit', `/digitization/units/${unit}`],
  ['labels', '/digitization/labels?q=0003'], ['boxes', '/digitization/labels?what=boxes'],
  ['stations', '/digitization/stations'], ['quality', '/digitization/quality'], ['fixity', '/digitization/fixity'],
  ['storage', '/digitization/storage'], ['privacy', '/digitization/privacy'], ['figure', '/digitization/figure?of=accepted&measure=mm'],
  ['reports', '/digitization/reports'], ['report', '/digitization/reports/2026-05'], ['events', '/digitization/events?day=2026-05-14'],
];
const pages = paths.flatMap(([title, path]) => ['ro', 'en'].map((language) => ({
  name: `digitization-${title}-${language}`,
  url: new URL(`${path}${path.includes('?') ? '&' : '?'}lang=${language}`, base).href,
  language,
  status: 200,
  httpCredentials: title === 'privacy' ? { username, password } : undefined,
})));
await look('digitization pages', pages, directory);
