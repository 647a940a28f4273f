/** `noa audit list | verify | export`. An exported file holds one record a line, oldest first. */
import { mkdtemp, open, rename, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { NoaError } from '@noa/sdk/host';
import { type AuditRecord, type Verification, verifyRecords } from '../kernel/audit.ts';
import type { AuditPage } from '../kernel/store.ts';
import type { AdminClient } from './client.ts';
import type { Session } from './session.ts';
import { table } from './table.ts';

const PAGE = 1000;

export function registerAudit(program: Command, session: Session): void {
  const audit = program.command('audit').description('read and verify the audit log');
  audit
    .command('list')
    .description('show the newest records')
    .option('--plugin <name>', 'of this plugin only')
    .option('--limit <number>', 'how many, 1 to 1000', '50')
    .option('--cursor <cursor>', 'go on from where a page ended')
    .action(async (options: { plugin?: string; limit: string; cursor?: string }) => {
      const query = new URLSearchParams({ ...options });
      const page = await session.request<AuditPage>('GET', `/v1/audit?${query.toString()}`);
      session.result(page, list(page, session.io.columns));
    });
  audit
    .command('verify')
    .description('check the chain of hashes: of the running host, or of an exported file')
    .argument('[file]', 'a file that `noa audit export` wrote; no host is needed')
    .action(async (file?: string) => {
      const verification =
        file === undefined
          ? await session.request<Verification>('POST', '/v1/audit/verify')
          : await verifyRecords(readRecords(resolve(session.io.cwd, file)));
      session.result(verification, describe(verification));
      if (!verification.ok) session.exitCode = 1;
    });
  audit
    .command('export')
    .description('write the whole log to a file, one JSON record a line, oldest first')
    .argument('<file>')
    .action(async (file: string) => {
      const records = await exportTo(resolve(session.io.cwd, file), await session.client());
      session.result({ file, records }, `${records} records written to ${file}`);
    });
}

function list({ records, next }: AuditPage, columns: number): string {
  const rows = records.map((record) => [
    record.timestamp,
    record.outcome,
    record.actor,
    [
      record.kind,
      record.plugin,
      record.capability,
      record.operation,
      ...record.resources,
      record.code,
    ]
      .filter((part) => part !== null)
      .join(' '),
  ]);
  const text = table(['TIME', 'OUTCOME', 'ACTOR', 'WHAT'], rows, columns);
  return next === null ? text : `${text}\nmore: --cursor ${next}`;
}

function describe({ ok, records, chains, problem }: Verification): string {
  const verdict = ok ? 'intact' : `BROKEN: ${problem}`;
  const heads = chains.map(
    ({ chain, seq, hash }) => `chain ${chain}: ${seq} records, head ${hash}`,
  );
  return [`${verdict}, ${records} records checked`, ...heads].join('\n');
}

/** Rejects with NoaError that names the first line that is no record. */
async function* readRecords(path: string): AsyncGenerator<AuditRecord> {
  const file = await open(path).catch((cause: unknown) => {
    throw new NoaError('NOT_FOUND', `${path} cannot be read`, { cause });
  });
  try {
    let number = 0;
    for await (const line of file.readLines({ autoClose: false })) {
      number += 1;
      if (line !== '') yield parseRecord(line, number);
    }
  } finally {
    await file.close();
  }
}

function parseRecord(line: string, number: number): AuditRecord {
  const wrong = (cause?: unknown) =>
    new NoaError('INVALID_ARGUMENT', `line ${number} is not an audit record`, { cause });
  let record: Partial<AuditRecord> | null;
  try {
    record = JSON.parse(line) as Partial<AuditRecord> | null;
  } catch (cause) {
    throw wrong(cause);
  }
  const { chain, seq, prevHash, hash, resources } = record ?? {};
  const texts = [chain, prevHash, hash].every((value) => typeof value === 'string');
  if (!texts || typeof seq !== 'number' || !Array.isArray(resources)) throw wrong();
  return record as AuditRecord;
}

/**
 * The host answers the newest records first, and a log may be larger than memory: pages go to a file as
 * they come, and are then copied from the last to the first. Both files lie in a folder of their own
 * beside the target, which is replaced whole or not at all.
 */
async function exportTo(path: string, client: AdminClient): Promise<number> {
  const refused = (cause: unknown): unknown => {
    if (!(cause instanceof Error && 'syscall' in cause && 'code' in cause)) return cause;
    const text = `${path} cannot be written (${String(cause.code)}): name a file in a folder that you may write to`;
    return new NoaError('INVALID_ARGUMENT', text, { cause });
  };
  let stage: string | undefined;
  try {
    stage = await mkdtemp(`${path}.`);
    const draft = join(stage, 'draft');
    const records = await writeRecords(join(stage, 'pages'), draft, client);
    await rename(draft, path);
    return records;
  } catch (error) {
    throw refused(error);
  } finally {
    if (stage !== undefined) await rm(stage, { recursive: true, force: true });
  }
}

/** Answers how many records there are in `draft`, the oldest first. */
async function writeRecords(reversed: string, draft: string, client: AdminClient): Promise<number> {
  await using input = await open(reversed, 'w+', 0o600);
  await using output = await open(draft, 'w', 0o600);
  const pages: { position: number; length: number }[] = [];
  let records = 0;
  let end = 0;
  for (let cursor: string | null = ''; cursor !== null;) {
    const query: string = cursor === '' ? '' : `&cursor=${encodeURIComponent(cursor)}`;
    const page = await client.request<AuditPage>('GET', `/v1/audit?limit=${PAGE}${query}`);
    const lines = page.records.map((record) => `${JSON.stringify(record)}\n`);
    const bytes = Buffer.from(lines.toReversed().join(''));
    await input.appendFile(bytes);
    pages.push({ position: end, length: bytes.length });
    end += bytes.length;
    records += lines.length;
    cursor = page.next;
  }
  for (const { position, length } of pages.toReversed()) {
    const { buffer, bytesRead } = await input.read({ buffer: Buffer.alloc(length), position });
    if (bytesRead !== length) throw new NoaError('INTERNAL', `${reversed} was cut short`);
    await output.appendFile(buffer);
  }
  await output.sync();
  return records;
}
