// Keeps the page of the floor at hand where there is no network. It touches nothing but that page and its files.
'use strict';

const CACHE = 'scan-in-1';
const FILES = ['/digitization/scan-in.js', '/digitization.css'];
const PAGE = '/digitization/scan-in';

self.addEventListener('install', (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES)).then(() => self.skipWaiting()));
});

self.addEventListener('activate', (event) => {
  event.waitUntil(caches.keys()
    .then((names) => Promise.all(names.filter((name) => name !== CACHE).map((name) => caches.delete(name))))
    .then(() => self.clients.claim()));
});

self.addEventListener('fetch', (event) => {
  const url = new URL(event.request.url);
  const isOurs = url.origin === self.location.origin && (FILES.includes(url.pathname) || url.pathname === PAGE);
  if (event.request.method !== 'GET' || !isOurs) return;
  event.respondWith(fetch(event.request)
    .then((answer) => {
      // A redirect or a refusal is not the page.
      if (!answer.ok || answer.redirected) return answer;
      const copy = answer.clone();
      event.waitUntil(caches.open(CACHE).then((cache) => cache.put(event.request, copy)));
      return answer;
    })
    .catch(() => caches.match(event.request)
      .then((kept) => kept ?? caches.match(event.request, { ignoreSearch: true }))
      .then((kept) => kept ?? Response.error())));
});
