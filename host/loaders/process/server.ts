/**
 * The process's end of the channel: runs the one plugin that it is given and answers what the host asks.
 * Nothing is here but the plugin's code, its configuration and the calls that run; when the channel
 * closes, the process ends.
 */
import { closeSync, readFileSync, readdirSync } from 'node:fs';
import { Socket } from 'node:net';
import { type Json, NoaError } from '@noa/sdk/host';
import type { CallCost, Loader, LoadRequest, Runtime } from '../../kernel/loader.ts';
import type { WasmLoaderOptions } from '../wasm/loader.ts';
import { Channel } from './channel.ts';
import { CHANNEL, FROM_HOST, type CallHead, type InspectHead, type LoadHead } from './contract.ts';
import { type Frame, FrameError, KIND } from './frames.ts';

/** How often memory that instances gave back without a call is reported. */
const USAGE_MS = 1000;
/** Well within the host's patience with a call that is over. */
const LATE_COST_MS = 200;
const GIVEN_UP: ReadonlySet<string> = new Set(['DEADLINE_EXCEEDED', 'CANCELLED']);
const O_CLOEXEC = 0o2000000;

/** What runs plugin code in the process; it ends with the process. */
export interface Engine {
  load(request: LoadRequest): Promise<Pick<Runtime, 'call' | 'stats'>>;
  inspect?: Loader['inspect'];
}

type CreateEngine = (options: WasmLoaderOptions) => Engine;

/** Serves the host that started this process, until it is gone. */
export function serve(create: CreateEngine): void {
  closeInherited();
  new Server(new Socket({ fd: CHANNEL, readable: true, writable: true }), create);
}

class Server {
  readonly #channel: Channel;
  readonly #calls = new Map<number, Call>();
  readonly #create: CreateEngine;
  #runtime: Pick<Runtime, 'call' | 'stats'> | undefined;
  #usage = '0 0';

  constructor(socket: Socket, create: CreateEngine) {
    this.#create = create;
    const end = (): never => process.exit();
    const owner = { received: (frame: Frame) => this.#received(frame), broken: end, closed: end };
    this.#channel = new Channel(socket, owner, FROM_HOST);
    setInterval(() => this.#reportUsage(), USAGE_MS);
  }

  #received({ kind, id, head, body }: Frame): void {
    if (kind === KIND.call) {
      const call = new Call((number, request) =>
        this.#channel.send(KIND.invoke, id, `${number} ${call.cost}`.trimEnd(), request),
      );
      this.#calls.set(id, call);
      this.#answer(id, this.#call(call, head, body.toString('utf8')), call);
    } else if (kind === KIND.reply) this.#calls.get(id)?.replied(head, body.toString('utf8'));
    else if (kind === KIND.cancel) this.#calls.get(id)?.abort.abort();
    else if (kind === KIND.load) this.#answer(id, this.#load(head, Uint8Array.from(body)));
    else if (kind === KIND.inspect) this.#answer(id, this.#inspect(head, Uint8Array.from(body)));
    else throw new FrameError(`an unknown kind ${kind}`);
  }

  #answer(id: number, work: Promise<string>, call?: Call): void {
    const send = (kind: number, text: string): void => {
      this.#calls.delete(id);
      this.#reportUsage();
      this.#channel.send(kind, id, call?.cost ?? '', text);
    };
    work.then(
      (output) => send(KIND.done, output),
      async (error: unknown) => {
        // Its cost comes a moment later, and the host has answered its caller by itself.
        if (error instanceof NoaError && GIVEN_UP.has(error.code)) await call?.costOrLate();
        send(KIND.failed, failure(error));
      },
    );
  }

  async #load(head: string, wasm: Uint8Array): Promise<string> {
    const { options, request } = JSON.parse(head) as LoadHead;
    this.#runtime = await this.#create(options).load({
      ...request,
      wasm,
      log: (level, message) => this.#channel.send(KIND.log, 0, level, message),
      harmed: (what) => this.#channel.send(KIND.harmed, 0, what),
    });
    return '';
  }

  async #inspect(head: string, wasm: Uint8Array): Promise<string> {
    const { options, manifest, limits } = JSON.parse(head) as InspectHead;
    await this.#create(options).inspect?.(manifest, limits, wasm);
    return '';
  }

  async #call(call: Call, head: string, input: string): Promise<string> {
    if (this.#runtime === undefined) throw new NoaError('UNAVAILABLE', 'The plugin is not loaded.');
    return this.#runtime.call({
      ...(JSON.parse(head) as CallHead),
      input,
      signal: call.abort.signal,
      invoke: (capability, operation, args) =>
        call.invoke(JSON.stringify({ capability, operation, arguments: args })),
      spent: (cost) => call.spent(cost),
    });
  }

  #reportUsage(): void {
    const { instances, memoryBytes } = this.#runtime?.stats() ?? { instances: 0, memoryBytes: 0 };
    const usage = `${instances} ${memoryBytes}`;
    if (usage === this.#usage) return;
    this.#usage = usage;
    this.#channel.send(KIND.usage, 0, usage);
  }
}

/** One call that runs, and what it waits for. */
class Call {
  readonly abort = new AbortController();
  /** What it has cost, as a head says it; empty until that is known. */
  cost = '';
  #told: (() => void) | undefined;
  readonly #send: (number: number, request: string) => void;
  readonly #waiting = new Map<number, PromiseWithResolvers<unknown>>();
  #last = 0;

  constructor(send: (number: number, request: string) => void) {
    this.#send = send;
  }

  invoke(request: string): Promise<unknown> {
    this.#last += 1;
    const reply = Promise.withResolvers<unknown>();
    this.#waiting.set(this.#last, reply);
    this.#send(this.#last, request);
    return reply.promise;
  }

  spent({ fuel, executionMs }: CallCost): void {
    // No more digits than the host reads.
    const burned = Math.min(Number.MAX_SAFE_INTEGER, Math.round(fuel));
    this.cost = `${burned} ${executionMs.toFixed(3)}`;
    this.#told?.();
  }

  /** Resolves when the cost is told again, or after a moment. */
  costOrLate(): Promise<void> {
    return new Promise((resolve) => {
      this.#told = resolve;
      setTimeout(resolve, LATE_COST_MS);
    });
  }

  replied(number: string, envelope: string): void {
    const reply = this.#waiting.get(Number(number));
    this.#waiting.delete(Number(number));
    const answer = JSON.parse(envelope) as Envelope;
    if (answer.ok) return reply?.resolve(answer.value);
    const { code, message, ...more } = answer.error;
    reply?.reject(new NoaError(code, message, more));
  }
}

type Envelope =
  | { readonly ok: true; readonly value: Json }
  | { readonly ok: false; readonly error: ReturnType<NoaError['toBody']> };

function failure(error: unknown): string {
  if (!(error instanceof NoaError)) {
    return JSON.stringify({ code: 'PLUGIN_TRAP', message: 'The sandbox of the plugin failed.' });
  }
  return JSON.stringify(error.toBody());
}

/** A parent may have left descriptors open for its children; nothing of the plugin's runs before this. */
function closeInherited(): void {
  if (process.platform !== 'linux') return;
  for (const name of readdirSync('/proc/self/fdinfo')) {
    if (Number(name) <= CHANNEL) continue;
    const flags = /flags:\s+(\d+)/.exec(readInfo(name))?.[1];
    if (flags !== undefined && (Number.parseInt(flags, 8) & O_CLOEXEC) === 0)
      closeSync(Number(name));
  }
}

/** Empty for the descriptor with which the folder itself was read. */
function readInfo(name: string): string {
  try {
    return readFileSync(`/proc/self/fdinfo/${name}`, 'latin1');
  } catch {
    return '';
  }
}
