/** TLS on the one port: which versions and protocols it speaks, and certificates that come and go under traffic. */
import { execFile, spawn } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { connect as connectHttp2 } from 'node:http2';
import { Agent, get as getHttps } from 'node:https';
import { connect as connectTcp } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect, type ConnectionOptions, type TLSSocket } from 'node:tls';
import { promisify } from 'node:util';
import { generate } from 'selfsigned';
import t, { type Test } from 'tap';
import { developmentCertificate } from '../../host/transports/port/development-certificate.ts';
import { type PortTls, readCertificate } from '../../host/transports/port/tls.ts';
import { startFront } from './front.ts';

t.setTimeout(180_000);

const run = promisify(execFile);
const NOA = resolve(import.meta.dirname, '../../host/noa.js');
const DAY = 86_400_000;

interface Pair {
  readonly key: string;
  readonly cert: string;
}

async function authority(name: string): Promise<Pair> {
  const made = await generate([{ name: 'commonName', value: name }], {
    keyType: 'ec',
    algorithm: 'sha256',
    extensions: [
      { name: 'basicConstraints', cA: true, critical: true },
      { name: 'keyUsage', keyCertSign: true, critical: true },
    ],
  });
  return { key: made.private, cert: made.cert };
}

async function issue(ca: Pair, name: string, days = 30): Promise<Pair> {
  const made = await generate([{ name: 'commonName', value: name }], {
    keyType: 'ec',
    algorithm: 'sha256',
    notBeforeDate: new Date(Date.now() - 60 * DAY),
    notAfterDate: new Date(Date.now() + days * DAY),
    extensions: [
      { name: 'basicConstraints', cA: false },
      {
        name: 'subjectAltName',
        altNames: [
          { type: 2, value: 'localhost' },
          { type: 7, ip: '127.0.0.1' },
        ],
      },
    ],
    ca,
  });
  return { key: made.private, cert: made.cert };
}

const root = await authority('Test root');
const [first, second, client] = await Promise.all([
  issue(root, 'first'),
  issue(root, 'second'),
  issue(root, 'a client'),
]);

async function until(what: string, test: () => boolean): Promise<void> {
  for (const end = Date.now() + 30_000; !test(); await sleep(10)) {
    if (Date.now() > end) throw new Error(`it did not come to pass: ${what}`);
  }
}

async function folder(t: Test): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'noa-tls-'));
  t.teardown(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** A front with the pair in files; what the operator would be told is kept. */
async function startTls(t: Test, { key, cert }: Pair, clientCa?: string) {
  const path = await folder(t);
  const files = {
    key: join(path, 'key.pem'),
    cert: join(path, 'cert.pem'),
    clientCa: clientCa === undefined ? undefined : join(path, 'ca.pem'),
  };
  await writeFile(files.key, key);
  await writeFile(files.cert, cert);
  if (clientCa !== undefined) await writeFile(join(path, 'ca.pem'), clientCa);
  const rotated: Date[] = [];
  const refused: string[] = [];
  const tls: PortTls = {
    files,
    certificate: await readCertificate(files),
    onRotated: ({ expires }) => rotated.push(expires),
    onRefused: (error) => refused.push(String(error)),
  };
  const front = await startFront({ tls, limits: { headersTimeoutMs: 1000 } });
  t.teardown(() => front.close());
  return { front, files, rotated, refused };
}

interface Handshake {
  readonly protocol: string | null;
  readonly alpn: string | false | null;
  readonly name: string;
  readonly isReused: boolean;
  readonly session: Buffer | undefined;
  readonly answer: string;
}

/** One request of HTTP/1.1, or none where HTTP/2 is agreed on. Rejects as the handshake does. */
async function handshake(port: number, options: ConnectionOptions = {}): Promise<Handshake> {
  const socket: TLSSocket = connect({ port, host: '127.0.0.1', ca: root.cert, ...options });
  let session: Buffer | undefined;
  socket.on('session', (given: Buffer) => (session = given));
  await once(socket, 'secureConnect');
  const { alpnProtocol: alpn } = socket;
  const name = String(socket.getPeerCertificate().subject?.CN);
  const isReused = socket.isSessionReused();
  const protocol = socket.getProtocol();
  if (alpn === 'h2') socket.end();
  else socket.write('GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
  const answer = await text(socket);
  // In TLS 1.3 a client is through with its handshake before the server has judged its certificate.
  if (alpn !== 'h2' && answer === '') throw Object.assign(new Error(), { code: 'NO_ANSWER' });
  return { protocol, alpn, name, isReused, session, answer };
}

await t.test(
  'it speaks TLS 1.3 alone, HTTP/2 where both can, and HTTP/1.1 with all others',
  async (t) => {
    const { front } = await startTls(t, first);
    t.match(front.url, /^https:\/\/127\.0\.0\.1:\d+$/);
    const { port } = front;
    const spoken = async (...ALPNProtocols: string[]) =>
      (await handshake(port, { ALPNProtocols })).alpn;
    t.equal(await spoken('http/1.1', 'h2'), 'h2');
    t.equal(await spoken('http/1.1'), 'http/1.1');
    t.match(await handshake(port), { protocol: 'TLSv1.3', alpn: false, answer: /200 OK/ });
    await t.rejects(spoken('spdy/3'), { code: /NO_APPLICATION_PROTOCOL/ });
    await t.rejects(handshake(port, { maxVersion: 'TLSv1.2' }), { code: /PROTOCOL_VERSION/ });
    const session = connectHttp2(`https://127.0.0.1:${port}`, { ca: root.cert });
    const stream = session.request({ ':path': '/v1/plugins' });
    const [headers] = (await once(stream, 'response')) as [Record<string, unknown>];
    t.equal(headers[':status'], 401);
    session.destroy();
    t.match(
      await front.raw('GET /health HTTP/1.1\r\nHost: x\r\n\r\n'),
      /^HTTP\/1\.1 400 [\s\S]*use https\.\n$/,
      'cleartext is told',
    );
    const stubborn = connectTcp({ port, host: '127.0.0.1', allowHalfOpen: true });
    stubborn
      .on('error', () => undefined)
      .resume()
      .write('PRI * HTTP/2.0\r\n');
    const cut = new Promise((done) => stubborn.once('close', done));
    // Whoever goes on is answered with a reset once the other side is cut.
    const going = setInterval(() => stubborn.write('x'), 200);
    await cut;
    clearInterval(going);
    const silent = connectTcp(port, '127.0.0.1').on('error', () => undefined);
    await once(silent, 'close');
    t.match(await handshake(port), { answer: /200 OK/ }, 'one that does not shake hands is cut');
  },
);

await t.test('a new certificate is taken under traffic, a wrong one is not', async (t) => {
  const { front, files, rotated, refused } = await startTls(t, first);
  const { port } = front;
  const h2 = connectHttp2(`https://127.0.0.1:${port}`, { ca: root.cert });
  t.teardown(() => h2.destroy());
  const overH2 = async () => {
    const stream = h2.request({ ':path': '/health' });
    return text(stream.setEncoding('utf8'));
  };
  const agent = new Agent({ keepAlive: true, maxSockets: 1, ca: root.cert });
  t.teardown(() => agent.destroy());
  const overH1 = () =>
    new Promise<number | undefined>((resolve, reject) => {
      const asked = getHttps({ agent, port, host: '127.0.0.1', path: '/health' }, (answer) => {
        const { localPort } = answer.socket;
        answer.resume().on('end', () => resolve(localPort));
      });
      asked.on('error', reject);
    });
  const [place, before] = [await overH1(), await handshake(port)];
  t.match(await overH2(), /"ok"/);
  t.equal(before.name, 'first');
  t.match(await handshake(port, { session: before.session }), { isReused: true });

  await writeFile(files.cert, second.cert); // without its key yet
  await front.server.rotate();
  t.match(refused, [/key_path|key\.pem is not the key of the certificate/]);
  await writeFile(files.cert, '');
  await front.server.rotate();
  await writeFile(files.cert, '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n');
  await front.server.rotate();
  await rm(files.cert);
  await front.server.rotate();
  await front.server.rotate();
  t.match(refused.slice(-1), [/cert_path: \S+ cannot be read \(ENOENT\)/]);
  const told = refused.length;
  t.equal((await handshake(port)).name, 'first');
  t.strictSame(rotated, []);

  await writeFile(files.key, second.key);
  await writeFile(files.cert, `${second.cert}\n${root.cert}`);
  await until('the files are looked at', () => rotated.length === 1);
  t.ok(refused.length <= told + 2, 'a fault that lasts is told once');
  const after = await handshake(port, { session: before.session });
  t.match(after, { name: 'second', isReused: false, protocol: 'TLSv1.3' });
  await t.rejects(handshake(port, { maxVersion: 'TLSv1.2' }), { code: /PROTOCOL_VERSION/ });
  t.match(await overH2(), /"ok"/, 'the same connection goes on');
  t.equal(await overH1(), place, 'and so does this one');
});

await t.test(
  'where client certificates are required, no other caller gets as far as HTTP',
  async (t) => {
    const stranger = await authority('Stranger');
    const [foreign, late] = await Promise.all([
      issue(stranger, 'foreign'),
      issue(root, 'late', -1),
    ]);
    const { front, files } = await startTls(t, first, root.cert);
    const { port } = front;
    const good = await handshake(port, client);
    t.match(good, { answer: /200 OK/ });
    for (const wrong of [{}, foreign, late]) {
      await t.rejects(handshake(port, wrong), { code: /ECONNRESET|ERR_SSL|EPIPE|NO_ANSWER/ });
    }
    const session = connectHttp2(`https://127.0.0.1:${port}`, { ca: root.cert, ...client });
    const stream = session.request({ ':path': '/health' });
    t.match(await text(stream.setEncoding('utf8')), /"ok"/);
    session.destroy();
    if (files.clientCa === undefined) throw new Error('there are authorities');
    await writeFile(files.clientCa, stranger.cert);
    await front.server.rotate();
    await t.rejects(handshake(port, { ...client, session: good.session }), {
      code: /ECONNRESET|ERR_SSL|EPIPE|NO_ANSWER/,
    });
    t.match(await handshake(port, foreign), { answer: /200 OK/ });
  },
);

await t.test(
  'what is no certificate is refused at the start, with the setting that names it',
  async (t) => {
    const path = await folder(t);
    const file = async (name: string, content: string): Promise<string> => {
      await writeFile(join(path, name), content);
      return join(path, name);
    };
    const cert = await file('cert', first.cert);
    const key = await file('key', first.key);
    const other = await file('other', second.key);
    const junk = await file('junk', 'junk');
    const fails = (files: { cert?: string; key?: string; clientCa?: string }, rule: RegExp) =>
      t.rejects(readCertificate({ cert, key, clientCa: undefined, ...files }), {
        code: 'INVALID_ARGUMENT',
        message: rule,
      });
    await fails({ cert: '/none.pem' }, /^server\.tls\.cert_path: \/none\.pem cannot be read/);
    await fails({ cert: junk }, /^server\.tls\.cert_path: \S+junk does not hold/);
    await fails(
      { cert: await file('half', `${first.cert}-----BEGIN CERTIFICATE-----\nAA`) },
      /cert_path/,
    );
    await fails({ key: junk }, /^server\.tls\.key_path: \S+junk does not hold/);
    await fails({ key: other }, /other is not the key of the certificate/);
    await fails({ clientCa: junk }, /^server\.tls\.client_ca_path: \S+junk does not hold/);
  },
);

await t.test(
  'the certificate for development is made once, kept private, and renewed',
  async (t) => {
    const data = await folder(t);
    const files = await developmentCertificate(data);
    const read = async () => new X509Certificate(await readFile(files.cert));
    const made = await read();
    t.equal((await stat(files.key)).mode & 0o777, 0o600);
    for (const name of ['localhost', '127.0.0.1', '::1']) {
      t.ok(made.subjectAltName?.includes(name === '::1' ? '0:0:0:0:0:0:0:1' : name), name);
    }
    await readCertificate(files);
    await developmentCertificate(data);
    t.equal((await read()).fingerprint256, made.fingerprint256, 'the same is used again');
    const old = await issue(root, 'old', 3);
    await writeFile(files.cert, old.cert);
    await writeFile(files.key, old.key);
    await developmentCertificate(data);
    await readCertificate(files);
    t.not((await read()).subject, old.cert);
    t.ok(
      (await read()).validToDate.getTime() > Date.now() + 300 * DAY,
      'one that expires is renewed',
    );
    await rm(files.key);
    await developmentCertificate(data);
    await readCertificate(files);
  },
);

await t.test(
  'a host serves by its own certificate, and the command line trusts it when told',
  async (t) => {
    const data = await folder(t);
    const token = 'a-token-for-the-host-of-this-very-test';
    const env = {
      PATH: process.env['PATH'] ?? '',
      HOME: data,
      NOA_DATA__PATH: join(data, 'noa'),
      NOA_SERVER__PORT: '0',
      NOA_OBSERVABILITY__METRICS_PORT: '0',
      NOA_SERVER__TLS__DEVELOPMENT: 'true',
      NOA_AUTH__BOOTSTRAP_TOKEN: token,
    };
    await mkdir(join(data, 'noa'));
    const host = spawn(process.execPath, [NOA, 'serve'], { cwd: data, env });
    const ended = once(host, 'exit');
    t.teardown(async () => {
      host.kill('SIGKILL');
      await ended;
    });
    let output = '';
    for (const stream of [host.stdout, host.stderr]) {
      stream.setEncoding('utf8').on('data', (chunk: string) => (output += chunk));
    }
    const listening = /Listening on (https:\/\/127\.0\.0\.1:\d+)/;
    const end = Date.now() + 90_000;
    while (!listening.test(output) && host.exitCode === null && Date.now() < end) await sleep(50);
    const url = listening.exec(output)?.[1] ?? '';
    t.match(output, /TLS with a certificate that this host has made for itself/);
    const cert = join(data, 'noa/tls/development.crt');
    const list = (more: Record<string, string> = {}) =>
      run(process.execPath, [NOA, 'plugin', 'list', '--url', url], {
        env: { PATH: env.PATH, HOME: data, NOA_TOKEN: token, ...more },
      });
    t.match((await list({ NODE_EXTRA_CA_CERTS: cert })).stdout, /inference .* serving/);
    t.match(await list().catch((error: unknown) => error), {
      stderr: /set NODE_EXTRA_CA_CERTS to/,
    });

    const port = Number(new URL(url).port);
    const idle = connectHttp2(url, { ca: await readFile(cert) });
    t.teardown(() => idle.destroy());
    await once(idle, 'connect');
    await writeFile(join(data, 'noa/tls/development.key'), first.key);
    await writeFile(cert, first.cert);
    host.kill('SIGHUP');
    await until('the certificate is replaced', () => output.includes('get the new certificate'));
    t.equal((await handshake(port)).name, 'first');
    t.match(await text(idle.request({ ':path': '/health' }).setEncoding('utf8')), /"ok"/);
    host.kill('SIGTERM');
    t.strictSame(await ended, [0, null]);
  },
);
