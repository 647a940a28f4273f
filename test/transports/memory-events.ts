/** An event log in memory that counts how often it is read, for fronts over the real kernel. */
import { type CloudEvent, covers, type Json } from '@noa/sdk/host';
import type { EventPage, EventReader } from '../../host/kernel/events.ts';

export class MemoryEvents implements EventReader {
  readonly #events: (CloudEvent | undefined)[] = [];
  readonly #listeners = new Set<() => void>();
  reads = 0;
  /** Rejects all reads while it is set. */
  failure: Error | undefined;

  get listeners(): number {
    return this.#listeners.size;
  }

  /** Tells the listeners unless it is `silent`; answers the id. */
  publish(subject: string, data: Json = null, { silent = false, type = 'told' } = {}): number {
    const id = this.#events.length + 1;
    this.#events.push({
      specversion: '1.0',
      id: String(id),
      source: '/plugins/test',
      type,
      subject,
      time: new Date().toISOString(),
      datacontenttype: 'application/json',
      data,
    });
    if (!silent) this.notice();
    return id;
  }

  notice(): void {
    for (const listener of this.#listeners) listener();
  }

  /** As retention does. */
  drop(until: number): void {
    this.#events.fill(undefined, 0, until);
  }

  async head(): Promise<number> {
    if (this.failure) throw this.failure;
    return this.#events.length;
  }

  async read({ after, subjects, limit }: Parameters<EventReader['read']>[0]): Promise<EventPage> {
    if (this.failure) throw this.failure;
    this.reads += 1;
    const wanted = ({ subject }: CloudEvent) => subjects.some((each) => covers(each, subject));
    const later = this.#events.slice(after);
    const events = later.flatMap((event) => (event && wanted(event) ? event : [])).slice(0, limit);
    const cut = events.length === limit;
    return { events, next: cut ? Number(events.at(-1)?.id) : Math.max(after, this.#events.length) };
  }

  async missing(after: number, until: number): Promise<number> {
    return this.#events.slice(after, until).filter((event) => event === undefined).length;
  }

  async subjects(after: number, limit: number): Promise<{ id: number; subject: string }[]> {
    const later = this.#events.slice(after).flatMap((event) => event ?? []);
    return later.slice(0, limit).map(({ id, subject }) => ({ id: Number(id), subject }));
  }

  onNew(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
