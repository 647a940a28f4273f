/** The reference as a page: self-contained, guarded by its policy, and of use in a real browser. */
import { gunzipSync } from 'node:zlib';
import t from 'tap';
import { Browser, noBrowser } from './browser.ts';
import { ADMIN, manifest, startFront } from './front.ts';

const hello = manifest({
  name: 'hello',
  description: 'Says hello.',
  exports: { greet: { input: { type: 'object', properties: { name: { type: 'string' } } } } },
  contributes: { routes: [{ method: 'GET', path: '/greeting', export: 'greet' }] },
});

await t.test(
  'the page and all that it loads come from this host, under a strict policy',
  async (t) => {
    const front = await startFront();
    t.teardown(() => front.close());
    const page = await front.request('GET', '/docs', { token: null });
    t.equal(page.status, 200);
    t.match(page.headers.get('content-type'), 'text/html; charset=utf-8');
    t.match(page.text, /<title>NOA API reference<\/title>/);
    t.notMatch(
      page.text,
      /<script>|<style|style=|\son\w+=|https?:/,
      'nothing inline, nothing abroad',
    );
    const policy = page.headers.get('content-security-policy') ?? '';
    t.match(policy, /default-src 'none'; script-src 'self'; style-src 'self'/);
    t.notMatch(policy, /unsafe|\*|https?:/);

    const links = [...page.text.matchAll(/(?:src|href)="(docs[^"]+)"/g)].map(
      ([, link = '']) => link,
    );
    t.equal(links.length, 5);
    for (const link of links) {
      const asset = await front.request('GET', `/${link}`, { token: null });
      t.equal(asset.status, 200, link);
      t.equal(asset.headers.get('cache-control'), 'public, max-age=31536000, immutable');
      t.equal(asset.headers.get('x-content-type-options'), 'nosniff');
      t.notMatch(asset.text.slice(0, 200), /<html/);
      const plain = await fetch(`${front.url}/${link}`, {
        headers: { 'accept-encoding': 'identity' },
      });
      t.equal(plain.headers.get('content-encoding'), null);
      t.equal(await plain.text(), asset.text, 'the same, packed or not');
    }
    const packed = await front.raw(
      `GET /${links[0]} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n`,
    );
    t.match(packed, /content-encoding: gzip/i);
    t.match(
      gunzipSync(Buffer.from(packed.slice(packed.indexOf('\r\n\r\n') + 4), 'latin1')).toString(),
      /<svg/,
    );
    const refused = await front.raw(
      `GET /${links[0]} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip;q=0\r\nConnection: close\r\n\r\n`,
    );
    t.notMatch(refused, /content-encoding/i);
    t.equal((await front.request('GET', '/docs/assets/old/page.js', { token: null })).status, 401);
  },
);

await t.test('a reader authorises and calls an operation', { skip: noBrowser }, async (t) => {
  const front = await startFront();
  t.teardown(() => front.close());
  await front.install(hello, { greet: () => 'hello there' });
  const browser = await Browser.start();
  t.teardown(() => browser.close());
  await browser.open(`${front.url}/docs`);
  await browser.until(`document.querySelectorAll('.opblock').length > 20`);
  t.equal(await browser.evaluate('document.title'), 'NOA API reference');
  t.match(await browser.evaluate('document.body.innerText'), /Says hello\./);

  await browser.click('.auth-wrapper .authorize');
  await browser.type('.auth-container input[type=text]', ADMIN);
  await browser.click('.auth-container .auth-btn-wrapper .authorize');
  await browser.until(
    `document.querySelector('.auth-container')?.innerText.includes('Authorized')`,
  );
  await browser.click('.auth-container .auth-btn-wrapper .btn-done');

  const operation = '#operations-Plugin_hello-hello_getPluginsHelloGreeting';
  await browser.click(`${operation} .opblock-summary-control`);
  await browser.click(`${operation} .try-out__btn`);
  await browser.click(`${operation} .execute`);
  await browser.until(`document.querySelector('${operation} .live-responses-table')`);
  const shown = await browser.evaluate<string>(
    `document.querySelector('${operation} .live-responses-table').innerText`,
  );
  t.match(shown, /200[\s\S]*hello there/);
  t.same(browser.complaints, [], 'no error, no broken policy');
});

await t.test('a guarded reference opens with a credential', { skip: noBrowser }, async (t) => {
  const front = await startFront({ guardReference: true });
  t.teardown(() => front.close());
  const browser = await Browser.start();
  t.teardown(() => browser.close());
  await browser.open(`${front.url}/docs`);
  await browser.until(`!document.getElementById('unlock').hidden`);
  await browser.type('#token', 'wrong');
  await browser.click('#unlock button');
  await browser.until(`document.getElementById('notice').innerText.includes('does not know')`);
  await browser.type('#token', ADMIN);
  await browser.click('#unlock button');
  await browser.until(`document.querySelectorAll('.opblock').length > 20`);
  t.ok(await browser.evaluate(`document.getElementById('unlock').hidden`));
});
