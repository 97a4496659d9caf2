// The page of the floor: what is told goes into a queue in this browser first and from there to the collector, now or when
// there is a network. Ids are made here, so that whatever is sent twice counts once.
'use strict';

const form = document.getElementById('told');
const words = form.dataset;
const state = document.getElementById('state');
const list = document.getElementById('queue');
const BATCH = 100;

function opened() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open('veghe-scan-in', 1);
    request.onupgradeneeded = () => request.result.createObjectStore('events', { keyPath: 'id' });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

// Runs `work` on the store of events and gives its result once it is on disk.
async function stored(mode, work) {
  const database = await opened();
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction('events', mode, { durability: 'strict' });
      const request = work(transaction.objectStore('events'));
      transaction.oncomplete = () => resolve(request?.result);
      transaction.onerror = () => reject(transaction.error);
      transaction.onabort = () => reject(transaction.error);
    });
  } finally {
    database.close();
  }
}

async function show(message) {
  const events = (await stored('readonly', (store) => store.getAll())).sort((a, b) => a.time.localeCompare(b.time));
  list.replaceChildren(...events.map((event) => {
    const item = document.createElement('li');
    const what = event.data.stage ? `${event.data.stage} ${event.data.change}` : event.data.to;
    item.textContent = `${event.data.unit}: ${what}${event.problem ? ` (${event.problem})` : ''}`;
    return item;
  }));
  document.getElementById('waiting').hidden = events.length === 0;
  if (message) state.textContent = message;
}

let isSending = false;

// Sends what waits, oldest first, and forgets what the collector has.
async function send() {
  if (isSending) return;
  isSending = true;
  try {
    for (;;) {
      const waiting = (await stored('readonly', (store) => store.getAll())).filter((event) => !event.problem)
        .sort((a, b) => a.time.localeCompare(b.time)).slice(0, BATCH);
      if (waiting.length === 0) return;
      let answer;
      try {
        answer = await fetch('/v1/digitization/events', {
          method: 'POST',
          headers: { 'Content-Type': 'application/cloudevents-batch+json' },
          body: JSON.stringify(waiting),
          credentials: 'same-origin',
        });
      } catch {
        await show(words.offline);
        return;
      }
      if (answer.status === 401 || answer.status === 403) {
        await show(words.signin);
        return;
      }
      if (answer.status !== 200 && answer.status !== 422) {
        await show(words.later);
        return;
      }
      const told = await answer.json();
      const refused = new Map(told.refused.map((one) => [one.index, one.errors.map((e) => `${e.field} ${e.message}`).join('; ')]));
      await stored('readwrite', (store) => {
        waiting.forEach((event, index) => {
          if (refused.has(index)) store.put({ ...event, problem: refused.get(index) });
          else store.delete(event.id);
        });
      });
      await show(refused.size > 0 ? words.refused : words.sent);
    }
  } finally {
    isSending = false;
  }
}

function told() {
  const data = new FormData(form);
  const unit = data.get('unit').trim();
  const action = data.get('action');
  const base = { specversion: '1.0', source: '//floor/phone', id: crypto.randomUUID(), time: new Date().toISOString() };
  if (action === 'moved') {
    return { ...base, type: 'ro.cjt.digi.v1.custody.moved', data: { unit, to: data.get('place').trim() } };
  }
  const [stage, change] = action.split(':');
  return { ...base, type: 'ro.cjt.digi.v1.unit.stage', data: { unit, stage, change } };
}

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  const one = told();
  try {
    await stored('readwrite', (store) => store.put(one));
  } catch {
    // No room or no storage: the plain form still works.
    form.submit();
    return;
  }
  form.elements.unit.value = '';
  form.elements.unit.focus();
  await show(`${one.data.unit}: ${words.queued}`);
  await send();
});

document.getElementById('again').addEventListener('click', () => send());
document.getElementById('forget').addEventListener('click', async () => {
  const wrong = (await stored('readonly', (store) => store.getAll())).filter((event) => event.problem);
  await stored('readwrite', (store) => { wrong.forEach((event) => store.delete(event.id)); });
  await show('');
});
window.addEventListener('online', () => send());

// The camera, where the browser reads codes by itself: Chrome on Android and macOS does, Safari and Firefox don't.
const camera = document.getElementById('camera');
const video = document.getElementById('video');
const SIGHT_MS = 30_000;
const LOOK_EVERY_MS = 200;
let close = null;

async function readsCodes() {
  if (!('BarcodeDetector' in window) || !navigator.mediaDevices?.getUserMedia) return false;
  // It may be there and know no kind of code, where the system lacks what it needs.
  return (await BarcodeDetector.getSupportedFormats().catch(() => [])).length > 0;
}

// Shows what the camera sees until there is a code, it was closed, or time is up; gives the code, or what to say instead.
async function seen() {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
  } catch (error) {
    return { message: error.name === 'NotAllowedError' ? words.notpermitted : words.nocamera };
  }
  let isClosed = false;
  close = () => { isClosed = true; };
  try {
    video.srcObject = stream;
    video.hidden = false;
    camera.textContent = words.close;
    await video.play();
    const detector = new BarcodeDetector();
    const end = Date.now() + SIGHT_MS;
    while (!isClosed && Date.now() < end) {
      const found = await detector.detect(video).catch(() => []);
      const codes = found.map((one) => one.rawValue.trim()).filter((code) => code && code.length <= form.elements.unit.maxLength);
      if (codes.length > 0) return { code: codes[0] };
      await new Promise((resolve) => { setTimeout(resolve, LOOK_EVERY_MS); });
    }
    return { message: isClosed ? '' : words.nothing };
  } catch {
    return { message: words.nocamera };
  } finally {
    close = null;
    stream.getTracks().forEach((track) => track.stop());
    video.hidden = true;
    video.srcObject = null;
    camera.textContent = words.open;
  }
}

let isLooking = false;
camera.addEventListener('click', async () => {
  if (isLooking) {
    close?.();
    return;
  }
  isLooking = true;
  const { code, message } = await seen();
  isLooking = false;
  if (code) {
    form.elements.unit.value = code;
    form.elements.action.focus();
  } else {
    form.elements.unit.focus();
  }
  state.textContent = code ? `${words.read} ${code}` : message;
});
// Nobody looks any more: the camera goes off.
document.addEventListener('visibilitychange', () => {
  if (document.hidden) close?.();
});
readsCodes().then((can) => {
  camera.hidden = !can;
  document.getElementById('typed').hidden = can;
});

if ('serviceWorker' in navigator) {
  navigator.serviceWorker.register('/digitization/scan-in-worker.js', { scope: '/digitization/scan-in' }).then(async () => {
    await navigator.serviceWorker.ready;
    document.documentElement.dataset.ready = 'yes';
  }).catch(() => {});
}
document.getElementById('queueing').hidden = false;
show('').then(send);
