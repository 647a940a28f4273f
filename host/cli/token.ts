/** `noa token …`: capability tokens of machine callers, and the keys that sign capability tokens. */
import { type Command, InvalidArgumentError } from 'commander';
import type { Json } from '@noa/sdk/host';
import type { CallerTokenView } from '../kernel/caller-token-records.ts';
import type { TokenKey } from '../kernel/key-ring.ts';
import { segment } from './auth-path.ts';
import type { Session } from './session.ts';
import { table } from './table.ts';

const PATH = '/v1/tokens';
/** `db.query:notes.*` */
const REACH = /^([a-z]+)\.([a-zA-Z,]+):(.+)$/;

/** Of JSON, as it is sent. */
type Reach = { capability: string; operations: string[]; resources: string[] };
type Made = CallerTokenView & { readonly token: string };

interface InputOptions {
  readonly call: string[];
  readonly allow?: Reach[];
  readonly budget?: [string, number][];
  readonly ttl?: number;
}

export function registerToken(program: Command, session: Session): void {
  const token = program
    .command('token')
    .description('capability tokens of machine callers, and the keys that sign them');
  mint(token, session);
  withInput(token.command('attenuate'))
    .description('make a narrower token of the one in --token or NOA_TOKEN; it is shown this once')
    .action(async (options: InputOptions) => {
      const json = inputOf(options);
      show(session, await session.request<Made>('POST', `${PATH}/attenuate`, { json }));
    });
  token
    .command('inspect')
    .description('tell what the token on standard input holds, and whether it is good')
    .action(async () => {
      if ('isTTY' in session.io.stdin && session.io.stdin.isTTY === true)
        session.note('paste the token, then end it with Ctrl-D on a line of its own');
      const json = { token: (await session.stdin()).trim() };
      const path = `${PATH}/inspect`;
      const told = await session.request<Inspected>('POST', path, { json });
      session.result(
        told,
        told.token ? describe(told.token) : 'the token is not good on this host',
      );
      if (!told.active) session.exitCode = 1;
    });
  token
    .command('list')
    .description('show the living tokens: what they hold, never the tokens themselves')
    .action(async () => {
      const tokens = await session.requestAll<CallerTokenView>(PATH, 'tokens');
      const rows = tokens.map(({ id, subject, expiresAt, calls }) => [
        id,
        subject,
        expiresAt,
        calls.join(' '),
      ]);
      const text = table(['TOKEN', 'CALLER', 'EXPIRES', 'CALLS'], rows, session.io.columns);
      session.result(tokens, tokens.length === 0 ? 'there are no living tokens' : text);
    });
  token
    .command('revoke')
    .description('revoke a token and all that descend from it, on every host within a second')
    .argument('<id>')
    .action(async (id: string) => {
      await session.request('DELETE', `${PATH}/${segment(id)}`);
      session.result({ id }, `revoked ${id}`);
    });
  keys(token, session);
}

interface Inspected {
  readonly active: boolean;
  readonly token: CallerTokenView | null;
}

function mint(token: Command, session: Session): void {
  withInput(token.command('mint'))
    .description('make a token for a machine caller; it is shown this once')
    .requiredOption('--caller <name>', 'whose token it is')
    .option('--level <level>', 'of its rate limit, L1 to L5')
    .addHelpText(
      'after',
      `
Examples:
  noa token mint --caller billing --call 'notes/*'
  noa token mint --caller report --call notes/list --allow 'db.query:notes.*' --budget calls=100`,
    )
    .action(async (options: InputOptions & { caller: string; level?: string }) => {
      const { caller, level } = options;
      const json = { caller, ...(level === undefined ? {} : { level }), ...inputOf(options) };
      show(session, await session.request<Made>('POST', PATH, { json }));
    });
}

function withInput(command: Command): Command {
  return command
    .requiredOption('--call <exports...>', 'plugin/export, or a beginning and *')
    .option(
      '--allow <right>',
      'the plugins may use only what is listed, such as db.query:notes.*; again for more',
      (text: string, before?: Reach[]) => [...(before ?? []), readReach(text)],
    )
    .option(
      '--budget <amount>',
      'such as calls=100, or rows, tokens, bytes, ms; again for more',
      (text: string, before?: [string, number][]) => [...(before ?? []), readAmount(text)],
    )
    .option('--ttl <seconds>', '60 to 300; 300 when absent', Number);
}

function inputOf({ call, allow, budget, ttl }: InputOptions): { [member: string]: Json } {
  return {
    calls: call,
    ...(allow && { rights: allow.map((reach) => ({ ...reach })) }),
    ...(budget && { budget: Object.fromEntries(budget) }),
    ...(ttl !== undefined && { lifeSeconds: ttl }),
  };
}

function readReach(text: string): Reach {
  const [, capability = '', operations = '', resource = ''] = REACH.exec(text) ?? [];
  if (resource === '') throw new InvalidArgumentError('Write capability.operation:resource.');
  return { capability, operations: operations.split(','), resources: [resource] };
}

function readAmount(text: string): [string, number] {
  const [name = '', amount = ''] = text.split('=');
  if (/^\d+$/.test(amount)) return [name, Number(amount)];
  throw new InvalidArgumentError('Write name=number.');
}

function show(session: Session, made: Made): void {
  const { token, ...view } = made;
  session.result(made, `${describe(view)}\ntoken ${token}\nIt is shown this once.`);
}

function describe({ id, subject, calls, rights, budget, expiresAt }: CallerTokenView): string {
  const uses = rights?.map(
    ({ capability, operations, resources }) =>
      `${capability}.${operations.join(',')} on ${resources.join(' ')}`,
  );
  const spends = Object.entries(budget ?? {}).map(([name, amount]) => `${name} ${amount}`);
  return [
    `${id} of ${subject}, until ${expiresAt}`,
    `calls ${calls.join(' ')}`,
    `uses ${uses?.join('; ') ?? 'what the plugins may'}`,
    ...(spends.length > 0 ? [`spends at most ${spends.join(', ')}`] : []),
  ].join('\n');
}

function keys(token: Command, session: Session): void {
  token
    .command('keys')
    .description('show the keys that sign: ids and times, never the keys themselves')
    .action(async () => {
      const found = await session.requestAll<TokenKey>(`${PATH}/keys`, 'keys');
      const rows = found.map(({ kid, createdAt, retiredAt }) => [
        kid,
        createdAt,
        retiredAt ?? 'signs',
      ]);
      session.result(found, table(['KEY', 'CREATED', 'RETIRED'], rows, session.io.columns));
    });
  token
    .command('rotate')
    .description('sign with a new key from now on; what the old one signed expires within 300 s')
    .action(async () => {
      const key = await session.request<TokenKey>('POST', `${PATH}/rotate`);
      session.result(key, `${key.kid} signs from now on, on every host within a second`);
    });
}
