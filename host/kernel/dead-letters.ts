/**
 * Events that a plugin failed to take, for administrators: to see why, to deliver again, to drop. A letter
 * goes only when its export has answered or an administrator drops it.
 */
import { NoaError } from '@noa/sdk/host';
import type { Audit } from './audit.ts';
import { deliver, deliveryRecord } from './delivery.ts';
import type { DeadLetter, DeliveryStore } from './events.ts';
import type { StoreTx } from './store.ts';
import type { TriggerPowers } from './trigger.ts';

/** Letters that one request delivers again. */
const RETRY_AT_ONCE = 100;

export interface DeadLetterPage {
  readonly letters: readonly DeadLetter[];
  /** Cursor of the next page, null after the last. */
  readonly next: string | null;
}

export interface RetryReport {
  readonly delivered: number;
  /** These stay, with the new reason. */
  readonly failed: readonly DeadLetter[];
  /** Letters that this request had no room for: ask again. */
  readonly more: boolean;
}

export interface DeadLettersOptions extends TriggerPowers {
  readonly store: DeliveryStore;
  readonly audit: Audit<StoreTx>;
  /** Throws NOT_FOUND when no plugin has this name. */
  readonly assertPlugin: (name: string) => void;
  /** Throws NOT_FOUND, GRANT_PENDING, PLUGIN_DISABLED … when the plugin cannot be called. */
  readonly assertServing: (name: string) => void;
}

export class DeadLetters {
  readonly #options: DeadLettersOptions;

  constructor(options: DeadLettersOptions) {
    this.#options = options;
  }

  /** Oldest first. */
  async list(plugin: string, query: { cursor?: string; limit: number }): Promise<DeadLetterPage> {
    this.#options.assertPlugin(plugin);
    const { cursor = '0', limit } = query;
    const after = Number(cursor);
    const found = await this.#options.store.letters({ plugin, after, limit: limit + 1 });
    const letters = found.slice(0, limit);
    return { letters, next: found.length > limit ? (letters.at(-1)?.id ?? null) : null };
  }

  /** Delivers one again, or all in order. Throws NOT_FOUND, PLUGIN_DISABLED … when it cannot. */
  async retry(
    plugin: string,
    id: string | undefined,
    actor: string,
    signal: AbortSignal,
  ): Promise<RetryReport> {
    const { store, audit, assertServing } = this.#options;
    // Its letters say why it failed, not that it was away.
    assertServing(plugin);
    const limit = RETRY_AT_ONCE + 1;
    const found =
      id === undefined
        ? await store.letters({ plugin, after: 0, limit })
        : [await this.#letter(plugin, id)];
    const failed: DeadLetter[] = [];
    let delivered = 0;
    for (const letter of found.slice(0, RETRY_AT_ONCE)) {
      if (signal.aborted) break;
      const failure = await deliver(this.#options, letter, letter.event, signal);
      audit.record({ ...deliveryRecord(letter, letter.event, failure), actor });
      if (failure === undefined) {
        await store.dropLetters(plugin, Number(letter.id));
        delivered += 1;
        continue;
      }
      const { code, message } = failure;
      const why = { attempts: letter.attempts + 1, code, reason: message.slice(0, 1000) };
      await store.keepLetter(letter, why);
      failed.push({ ...letter, ...why });
    }
    return { delivered, failed, more: found.length > RETRY_AT_ONCE };
  }

  /** Answers how many were dropped. Throws NOT_FOUND when the one named is not there. */
  async drop(plugin: string, id: string | undefined, actor: string): Promise<number> {
    this.#options.assertPlugin(plugin);
    if (id !== undefined) await this.#letter(plugin, id);
    const dropped = await this.#options.store.dropLetters(
      plugin,
      id === undefined ? undefined : Number(id),
    );
    this.#options.audit.record({
      kind: 'event.drop',
      actor,
      plugin,
      capability: 'events',
      operation: null,
      resources: [],
      outcome: 'ok',
      code: null,
      details: { dropped, ...(id === undefined ? {} : { letter: id }) },
    });
    return dropped;
  }

  async #letter(plugin: string, id: string): Promise<DeadLetter> {
    const letter = await this.#options.store.letter(plugin, Number(id));
    if (letter !== undefined) return letter;
    const advice = `noa plugin dead-letters ${plugin}`;
    throw new NoaError('NOT_FOUND', `plugin ${plugin} has no dead letter ${id}: ${advice}`);
  }
}
