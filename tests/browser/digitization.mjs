// Looks at the pages of a digitization project, in both languages, as barriers.mjs tells.
//
// Usage: node digitization.mjs OPERATIONS_URL SCREENSHOT_DIR UNIT

import { look } from './barriers.mjs';

const [base, directory, unit] = process.argv.slice(2);
if (!base || !directory || !unit) {
  console.error('usage: node digitization.mjs OPERATIONS_URL SCREENSHOT_DIR UNIT');
  process.exit(64);
}
const paths = [['project', '/digitization'], ['units', '/digitization/units'], ['unit', `/digitization/units/${unit}`],
  ['labels', '/digitization/labels?q=0003'], ['boxes', '/digitization/labels?what=boxes'],
  ['stations', '/digitization/stations'], ['quality', '/digitization/quality'], ['fixity', '/digitization/fixity'],
  ['reports', '/digitization/reports'], ['report', '/digitization/reports/2026-05'], ['events', '/digitization/events?day=2026-05-14'],
];
const pages = paths.flatMap(([title, path]) => ['ro', 'en'].map((language) => ({
  name: `digitization-${title}-${language}`,
  url: new URL(`${path}${path.includes('?') ? '&' : '?'}lang=${language}`, base).href,
  language,
  status: 200,
})));
await look('digitization pages', pages, directory);
