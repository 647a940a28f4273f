/** The one list of built-in capabilities: a new one is a folder in capabilities/ and a line here. */
import type { Driver } from '@noa/sdk/host';
import { cache } from '../capabilities/cache/capability.ts';
import { clock } from '../capabilities/clock/capability.ts';
import { db } from '../capabilities/db/capability.ts';
import { log } from '../capabilities/log/capability.ts';
import { plugin } from '../capabilities/plugin/capability.ts';
import { random } from '../capabilities/random/capability.ts';
import type { CapabilityEntry } from './kernel/broker.ts';

/** The driver of each capability, chosen by configuration in main.ts. */
export interface Drivers {
  readonly db: Driver;
  readonly cache: Driver;
  readonly plugin: Driver;
  readonly log: Driver;
  readonly clock: Driver;
  readonly random: Driver;
}

export function builtinCapabilities(drivers: Drivers): readonly CapabilityEntry[] {
  return [
    { capability: db, driver: drivers.db },
    { capability: cache, driver: drivers.cache },
    { capability: plugin, driver: drivers.plugin },
    { capability: log, driver: drivers.log },
    { capability: clock, driver: drivers.clock },
    { capability: random, driver: drivers.random },
  ];
}
