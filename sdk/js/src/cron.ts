/** Times of a cron expression: five fields (minute, hour, day, month, weekday), or six with seconds first. */
import { Cron } from 'croner';

/**
 * The first time after `after`, both in milliseconds since the epoch; null when there is none. `timezone`
 * is an IANA name, UTC when absent. In a change of the clocks an hour that is skipped fires once after it,
 * one that comes twice fires at its first. Throws Error that says what is wrong with the expression.
 */
export function nextCronTime(cron: string, timezone: string, after: number): number | null {
  const schedule = new Cron(cron, { paused: true, timezone, mode: '5-or-6-parts' });
  return schedule.nextRun(new Date(after))?.getTime() ?? null;
}
