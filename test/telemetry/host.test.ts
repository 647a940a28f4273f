/**
 * What a running host tells of itself: lines of one shape that nobody can forge, and metrics that
 * Prometheus takes, in a number that nobody can raise.
 */
import { spawnSync } from 'node:child_process';
import { METHODS } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { bundleOf, eventually, RunningHost } from '../e2e/running-host.ts';

t.setTimeout(180_000);

const FLOOD = 10_000;
/** What steers a terminal, ends a line for some reader, or turns the direction of text. */
const STEERS = /[\p{Cc}\p{Zl}\p{Zp}\u202a-\u202e\u2066-\u2069]/u;

const host = await RunningHost.start({
  env: { NOA_OBSERVABILITY__LOG_FORMAT: 'json', NOA_PLUGINS__LOG_LINES: '100' },
});
t.teardown(() => host.dispose());
await host.install(await bundleOf('test/fixtures/plugins/rogue'));
await host.approve('rogue');

/** Sends bytes as they are and waits until as many answers have come. */
async function send(requests: readonly string[]): Promise<void> {
  const { hostname, port } = new URL(host.url);
  const socket = connect(Number(port), hostname).setEncoding('latin1');
  let text = '';
  socket.on('data', (chunk: string) => (text += chunk));
  const answers = () => text.split(/HTTP\/1\.1 [2-5]\d\d /).length - 1;
  for (const request of requests) socket.write(request, 'latin1');
  await eventually('every request is answered', () =>
    Promise.resolve(answers() >= requests.length || socket.closed),
  );
  socket.destroy();
}

function get(path: string, headers = '', method = 'GET'): string {
  return `${method} ${path} HTTP/1.1\r\nhost: a\r\n${headers}\r\n`;
}

async function metrics(): Promise<string> {
  return String((await host.get('/metrics')).body['text']);
}

function series(text: string): string[] {
  return text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
}

t.test('callers cannot raise the number of series', async (t) => {
  const admin = `authorization: Bearer ${host.token}\r\n`;
  const methods = METHODS.filter((method) => method !== 'CONNECT');
  const flood = (count: number): Promise<void> =>
    send(
      Array.from({ length: count }, (_, at) => {
        const method = methods[at % methods.length] ?? 'GET';
        const paths = [
          get(`/nowhere/${at}`, admin),
          get(`/plugins/p${at}/x`, admin),
          get(`/plugins/rogue/${at}`, admin),
          get(`/v1/plugins/p${at}`, admin),
          get(`/v1/plugins/p${at}/exports/e${at}`, `${admin}content-length: 0\r\n`, 'POST'),
          get(`/v1/grants/${at}`, `authorization: Bearer subject-${at}\r\n`),
          get(`/v1/plugins?q=${at}`, `${admin}x-request-id: r${at}\r\n`),
          get('/v1/plugins', `${admin}content-length: 0\r\n`, method),
        ];
        return paths[at % paths.length] ?? '';
      }),
    );
  // Whatever the host knows of itself comes up once.
  await flood(800);
  const before = series(await metrics()).length;
  await flood(FLOOD);
  const after = series(await metrics());
  t.ok(after.length <= before + 20, `${before} series before, ${after.length} after`);
  const total = after
    .filter((line) => line.startsWith('http_requests_total'))
    .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
  t.ok(total >= FLOOD, 'all are counted');
  t.notMatch(after.join('\n'), /subject-|p123\b|nowhere/);
});

t.test('Prometheus takes the metrics', async (t) => {
  t.equal((await host.call('rogue', 'echo', { n: 1 })).status, 200);
  t.equal((await host.call('rogue', 'fail')).status, 500);
  t.equal((await host.call('rogue', 'get', { key: 'others:1' })).status, 403);
  t.equal((await host.call('rogue', 'query', { sql: 'select 1' })).status, 200);
  const text = await metrics();
  for (const family of [
    'http_requests_total',
    'http_request_duration_seconds',
    'inference_requests_total',
    'inference_duration_seconds',
    'db_connections_active',
    'cache_hits_total',
    'noa_plugin_calls_total',
    'noa_plugin_call_duration_seconds',
    'noa_plugin_memory_bytes',
    'noa_plugin_denials_total',
    'noa_plugin_restarts_total',
    'noa_trace_spans_total',
    'noa_gc_seconds_total',
    'noa_event_loop_delay_seconds',
    'process_cpu_seconds_total',
  ]) {
    t.match(text, new RegExp(`^# HELP ${family} \\S.*\\n# TYPE ${family} \\w+$`, 'm'), family);
  }
  const check = spawnSync('promtool', ['check', 'metrics'], { input: text, encoding: 'utf8' });
  if (check.error !== undefined) {
    t.comment('promtool is not installed: its rules are checked in part by telemetry.test.ts');
    return;
  }
  t.strictSame([check.status, check.stdout, check.stderr], [0, '', ''], 'promtool finds nothing');
});

t.test('every line has the documented shape, whatever a caller or a guest sends', async (t) => {
  const evil = 'a%0d%0a{%22level%22:%22fatal%22}%1b[2J%c2%9b31m%e2%80%a8';
  const raw = 'a\u009b31m\u0085\u00ad';
  const admin = `authorization: Bearer ${host.token}\r\n`;
  await send([
    get(`/${evil}?token=hidden-in-a-query`, admin),
    get(`/plugins/${evil}/x`, `x-request-id: ${raw}\r\n${admin}`),
    get('/v1/plugins', `traceparent: 00-${raw}\r\nauthorization: Bearer hidden-${raw}\r\n`),
    get('/health', `user-agent: ${raw}\r\nforwarded: for=${raw}\r\n`),
  ]);
  await send([get(`/${raw}`, admin)]);
  await send([get('/\u001b[2J', admin)]);
  await host.call('rogue', 'flood');
  await host.call('rogue', 'loop');
  const answer = await host.request(
    'POST',
    '/v1/plugins/rogue/exports/echo',
    { a: 1 },
    {
      'x-request-id': 'mine-1',
      traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00',
    },
  );
  t.equal(answer.status, 200);
  // The database goes away under the host, and comes back.
  const [pid = ''] = (await host.readFile(join('postgres', 'cluster', 'postmaster.pid'))).split(
    '\n',
  );
  process.kill(Number(pid), 'SIGKILL');
  await eventually('the host tells', () =>
    Promise.resolve(/"level":"error","timestamp":"[^"]*","target":"host"/.test(host.output)),
  );
  await eventually('the host is ready', async () => (await host.get('/ready')).status === 200);
  t.equal(await host.stop(), 0);

  const lines = host.output.split('\n').filter((line) => line.startsWith('{'));
  t.ok(lines.length > FLOOD);
  const targets = new Set<unknown>();
  const levels = new Set<unknown>();
  const wrong = lines.filter((text) => {
    if (STEERS.test(text)) return true;
    const line = JSON.parse(text) as Record<string, unknown>;
    const { timestamp, level, target, message } = line;
    targets.add(target);
    levels.add(level);
    if (target === 'http' && message === 'request') {
      const { request_id: id, trace_id: trace, duration_ms: ms } = line;
      if (typeof id !== 'string' || typeof ms !== 'number') return true;
      if (typeof trace !== 'string' || !/^[0-9a-f]{32}$/.test(trace)) return true;
    }
    return !(
      typeof timestamp === 'string' &&
      new Date(timestamp).toISOString() === timestamp &&
      typeof level === 'string' &&
      ['trace', 'debug', 'info', 'warn', 'error', 'fatal'].includes(level) &&
      typeof target === 'string' &&
      target !== '' &&
      typeof message === 'string' &&
      message !== ''
    );
  });
  t.strictSame(wrong.slice(0, 5), []);
  for (const target of ['host', 'http', 'plugin', 'postgres']) t.ok(targets.has(target), target);
  for (const level of ['info', 'warn', 'error']) t.ok(levels.has(level), level);
  const mine = lines.find((line) => line.includes('"request_id":"mine-1"')) ?? '{}';
  t.match(JSON.parse(mine), {
    level: 'info',
    target: 'http',
    message: 'request',
    trace_id: '0af7651916cd43dd8448eb211c80319c',
    duration_ms: Number,
    method: 'POST',
    route: '/v1/plugins/:name/exports/:export',
    path: '/v1/plugins/rogue/exports/echo',
    status: 200,
    plugin: 'rogue',
    subject: 'bootstrap',
  });
  t.equal(
    lines.filter((line) => line.includes(evil)).length,
    2,
    'the paths are told, as they came',
  );
  t.notMatch(host.output, /hidden-/);
  t.notOk(host.output.includes(host.token));
  const others = host.output.split('\n').filter((line) => !line.startsWith('{'));
  const banner = /^$|^NOA |^ {2}\S|^… |^stopping|^error: [\w ]+.*; the host stops$/;
  t.strictSame(
    others.filter((line) => !banner.test(line)),
    [],
    'nothing else is printed',
  );
});
