/**
 * How a test run reads: one line a file as it ends, what was skipped in it, what failed of a file that
 * failed, and a last line `N passed, N failed` (assertions). A file that crashed or timed out counts as a failure even when
 * none of its assertions failed.
 */
import { Transform, type TransformCallback } from 'node:stream';

/** A result of the run itself: a file, or the time-out that ended it. */
const FILE = /^(not )?ok \d+ - (.*)$/;
const SKIPPED = /^\s+ok \d+ - (.*) # SKIP ?(.*)$/;
const TOTALS = /^# \{ total: \d+(.*) \}$/;
/** Lines of a failed file that say nothing about the failure. */
const NOISE = /^\s*(ok \d+.*|\d+\.\.\d+|# time=.*|TAP version .*)?$/;

export default class Reporter extends Transform {
  #partial = '';
  #block: string[] = [];
  #skipped: string[] = [];
  /** Inside the diagnosis that follows a failed file's line. */
  #diagnosis = false;
  #badFiles = 0;
  #passed = 0;
  #failed = 0;

  override _transform(chunk: Buffer, _encoding: string, done: TransformCallback): void {
    const lines = (this.#partial + chunk.toString()).split('\n');
    this.#partial = lines.pop() ?? '';
    for (const line of lines) this.#line(line);
    done();
  }

  override _flush(done: TransformCallback): void {
    this.#line(this.#partial);
    this.push(`${this.#passed} passed, ${Math.max(this.#failed, this.#badFiles)} failed\n`);
    done();
  }

  #line(line: string): void {
    const file = FILE.exec(line);
    const totals = TOTALS.exec(line)?.[1];
    if (file) {
      const failed = file[1] !== undefined;
      this.push(`${failed ? '✖' : '✔'} ${file[2]}\n${this.#skipped.join('')}`);
      if (failed) {
        this.#badFiles += 1;
        this.push(this.#block.map((text) => `${text}\n`).join(''));
      }
      this.#diagnosis = failed;
      this.#block = [];
      this.#skipped = [];
    } else if (totals !== undefined) {
      this.#passed = Number(/pass: (\d+)/.exec(totals)?.[1] ?? 0);
      this.#failed = Number(/fail: (\d+)/.exec(totals)?.[1] ?? 0);
    } else if (line.startsWith('Bail out!')) {
      this.#badFiles += 1;
      this.push(`${line}\n`);
    } else if (this.#diagnosis && line.startsWith('  ')) {
      this.push(`${line}\n`);
    } else {
      this.#diagnosis = false;
      const skipped = SKIPPED.exec(line);
      if (skipped) this.#skipped.push(`  skipped: ${skipped[1]} (${skipped[2]})\n`);
      if (!NOISE.test(line)) this.#block.push(line);
    }
  }
}
