// Holds a label of the labels' page, and a Code 128, before the camera of the page of the floor, and uses it without a camera.
//
// Usage: node camera.mjs OPERATIONS_URL SCREENSHOT_DIR USER PASSWORD UNIT UNIT
// The units must be in the inventory. The camera is Chromium's own, which plays a film of the label, held askew. Chromium on
// Linux has no BarcodeDetector: the npm package of that name, which follows the same specification (W3C Shape Detection), is put
// into the page before its script runs. Its WebAssembly needs the page's policy to be set aside, in this browser alone; the
// page is otherwise what the collector serves.

import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { prepareZXingModule, writeBarcode } from 'zxing-wasm/writer';
import { launched, phone, resolved, stagesOf as toldOf } from './floor.mjs';

const [base, directory, username, password, ...units] = process.argv.slice(2);
if (units.length < 2) {
  console.error('usage: node camera.mjs OPERATIONS_URL SCREENSHOT_DIR USER PASSWORD UNIT UNIT');
  process.exit(64);
}
await mkdir(directory, { recursive: true });
const films = await mkdtemp(join(tmpdir(), 'veghe-camera-'));
const address = (path) => new URL(path, base).href;
const stagesOf = (unit) => toldOf(base, unit);
const [width, height] = [640, 480];
const fake = ['--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'];
const httpCredentials = { username, password };

// Writes two frames of `picture` (an address of data), held askew before a desk, as Chromium's camera plays them.
async function film(page, picture, name) {
  const luma = await page.evaluate(async ([source, wide, high]) => {
    const image = new Image();
    image.src = source;
    await image.decode();
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [wide, high];
    const drawing = canvas.getContext('2d');
    drawing.fillStyle = '#8a7f70';
    drawing.fillRect(0, 0, wide, high);
    drawing.translate(wide / 2, high / 2);
    drawing.rotate(0.1);
    const scale = Math.min((wide * 0.8) / image.width, (high * 0.8) / image.height);
    drawing.drawImage(image, (-image.width * scale) / 2, (-image.height * scale) / 2, image.width * scale, image.height * scale);
    const { data } = drawing.getImageData(0, 0, wide, high);
    const grey = [];
    for (let at = 0; at < data.length; at += 4) grey.push(Math.round(0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2]));
    return grey;
  }, [picture, width, height]);
  const frame = Buffer.concat([Buffer.from('FRAME\n'), Buffer.from(luma), Buffer.alloc((width * height) / 2, 128)]);
  const path = join(films, `${name}.y4m`);
  await writeFile(path, Buffer.concat([Buffer.from(`YUV4MPEG2 W${width} H${height} F10:1 Ip A1:1 C420jpeg\n`), frame, frame]));
  return path;
}

// What stands in for the browser's own detector.
async function detector() {
  const script = await readFile(resolved('barcode-detector/polyfill').replace(/dist.*$/, 'dist/iife/polyfill.js'), 'utf8');
  const wasm = await readFile(resolved('zxing-wasm/reader/zxing_reader.wasm'));
  return `${script};
    BarcodeDetectionAPI.prepareZXingModule({
      overrides: { wasmBinary: Uint8Array.from(atob('${wasm.toString('base64')}'), (one) => one.charCodeAt(0)).buffer },
    });
    globalThis.looks = 0;
    const { detect } = BarcodeDetector.prototype;
    BarcodeDetector.prototype.detect = function counted(source) { globalThis.looks += 1; return detect.call(this, source); };`;
}

// Waits until the page says `text`.
const saying = (page, text) => page.waitForFunction((wanted) => document.getElementById('state').textContent.includes(wanted), text);
// A page that is ready to be used, and the errors that it has told since.
async function opened(browser, options, before, language = 'en') {
  const context = await browser.newContext({ ...phone, httpCredentials, ...options });
  if (before) await context.addInitScript({ content: before });
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  await page.goto(address(`/digitization/scan-in?lang=${language}`));
  await page.waitForFunction(() => document.documentElement.dataset.ready === 'yes');
  return { context, page, errors };
}
const isOff = (page) => page.evaluate(() => document.getElementById('video').hidden && document.getElementById('video').srcObject === null);

let browser = await launched();
try {
  // The label as it is printed, and the same code of another unit in lines.
  const printing = await browser.newContext({ deviceScaleFactor: 4, viewport: { width: 800, height: 900 } });
  const labels = await printing.newPage();
  await labels.goto(address(`/digitization/labels?lang=ro&q=${units[0]}`));
  const label = `data:image/png;base64,${(await labels.locator('.labels li').screenshot()).toString('base64')}`;
  await labels.goto('about:blank');
  await prepareZXingModule({ overrides: { wasmBinary: await readFile(resolved('zxing-wasm/writer/zxing_writer.wasm')) }, fireImmediately: true });
  const lines = await writeBarcode(units[1], { format: 'Code128', scale: 4, addQuietZones: true });
  assert.equal(lines.error, '');
  const barcode = `data:image/png;base64,${Buffer.from(await lines.image.arrayBuffer()).toString('base64')}`;
  const shown = [await film(labels, label, 'label'), await film(labels, barcode, 'barcode')];

  // A browser that reads no codes, as Safari and Firefox: no button, but a text and the field, which works.
  for (const before of ['delete window.BarcodeDetector', 'window.BarcodeDetector = class { static async getSupportedFormats() { return []; } }']) {
    for (const [language, says] of [['en', 'type the code'], ['ro', 'scrieți codul']]) {
      const { context, page, errors } = await opened(browser, {}, before, language);
      await page.waitForFunction(() => !document.getElementById('typed').hidden);
      assert.match(await page.textContent('#typed'), new RegExp(says));
      assert.ok(await page.locator('#camera').isHidden());
      assert.ok(await page.locator('#unit').isEditable());
      assert.deepEqual(errors, []);
      await page.screenshot({ path: join(directory, `scan-in-typed-${language}.png`), fullPage: true });
      await context.close();
    }
  }
  await browser.close();

  const polyfill = await detector();
  for (const [index, unit] of units.slice(0, 2).entries()) {
    browser = await launched([...fake, `--use-file-for-fake-video-capture=${shown[index]}`]);
    const { context, page, errors } = await opened(browser, { bypassCSP: true }, polyfill);
    // Once more, so that the worker has the page itself.
    await page.reload();
    await page.waitForFunction(() => navigator.serviceWorker.controller !== null);
    await page.waitForFunction(() => !document.getElementById('camera').hidden);
    assert.ok(await page.locator('#typed').isHidden());
    await page.selectOption('#action', 'prep:enter');
    await page.click('#camera');
    await saying(page, `Code read: ${unit}`);
    assert.equal(await page.inputValue('#unit'), unit);
    assert.ok(await isOff(page), 'the camera is off once the code is read');
    await page.click('button[type=submit]');
    await saying(page, 'Everything is sent');
    assert.deepEqual(await stagesOf(unit), ['prep enter']);

    // Without a network the camera reads too, and what it read waits.
    await context.setOffline(true);
    await page.reload();
    await page.waitForFunction(() => !document.getElementById('camera').hidden);
    await page.selectOption('#action', 'prep:exit');
    await page.click('#camera');
    await saying(page, `Code read: ${unit}`);
    await page.click('button[type=submit]');
    await saying(page, 'No network');
    assert.equal(await page.locator('#queue li').count(), 1);
    assert.deepEqual(await stagesOf(unit), ['prep enter']);
    await context.setOffline(false);
    await page.waitForFunction(() => document.querySelectorAll('#queue li').length === 0);
    assert.deepEqual((await stagesOf(unit)).sort(), ['prep enter', 'prep exit']);
    assert.deepEqual(errors, []);
    await browser.close();
  }

  // The camera that Chromium has of itself shows no code: it is seen, closed, and goes off where nobody looks.
  browser = await launched(fake);
  const { page, errors } = await opened(browser, { bypassCSP: true }, polyfill);
  await page.waitForFunction(() => !document.getElementById('camera').hidden);
  await page.click('#camera');
  await page.waitForFunction(() => document.getElementById('video').videoWidth > 0 && !document.getElementById('video').paused);
  assert.equal(await page.textContent('#camera'), 'Close the camera');
  await page.screenshot({ path: join(directory, 'scan-in-camera.png'), fullPage: true });
  await page.click('#camera');
  await page.waitForFunction(() => document.getElementById('video').hidden);
  assert.ok(await isOff(page));
  assert.equal(await page.textContent('#camera'), 'Read the code with the camera');
  // Nothing read for as long as it is tried.
  await page.clock.install();
  const looks = await page.evaluate(() => globalThis.looks);
  await page.click('#camera');
  await page.waitForFunction((before) => globalThis.looks > before, looks);
  await page.clock.fastForward('00:31');
  await saying(page, 'No code seen');
  assert.ok(await isOff(page));
  assert.deepEqual(errors, []);
  await browser.close();

  // No permission, and no camera at all: the field is there, and a text says what to do.
  for (const [args, says] of [
    [['--use-fake-device-for-media-stream', '--deny-permission-prompts'], 'not permitted'],
    [['--use-fake-device-for-media-stream=device-count=0', '--use-fake-ui-for-media-stream'], "can't be used"],
  ]) {
    browser = await launched(args);
    const without = await opened(browser, { bypassCSP: true }, polyfill);
    await without.page.waitForFunction(() => !document.getElementById('camera').hidden);
    await without.page.click('#camera');
    await saying(without.page, says);
    assert.ok(await isOff(without.page));
    assert.ok(await without.page.locator('#unit').isEditable());
    assert.deepEqual(without.errors, []);
    await browser.close();
  }
} finally {
  await browser.close();
  await rm(films, { recursive: true, force: true });
}
console.log('camera of the page of the floor: no failure');
process.exit(0);
