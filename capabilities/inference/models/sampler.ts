/**
 * Chooses the next token from its logits: temperature, then the nucleus of `topP` (Holtzman et al. 2020). With a
 * seed the same logits give the same choices.
 */
import { randomInt } from 'node:crypto';
import type { GenerateParameters } from './runner.ts';

const RANGE = 2 ** 32;

export class Sampler {
  readonly #temperature: number;
  readonly #topP: number;
  #state: number;

  constructor({ temperature, topP, seed }: GenerateParameters) {
    this.#temperature = temperature;
    this.#topP = topP;
    this.#state = (seed ?? randomInt(RANGE)) >>> 0;
  }

  next(logits: Float32Array): number {
    let best = 0;
    for (const [id, logit] of logits.entries()) if (logit > (logits[best] ?? 0)) best = id;
    if (this.#temperature === 0) return best;
    const peak = logits[best] ?? 0;
    const weights = logits.map((logit) => Math.exp((logit - peak) / this.#temperature));
    const total = weights.reduce((sum, each) => sum + each, 0);
    const order = [...weights.keys()].toSorted((a, b) => (weights[b] ?? 0) - (weights[a] ?? 0));
    let nucleus = 0;
    let count = 0;
    while (count < order.length && nucleus < this.#topP * total) {
      nucleus += weights[order[count] ?? 0] ?? 0;
      count += 1;
    }
    let rest = this.#random() * nucleus;
    for (const id of order.slice(0, count)) {
      rest -= weights[id] ?? 0;
      if (rest < 0) return id;
    }
    return best;
  }

  /** From 0 until 1: splitmix32. */
  #random(): number {
    this.#state = (this.#state + 0x9e3779b9) >>> 0;
    let z = this.#state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return ((z ^ (z >>> 15)) >>> 0) / RANGE;
  }
}
