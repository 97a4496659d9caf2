// What the tests of the page of the floor have in common: a phone, its browser, and what the ledger knows of a unit.

import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';

export const phone = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };
export const resolved = createRequire(import.meta.url).resolve;

// Debian's chromium; CHROMIUM names another.
export function launched(args = []) {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', ...args],
  });
}

// The events that a phone told of `unit`, as `scan enter`.
export async function stagesOf(base, unit) {
  const answer = await fetch(new URL(`/v1/digitization/units/${unit}`, base));
  const told = await answer.json();
  return told.events.filter((event) => event.source === '//floor/phone').map((event) => `${event.data.stage} ${event.data.change}`);
}
