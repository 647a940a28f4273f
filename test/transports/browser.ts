/** A real browser, driven by the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/). */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { WebSocket } from 'ws';

const PATHS = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
const WAIT_MS = 20_000;

/** Why there is no browser here, or false. */
export const noBrowser: string | false = PATHS.some((path) => existsSync(path))
  ? false
  : 'needs chromium (Debian package chromium)';

interface Message {
  readonly id?: number;
  readonly method?: string;
  readonly params?: { readonly [name: string]: unknown };
  readonly result?: { readonly [name: string]: unknown };
  readonly error?: { readonly message: string };
}

export class Browser {
  /** What pages complained about: errors, exceptions, broken policies. */
  readonly complaints: string[] = [];
  readonly #socket: WebSocket;
  readonly #waiting = new Map<number, (message: Message) => void>();
  readonly #end: () => Promise<void>;
  #session: string | undefined;
  #last = 0;

  private constructor(socket: WebSocket, end: () => Promise<void>) {
    this.#socket = socket;
    this.#end = end;
    socket.on('message', (data: Buffer) => this.#hear(JSON.parse(data.toString()) as Message));
  }

  static async start(): Promise<Browser> {
    const folder = await mkdtemp(join(tmpdir(), 'noa-browser-'));
    const path = PATHS.find((each) => existsSync(each)) ?? '';
    const child = spawn(
      path,
      [
        '--headless=new',
        '--no-sandbox', // tests may run as root
        '--disable-gpu',
        '--disable-dev-shm-usage',
        '--disable-background-networking',
        '--no-first-run',
        '--remote-debugging-port=0',
        '--window-size=1280,1600',
        `--user-data-dir=${folder}`,
        'about:blank',
      ],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
    const address = await new Promise<string>((resolve, reject) => {
      let text = '';
      child.stderr.setEncoding('utf8').on('data', (part: string) => {
        text += part;
        const found = /DevTools listening on (ws:\S+)/.exec(text)?.[1];
        if (found !== undefined) resolve(found);
      });
      child.once('error', reject);
      child.once('exit', () => reject(new Error(`the browser did not start:\n${text}`)));
    });
    const socket = new WebSocket(address);
    await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
    const browser = new Browser(socket, async () => {
      child.kill('SIGKILL');
      await gone;
      // Its helpers write for a moment longer.
      await rm(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
    });
    const { targetId } = await browser.send('Target.createTarget', { url: 'about:blank' });
    const attached = await browser.send('Target.attachToTarget', { targetId, flatten: true });
    browser.#session = String(attached['sessionId']);
    for (const domain of ['Page', 'Runtime', 'Log']) await browser.send(`${domain}.enable`);
    return browser;
  }

  #hear(message: Message): void {
    if (message.id !== undefined) this.#waiting.get(message.id)?.(message);
    const { params } = message;
    if (message.method === 'Runtime.exceptionThrown') this.complaints.push(JSON.stringify(params));
    if (message.method !== 'Log.entryAdded') return;
    const entry = params?.['entry'] as { level: string; text: string; url?: string };
    if (entry.level === 'error') this.complaints.push(`${entry.text} ${entry.url ?? ''}`);
  }

  async send(method: string, params: object = {}): Promise<{ readonly [name: string]: unknown }> {
    const id = (this.#last += 1);
    const session = this.#session === undefined ? {} : { sessionId: this.#session };
    const answer = await new Promise<Message>((resolve) => {
      this.#waiting.set(id, resolve);
      this.#socket.send(JSON.stringify({ id, method, params, ...session }));
    });
    this.#waiting.delete(id);
    if (answer.error !== undefined) throw new Error(`${method}: ${answer.error.message}`);
    return answer.result ?? {};
  }

  async open(url: string): Promise<void> {
    await this.send('Page.navigate', { url });
    // It answers before the page is there.
    await this.until(`location.href !== 'about:blank' && document.readyState === 'complete'`);
  }

  /** The value of an expression in the page. */
  async evaluate<T>(expression: string): Promise<T> {
    const answer = await this.send('Runtime.evaluate', { expression, returnByValue: true });
    const { result, exceptionDetails } = answer as {
      result: { value?: T };
      exceptionDetails?: { exception?: { description?: string } };
    };
    if (exceptionDetails !== undefined) {
      throw new Error(exceptionDetails.exception?.description ?? 'the page threw');
    }
    return result.value as T;
  }

  /** Waits until an expression is true in the page. */
  async until(expression: string): Promise<void> {
    for (const end = Date.now() + WAIT_MS; Date.now() < end; await sleep(50)) {
      if (await this.evaluate<boolean>(`Boolean(${expression})`)) return;
    }
    const text = await this.evaluate<string>('document.body.innerText');
    throw new Error(`never true: ${expression}; the page shows: ${text.slice(0, 1000)}`);
  }

  /** Clicks what a selector finds, once it is there. */
  async click(selector: string): Promise<void> {
    const element = `document.querySelector(${JSON.stringify(selector)})`;
    await this.until(element);
    await this.evaluate(`${element}.click()`);
  }

  /** Types into the field that a selector finds, once it is there. */
  async type(selector: string, text: string): Promise<void> {
    const element = `document.querySelector(${JSON.stringify(selector)})`;
    await this.until(element);
    await this.evaluate(`${element}.focus()`);
    await this.send('Input.insertText', { text });
  }

  async screenshot(): Promise<Buffer> {
    const { data } = await this.send('Page.captureScreenshot', { format: 'png' });
    return Buffer.from(String(data), 'base64');
  }

  async close(): Promise<void> {
    this.#socket.terminate();
    await this.#end();
  }
}
