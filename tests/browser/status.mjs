// Looks at the public status pages as barriers.mjs tells.
//
// Usage: node status.mjs BASE_URL SCREENSHOT_DIR

import { look } from './barriers.mjs';

const [base, directory] = process.argv.slice(2);
if (!base || !directory) {
  console.error('usage: node status.mjs BASE_URL SCREENSHOT_DIR');
  process.exit(64);
}
const page = (path, language, status) =>
  ({ name: `status${path.replaceAll('/', '-')}`, url: new URL(path, base).href, language, status });
await look('status pages', [page('/ro', 'ro', 200), page('/en', 'en', 200), page('/en/nothing', 'en', 404)], directory);
