/** What hosts and capability authors import. Plugins import `@noa/sdk`; this entry carries no guest code. */
export * from './capability.ts';
export * from './errors.ts';
export * from './json.ts';
export * from './manifest.ts';
