/** A host of several processes on one port: they are one host to callers, and one of them may die. */
import { readFile } from 'node:fs/promises';
import { get } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { type Answer, bundleOf, eventually, RunningHost } from './running-host.ts';

const WORKERS = 2;
const fresh = { connection: 'close' };

const host = await RunningHost.start({ env: { NOA_SERVER__WORKERS: String(WORKERS) } });
t.teardown(() => host.dispose());
await host.install(await bundleOf('plugins/examples/notes'));
await host.approve('notes');
await host.install(await bundleOf('test/fixtures/plugins/keeper'));
await host.approve('keeper');

/** On a connection of its own, so that the next may go to another process. */
const ask = (method: string, path: string, body?: unknown): Promise<Answer> =>
  host.request(method, path, body, fresh);

/** The workers that said that they serve, newest last. */
const launched = (): { worker: number; pid: number }[] =>
  host.output
    .split('\n')
    .filter((line) => line.includes('"message":"a worker serves"'))
    .map((line) => JSON.parse(line) as { worker: number; pid: number });

/** Which worker answered the request of this id. */
const answeredBy = (id: string): number | undefined =>
  host.output
    .split('\n')
    .filter((line) => line.includes(`"request_id":"${id}"`) && line.includes('"target":"http"'))
    .map((line) => (JSON.parse(line) as { worker: number }).worker)[0];

/** Asks until every worker has answered `good` so often in a row that none can think otherwise. */
async function everywhere(what: string, path: string, good: (answer: Answer) => boolean) {
  const seen = new Set<number>();
  await eventually(what, async () => {
    // Several at once, so that no worker is idle enough to take them all.
    const answers = await Promise.all(Array.from({ length: 4 }, () => ask('GET', path)));
    if (!answers.every(good)) {
      seen.clear();
      return false;
    }
    for (const { headers } of answers) {
      const id = String(headers.get('x-request-id'));
      await eventually('the access log tells of it', () =>
        Promise.resolve(answeredBy(id) !== undefined),
      );
      seen.add(Number(answeredBy(id)));
    }
    return seen.size === WORKERS;
  });
}

t.test('all of them serve, from one state', async (t) => {
  const { body } = await ask('POST', '/plugins/notes/notes', { text: 'of all' });
  const path = `/plugins/notes/notes/${String(body['id'])}`;
  await everywhere('each worker serves the note', path, ({ status }) => status === 200);
  const reads = await Promise.all(Array.from({ length: 20 }, () => ask('GET', path)));
  const counts = reads.map((read) => Number(read.body['reads']));
  t.equal(new Set(counts).size, 20, 'the cache counts for all of them together');
});

t.test('blobs are one area with one quota', async (t) => {
  for (let n = 0; n < 6; n += 1) {
    const path = `docs/${n}`;
    t.match(await ask('POST', '/v1/plugins/keeper/exports/put', { path, text: 'x' }), {
      status: 200,
    });
  }
  for (let n = 0; n < 4; n += 1) {
    const { body } = await ask('POST', '/v1/plugins/keeper/exports/list', { prefix: 'docs/' });
    t.equal((body['entries'] as unknown[]).length, 6);
  }
});

t.test('what an administrator changes holds in every process', async (t) => {
  const { body } = await host.get('/v1/grants?plugin=notes');
  const grants = body['grants'] as { id: string; capability: string }[];
  const grant = grants.find(({ capability }) => capability === 'db');
  t.equal((await ask('DELETE', `/v1/grants/${grant?.id}`)).status, 200);
  await everywhere('each worker denies', '/plugins/notes/notes', ({ status }) => status >= 400);
  await host.approve('notes');
  await everywhere('each worker serves again', '/plugins/notes/notes', (r) => r.status === 200);
});

async function metrics(): Promise<string> {
  const url = /Metrics on (\S+)/.exec(host.output)?.[1] ?? '';
  return (await fetch(url)).text();
}

/** Requests that were answered, as the metrics have it. */
async function total(name = 'http_requests_total'): Promise<number> {
  const lines = (await metrics()).split('\n').filter((line) => line.startsWith(`${name}{`));
  return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

t.test('logs and metrics are those of all', async (t) => {
  const { body } = await host.get('/v1/plugins/notes/logs');
  t.ok(Array.isArray(body['lines']), 'whoever answers');
  const before = await total();
  for (let n = 0; n < 10; n += 1) await ask('GET', '/plugins/notes/notes');
  await eventually('the sum has them all', async () => (await total()) === before + 10);
  t.match(await metrics(), /noa_build_info\{[^}]*\} 1\n/);
});

t.test('one that is killed is replaced, and its audit chain goes on', async (t) => {
  const [first] = launched();
  if (first === undefined) throw new Error('no worker said that it serves');
  const counted = await total();
  process.kill(first.pid, 'SIGKILL');
  await eventually('another serves', () => Promise.resolve(launched().length === WORKERS + 1));
  t.ok((await total()) >= counted, 'and what it had counted stays');
  t.equal(launched().at(-1)?.worker, first.worker, 'under its number');
  await everywhere('both serve', '/plugins/notes/notes', ({ status }) => status === 200);
  t.match(await host.post('/v1/audit/verify'), { body: { ok: true } });
});

t.test('no caller waits for ever for one that was killed', async (t) => {
  let over = false;
  const ended = { answered: 0, cut: 0, waiting: 0 };
  // Its own agent for each call, so that a new connection is always on its way to a worker.
  const call = () =>
    new Promise<void>((done) => {
      const headers = { authorization: `Bearer ${host.token}` };
      const url = new URL('/health', host.url);
      const request = get(url, { agent: false, headers, timeout: 10_000 }, (response) => {
        response.resume().on('end', () => (ended.answered += 1));
        response.on('error', () => (ended.cut += 1)).on('close', done);
      });
      let isLate = false;
      request.on('timeout', () => {
        isLate = true;
        ended.waiting += 1;
        request.destroy();
      });
      request.on('error', () => {
        if (!isLate) ended.cut += 1;
        done();
      });
    });
  const client = async (): Promise<void> => {
    while (!over) await call();
  };
  const clients = Array.from({ length: 16 }, client);
  for (let kills = 0; kills < 4; kills += 1) {
    const known = launched().length;
    const victim = launched().at(-1);
    if (victim === undefined) throw new Error('no worker said that it serves');
    process.kill(victim.pid, 'SIGKILL');
    await eventually('another serves', () => Promise.resolve(launched().length > known));
  }
  over = true;
  await Promise.all(clients);
  t.equal(ended.waiting, 0, JSON.stringify(ended));
  t.ok(ended.answered > 100, JSON.stringify(ended));
});

t.test('a reload replaces them one by one, and no request fails', async (t) => {
  const started = launched().length;
  const counted = await total();
  const timed = await total('http_request_duration_seconds_count');
  const failures: unknown[] = [];
  let over = false;
  let asked = 0;
  const client = async (): Promise<void> => {
    while (!over) {
      const answer = await ask('GET', '/plugins/notes/notes').catch(String);
      if (typeof answer === 'string' || answer.status !== 200) failures.push(answer);
      asked += 1;
    }
  };
  const clients = [client(), client(), client()];
  host.signal('SIGHUP');
  await eventually('all are replaced', () =>
    Promise.resolve(host.output.includes('workers were replaced')),
  );
  await sleep(200);
  over = true;
  await Promise.all(clients);
  t.equal(launched().length, started + WORKERS);
  t.strictSame(failures, []);
  t.ok(asked > 10, `${asked} requests meanwhile`);
  await eventually('those of the old ones are counted', async () => {
    return (await total()) === counted + asked;
  });
  t.equal(await total('http_request_duration_seconds_count'), timed + asked);
});

t.test('with the host gone, none of them stays', async (t) => {
  const pids = launched().map(({ pid }) => pid);
  await host.kill();
  const lives = async (pid: number): Promise<boolean> => {
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    return command.includes('fleet/worker');
  };
  await eventually('all have ended', async () => {
    const alive = await Promise.all(pids.map(lives));
    return !alive.includes(true);
  });
  await host.start();
  t.equal((await host.get('/plugins/notes/notes')).status, 200);
});
