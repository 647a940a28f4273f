/** The plugins that run apart from the others, by name, so that a new load of one does not clear it. */
export class Suspects {
  /** Until when, by `performance.now()`. Those that are past go when the next comes. */
  readonly #until = new Map<string, number>();

  has(name: string | undefined): boolean {
    return name !== undefined && (this.#until.get(name) ?? 0) > performance.now();
  }

  add(name: string, ms: number): void {
    const now = performance.now();
    for (const [other, end] of this.#until) if (end <= now) this.#until.delete(other);
    this.#until.set(name, Math.max(now + ms, this.#until.get(name) ?? 0));
  }
}
