/**
 * `noa serve`: runs a host until it is told to stop. What a person needs to know is on standard error,
 * so that standard output is the log and nothing else.
 */
import type { Command } from 'commander';
import { type Config, configChanges, loadConfig } from '../config.ts';
import type { Host } from '../start.ts';
import { VERSION } from '../version.ts';
import { addConfigOptions, type ConfigFlags, loadOptions } from './config-options.ts';
import type { Session } from './session.ts';

/** Beyond the drain that the configuration allows: what closing the engines may take. */
const CLOSE_MS = 20_000;

/** Keys that stand for what all workers share. */
const OF_THE_FLEET =
  /^(data|database\.url|cache\.url|server\.(workers|host|port)|observability\.metrics_|plugins\.blob)/;

/**
 * Adds `noa serve`, whose flags are those of the configuration's keys. It ends with 0 after SIGINT or
 * SIGTERM, with 1 when it cannot start, cannot go on, or is told a second time while it stops.
 */
export function registerServe(program: Command, session: Session): void {
  const command = program.command('serve').description('run a host until it is told to stop');
  addConfigOptions(command)
    .option('--check-config', 'check the configuration and end')
    .action(async (given: ConfigFlags & { readonly checkConfig?: true }) => {
      const { checkConfig, ...flags } = given;
      const load = (): Config => loadConfig(loadOptions(flags, session.io));
      if (checkConfig) {
        load();
        session.result({ ok: true }, 'the configuration is right');
        return;
      }
      session.io.outliveReaders();
      const tell = (line: string): void => void session.io.stderr.write(`${line}\n`);
      session.exitCode = await serve({ tell, load });
    });
}

interface ServeIo {
  /** Writes a line for a person. */
  readonly tell: (line: string) => void;
  /** Reads the configuration again, for SIGHUP. Throws ConfigError. */
  readonly load: () => Config;
}

/** Resolves with the exit code when the host has ended. Rejects with NoaError when it cannot start. */
async function serve(io: ServeIo): Promise<number> {
  const config = io.load();
  const stop = Promise.withResolvers<'signal'>();
  const onStop = (): void => stop.resolve('signal');
  process.once('SIGTERM', onStop).once('SIGINT', onStop);
  // Loaded here: no other command has to wait for a whole host's code.
  const begin =
    config.server.workers > 1
      ? (await import('../fleet/fleet.ts')).startFleet
      : (await import('../start.ts')).startHost;
  const host = await begin(config, (step) => io.tell(`… ${step}`));
  for (const line of banner(host)) io.tell(line);
  let current = config;
  const onReload = (): void => {
    current = reload(host, current, io);
  };
  process.on('SIGHUP', onReload);

  const reason = await Promise.race([stop.promise, host.failed]);
  if (reason instanceof Error) io.tell(`error: ${reason.message}; the host stops`);
  else io.tell('stopping: running requests are finished first; again to stop at once');
  process.removeAllListeners('SIGTERM').removeAllListeners('SIGINT');
  process.once('SIGTERM', () => process.exit(1)).once('SIGINT', () => process.exit(1));
  const late = setTimeout(
    () => {
      io.tell('error: the host did not stop in time and ends now');
      process.exit(1);
    },
    config.server.drain_ms + config.plugins.drain_ms + CLOSE_MS,
  );
  late.unref();
  await host.stop();
  process.removeListener('SIGHUP', onReload);
  clearTimeout(late);
  return reason instanceof Error ? 1 : 0;
}

function banner(host: Host): string[] {
  const lines = [
    `NOA ${VERSION}`,
    `  Listening on ${host.url}`,
    `  Metrics on ${host.metricsUrl}/metrics`,
    `  Embedded: ${host.embedded.length > 0 ? host.embedded.join(', ') : 'nothing'}`,
    `  Data in ${host.dataPath}`,
  ];
  if (host.newToken !== undefined) {
    lines.push(
      `  Administrator token, shown this once and kept in the data folder: ${host.newToken}`,
    );
  }
  lines.push('  Next: npx noa plugin new hello');
  return lines;
}

/** Takes over what may change while running, and says what has to wait for a restart. */
function reload(host: Host, current: Config, io: ServeIo): Config {
  try {
    const next = io.load();
    const { reloadable, needRestart } = configChanges(current, next);
    host.reload(next);
    if (current.server.workers > 1) {
      io.tell('reloading: the workers are replaced one by one, and the log says when it is done');
      const kept = needRestart.filter((path) => OF_THE_FLEET.test(path));
      if (kept.length > 0) io.tell(`a restart is needed for: ${kept.join(', ')}`);
      return next;
    }
    io.tell(`reloaded: ${reloadable.length > 0 ? reloadable.join(', ') : 'nothing'} changed`);
    if (needRestart.length > 0) io.tell(`a restart is needed for: ${needRestart.join(', ')}`);
    return next;
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    io.tell(`error: the configuration was not reloaded: ${error.message}`);
    return current;
  }
}
