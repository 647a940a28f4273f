/** Logs in their shape, without secrets and unforgeable; kept plugin lines; metrics that Prometheus takes. */
import { execFileSync } from 'node:child_process';
import { PassThrough } from 'node:stream';
import t from 'tap';
import { createLogs } from '../../host/telemetry/logs.ts';
import { createMetrics } from '../../host/telemetry/metrics.ts';
import { PluginLogs, printable } from '../../host/telemetry/plugin-logs.ts';

const AT = Date.UTC(2026, 0, 2, 3, 4, 5);

function capture(format: 'json' | 'pretty', level = 'info') {
  const stream = new PassThrough();
  const logs = createLogs({ level, format, pluginLines: 10, now: () => AT, stream });
  t.teardown(() => logs.close());
  return { logs, text: () => String(stream.read() ?? '') };
}

const ENTRY = {
  method: 'GET',
  route: '/plugins/notes/notes/:id',
  path: '/plugins/notes/notes/1',
  status: 200,
  seconds: 0.0123456,
  plugin: 'notes',
  requestId: 'r1',
  traceId: 't1',
  spanId: undefined,
  subject: 'alice',
  remoteAddress: '127.0.0.1',
};

t.test('a line has the documented fields', async (t) => {
  const { logs, text } = capture('json');
  logs.access(ENTRY);
  const line = JSON.parse(text()) as object;
  t.match(line, {
    timestamp: '2026-01-02T03:04:05.000Z',
    level: 'info',
    target: 'http',
    message: 'request',
    request_id: 'r1',
    trace_id: 't1',
    duration_ms: 12.346,
    status: 200,
  });
});

t.test(
  'on standard output lines keep their order, and an end that nobody planned loses none',
  async (t) => {
    const program = `
    import { createLogs } from '${new URL('../../host/telemetry/logs.ts', import.meta.url).href}';
    const logs = createLogs({ level: 'info', format: 'json', pluginLines: 10, now: Date.now });
    const entry = ${JSON.stringify(ENTRY)};
    for (let at = 0; at < 1000; at += 1) logs.access({ ...entry, requestId: 'r' + at });
    logs.logger('x').info('in between');
    logs.access({ ...entry, requestId: 'last' });
    process.exit();`;
    const options = { encoding: 'utf8', maxBuffer: 16 << 20 } as const;
    const text = execFileSync(process.execPath, ['--input-type=module', '-e', program], options);
    const lines = text.trimEnd().split('\n');
    const names = lines.map((line) => {
      const { request_id: id, message } = JSON.parse(line) as Record<string, unknown>;
      return id ?? message;
    });
    const first = Array.from({ length: 1000 }, (_, at) => `r${at}`);
    t.strictSame(names, [...first, 'in between', 'last']);
  },
);

t.test('credentials are not written, wherever they stand', async (t) => {
  const { logs, text } = capture('json');
  const headers = { authorization: 'Bearer hunter2', cookie: 'hunter2', 'set-cookie': 'hunter2' };
  logs.logger('x').info({ headers, token: 'hunter2', db: { password: 'hunter2' } }, 'hello');
  const line = text();
  t.match(line, 'hello');
  t.notMatch(line, 'hunter2');
});

t.test('no text of a guest or a caller forges a line or moves the cursor', async (t) => {
  const evil = 'a\n{"level":"fatal"}\r\u001b[2J\u009b31m\u2028b\u202e';
  for (const format of ['json', 'pretty'] as const) {
    const { logs, text } = capture(format);
    logs.plugin('notes', 'info', evil);
    logs.logger('x').error({ error: new Error(evil) }, evil);
    logs.access({
      ...ENTRY,
      method: evil,
      path: evil,
      route: evil,
      plugin: evil,
      requestId: evil,
      subject: evil,
      remoteAddress: evil,
    });
    logs.logger(evil).info({ evil, deep: { evil } }, evil);
    const written = text();
    if (format === 'json') {
      const lines = written.trimEnd().split('\n');
      const levels = lines.map((line) => (JSON.parse(line) as { level: string }).level);
      t.strictSame(levels.toSorted(), ['error', 'info', 'info', 'info']);
    }
    const raw = [...written].filter((c) => c !== '\n' && /[\p{Cc}\p{Zl}\p{Zp}\u202e]/u.test(c));
    t.strictSame(raw, [], format);
  }
  t.equal(printable('a\u001bb\nc\td'), 'a\\u001bb\\u000ac d');
  t.equal(printable('é 漢 👩‍👩‍👧'), 'é 漢 👩‍👩‍👧', 'other scripts stay');
});

t.test('the level changes while running, for loggers that exist already', async (t) => {
  const { logs, text } = capture('json', 'error');
  const logger = logs.logger('x');
  logger.info('one');
  logs.setLevel('debug');
  logger.debug('two');
  logs.setLevel('warn');
  logger.info('three');
  t.match(text(), /^\{.*"two"\}\n$/);
});

t.test('the last lines of a plugin are kept, in pages', async (t) => {
  const logs = new PluginLogs({ lines: 5, now: () => AT });
  t.strictSame(logs.read('p', { since: 0, limit: 10 }), { lines: [], next: 0 });
  for (let i = 1; i <= 23; i += 1) logs.append('p', 'info', `line ${i}`);
  const page = logs.read('p', { since: 0, limit: 2 });
  t.match(page, { lines: [{ seq: 19, message: 'line 19' }, { seq: 20 }], next: 20 });
  t.match(logs.read('p', { since: page.next, limit: 10 }), {
    lines: [{ seq: 21 }, {}, { seq: 23 }],
    next: 23,
  });
  t.match(logs.read('p', { since: 23, limit: 10 }), { lines: [], next: 23 });
  t.match(logs.read('p', { since: 900, limit: 1 }).lines, [{ seq: 19 }], 'of before a restart');
  logs.append('p', 'info', 'x'.repeat(100_000));
  t.ok((logs.read('p', { since: 23, limit: 1 }).lines[0]?.message.length ?? 0) < 9000, 'cut');
  logs.forget('p');
  t.strictSame(logs.read('p', { since: 0, limit: 10 }), { lines: [], next: 0 });
});

t.test('a flood is cut and counted, and ends', async (t) => {
  let now = AT;
  const logs = new PluginLogs({ lines: 5000, now: () => now });
  let kept = 0;
  for (let i = 0; i < 5000; i += 1) kept += logs.append('p', 'info', 'x').length;
  t.equal(kept, 1000, 'a burst');
  t.equal(logs.append('q', 'info', 'x').length, 1, 'another plugin is not concerned');
  now += 1000;
  const added = logs.append('p', 'info', 'after');
  t.match(added, [{ level: 'warn', message: /^4000 lines were dropped/ }, { message: 'after' }]);
});

function metrics() {
  const made = createMetrics({
    version: '1.2.3',
    databaseConnections: () => 3,
    upstreams: () => [],
    pluginMemory: () => [{ plugin: 'p', bytes: 65_536 }],
  });
  t.teardown(() => made.close());
  return made;
}

t.test('what is observed is exposed', async (t) => {
  const m = metrics();
  m.http({ method: 'GET', route: '/a/:b', status: 200, seconds: 0.003 });
  m.http({ method: 'GET', route: '/a/:b', status: 200, seconds: 30 });
  m.http({ method: 'BREW', route: '/a/:b', status: 400, seconds: 0.001 });
  m.call({ plugin: 'p', export: 'e', code: 'OK', seconds: 0.1 });
  const inferred = { model: 'm', operation: 'embed', seconds: 0.2 };
  m.inference({ ...inferred, outcome: 'ok' });
  m.inference({ ...inferred, outcome: 'failed' });
  m.inferenceBatch(7);
  m.inferenceQueue({ queued: () => 3, memoryBytes: () => 4096 });
  m.spans('dropped', 7);
  const denied = {
    plugin: 'p',
    capability: 'db',
    operation: 'query',
    outcome: 'denied',
    seconds: 0,
  } as const;
  m.capability(denied);
  m.capability({ ...denied, outcome: 'ok' });
  m.cost({ plugin: 'p', fuel: 1000, executionMs: 1.5 });
  m.cost({ plugin: 'p', fuel: 234, executionMs: 0.5 });
  m.restart('p');
  m.cacheLookup(true);
  m.cacheLookup(true);
  m.cacheLookup(false);
  const { text, contentType } = await m.expose();
  t.match(contentType, /^text\/plain; version=0\.0\.4/);
  for (const line of [
    'http_requests_total{method="GET",route="/a/:b",status="200"} 2',
    'http_requests_total{method="other",route="/a/:b",status="400"} 1',
    'http_request_duration_seconds_bucket{method="GET",route="/a/:b",status="200",le="0.0025"} 0',
    'http_request_duration_seconds_bucket{method="GET",route="/a/:b",status="200",le="0.005"} 1',
    'http_request_duration_seconds_bucket{method="GET",route="/a/:b",status="200",le="10"} 1',
    'http_request_duration_seconds_bucket{method="GET",route="/a/:b",status="200",le="+Inf"} 2',
    'http_request_duration_seconds_sum{method="GET",route="/a/:b",status="200"} 30.003',
    'http_request_duration_seconds_count{method="GET",route="/a/:b",status="200"} 2',
    'noa_plugin_calls_total{plugin="p",export="e",code="OK"} 1',
    'inference_requests_total{model="m",operation="embed",outcome="ok"} 1',
    'inference_requests_total{model="m",operation="embed",outcome="failed"} 1',
    'inference_duration_seconds_sum{model="m",operation="embed",outcome="ok"} 0.2',
    'noa_inference_batch_texts_sum 7',
    'noa_inference_queue_depth 3',
    'noa_inference_memory_bytes 4096',
    'noa_trace_spans_total{outcome="dropped"} 7',
    'noa_plugin_denials_total{plugin="p",capability="db"} 1',
    'noa_capability_calls_total{plugin="p",capability="db",operation="query",outcome="ok"} 1',
    'noa_plugin_restarts_total{plugin="p"} 1',
    'noa_plugin_fuel_total{plugin="p"} 1234',
    'noa_plugin_cpu_seconds_total{plugin="p"} 0.002',
    'noa_plugin_memory_bytes{plugin="p"} 65536',
    'db_connections_active 3',
    'cache_hits_total 2',
    'cache_misses_total 1',
  ]) {
    t.ok(text.includes(`${line}\n`), line);
  }
  m.forget('p');
  const after = (await m.expose()).text.split('\n').filter((line) => line.includes('"p"'));
  t.strictSame(
    after,
    ['noa_plugin_memory_bytes{plugin="p"} 65536'],
    'a removed plugin leaves no series',
  );
});

t.test('the number of series is bounded', async (t) => {
  const m = metrics();
  for (let i = 0; i < 5000; i += 1)
    m.http({ method: 'GET', route: `/${i}`, status: 200, seconds: 0 });
  const { text } = await m.expose();
  t.equal(text.split('\n').filter((line) => line.startsWith('http_requests_total{')).length, 2001);
  t.ok(text.includes('http_requests_total{method="other",route="other",status="other"} 3000\n'));
});

/** The rules of `promtool check metrics` (prometheus/util/promlint), as far as they concern names and help. */
function lint(text: string): string[] {
  const problems: string[] = [];
  for (const family of text.trim().split('\n\n')) {
    const [help = '', type = '', ...samples] = family.split('\n');
    const name = /^# HELP (\S+) \S/.exec(help)?.[1];
    const kind = new RegExp(`^# TYPE ${name} (counter|gauge|histogram)$`).exec(type)?.[1];
    if (name === undefined || kind === undefined) {
      problems.push(`${help}: needs HELP and TYPE`);
      continue;
    }
    if (!/^[a-z][a-z0-9_]*$/.test(name)) problems.push(`${name}: lower case and underscores`);
    if ((kind === 'counter') !== name.endsWith('_total'))
      problems.push(`${name}: _total is for counters`);
    if (/_(count|sum|bucket|info)$/.test(name) && name !== 'noa_build_info')
      problems.push(`${name}: reserved suffix`);
    if (new RegExp(`_${kind}(_|$)`).test(name)) problems.push(`${name}: names its type`);
    if (/_(milliseconds|ms|minutes|kb|mb|kibibytes|percent)(_|$)/.test(name))
      problems.push(`${name}: base units`);
    const own = kind === 'histogram' ? `${name}_(bucket|sum|count)` : name;
    for (const sample of samples) {
      if (
        !new RegExp(`^${own}(\\{[a-z_]+="[^"\\n]*"(,[a-z_]+="[^"\\n]*")*\\})? \\S+$`).test(sample)
      ) {
        problems.push(`${name}: ${sample}`);
      }
    }
  }
  return problems;
}

t.test('the text keeps the rules of promtool', async (t) => {
  const m = metrics();
  m.http({ method: 'GET', route: '/a', status: 200, seconds: 0.003 });
  m.call({ plugin: 'p', export: 'e', code: 'OK', seconds: 0.1 });
  t.strictSame(lint((await m.expose()).text), []);
  t.equal(
    lint('# HELP a_total x\n# TYPE a_total gauge\na_total 1').length,
    1,
    'the rules are checked',
  );
  t.equal(lint('# HELP a_ms x\n# TYPE a_ms gauge\na_ms 1\nb 2').length, 2);
  t.equal(lint('# TYPE a gauge\na 1').length, 1);
});
