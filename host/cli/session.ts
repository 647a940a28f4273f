/** One run of the command line: where its output goes, and the way to a running host. */
import { text as readAll } from 'node:stream/consumers';
import { type Json, NoaError } from '@noa/sdk/host';
import { type Config, loadConfig } from '../config.ts';
import { readBootstrapToken } from '../data-folder.ts';
import type { AuthorIo } from './author/io.ts';
import { AdminClient } from './client.ts';
import { describeFailure, type Failure } from './failure.ts';
import type { ProcessIo } from './io.ts';
import { visible } from './terminal.ts';

export const DEFAULT_URL = 'http://127.0.0.1:8080';

export class Session implements AuthorIo {
  readonly io: ProcessIo;
  /** 0 done, 1 refused or failed, 2 usage. */
  exitCode = 0;
  readonly #json: boolean;
  #options: { readonly url?: string; readonly token?: string } = {};
  #signal: AbortSignal | undefined;

  constructor(io: ProcessIo, json: boolean) {
    this.io = io;
    this.#json = json;
  }

  readonly json = (): boolean => this.#json;

  /** Aborts at the first SIGINT or SIGTERM; a command that never asks for it is ended by them. */
  get signal(): AbortSignal {
    if (this.#signal === undefined) {
      const controller = new AbortController();
      this.io.onInterrupt(() => controller.abort());
      this.#signal = controller.signal;
    }
    return this.#signal;
  }

  /** Takes `--url` and `--token`. */
  useOptions(options: { readonly url?: string; readonly token?: string }): void {
    this.#options = options;
  }

  result(value: unknown, text: string): void {
    this.io.stdout.write(`${visible(this.#json ? JSON.stringify(value) : text)}\n`);
  }

  note(text: string): void {
    if (!this.#json) this.io.stderr.write(`${visible(text)}\n`);
  }

  fail(failure: Failure, exitCode: number): void {
    this.exitCode = exitCode;
    if (this.#json) this.io.stdout.write(`${visible(JSON.stringify({ error: failure }))}\n`);
    else this.io.stderr.write(`${describeFailure(failure)}\n`);
  }

  stdin(): Promise<string> {
    return readAll(this.io.stdin);
  }

  /** The configuration of a host that would start here. Throws ConfigError. */
  config(): Config {
    return loadConfig({ env: this.io.env, cwd: this.io.cwd });
  }

  /** Where the host is that this run speaks to. */
  get url(): string {
    return this.#options.url ?? nonEmpty(this.io.env['NOA_URL']) ?? DEFAULT_URL;
  }

  async client(): Promise<AdminClient> {
    return new AdminClient(this.url, await this.#token());
  }

  async request<T = Json>(...request: Parameters<AdminClient['request']>): Promise<T> {
    return (await this.client()).request<T>(...request);
  }

  /** All items of a list that is answered in pages; `path` may have a query. */
  async requestAll<T>(path: string, member: string): Promise<T[]> {
    const client = await this.client();
    const items: T[] = [];
    for (let cursor: string | null = ''; cursor !== null;) {
      const url: URL = new URL(path, client.url);
      if (cursor !== '') url.searchParams.set('cursor', cursor);
      const page = await client.request('GET', url.pathname + url.search);
      const { [member]: list, next } = page as { [member: string]: unknown };
      items.push(...(list as T[]));
      cursor = typeof next === 'string' ? next : null;
    }
    return items;
  }

  async connect(): Promise<AdminClient | undefined> {
    if (!(await new AdminClient(this.url, '').answers())) return undefined;
    return this.client();
  }

  async #token(): Promise<string> {
    const given = this.#options.token ?? nonEmpty(this.io.env['NOA_TOKEN']);
    if (given !== undefined) return given;
    const { auth, data } = this.config();
    const token = auth.bootstrap_token ?? (await readBootstrapToken(data.path));
    if (token !== undefined) return token;
    // Most often there is no token because there was no start yet.
    await new AdminClient(this.url, '').request('GET', '/health');
    throw new NoaError(
      'UNAUTHENTICATED',
      `no token: give --token or NOA_TOKEN, or set NOA_DATA__PATH to the host's data folder (there is no readable bootstrap-token in ${data.path})`,
    );
  }
}

function nonEmpty(text: string | undefined): string | undefined {
  return text === '' ? undefined : text;
}
