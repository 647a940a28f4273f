/** Whether it is a given time of the day or the week somewhere on earth. */

import type { Times } from './settings.ts';

const DAYS = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];
const MINUTE_MS = 60_000;

/** Answers a function of milliseconds since the epoch. */
export function isWithin({ weekdays, from, until, zone = 'UTC' }: Times): (now: number) => boolean {
  if (weekdays === undefined && from === undefined) return () => true;
  const clock = new Intl.DateTimeFormat('en', {
    timeZone: zone,
    weekday: 'short',
    hour: '2-digit',
    minute: '2-digit',
    hourCycle: 'h23',
  });
  const judge = (now: number): boolean => {
    const parts = new Map(clock.formatToParts(now).map(({ type, value }) => [type, value]));
    const day = DAYS.indexOf(String(parts.get('weekday')).toLowerCase());
    const time = `${parts.get('hour')}:${parts.get('minute')}`;
    const isOn = (index: number) => weekdays?.includes(String(DAYS[(index + 7) % 7])) ?? true;
    if (from === undefined || until === undefined) return isOn(day);
    if (from < until) return isOn(day) && time >= from && time < until;
    return (isOn(day) && time >= from) || (isOn(day - 1) && time < until);
  };
  // Within a minute the answer is the same, and formatting costs as much as a request.
  let minute = NaN;
  let answer = false;
  return (now) => {
    const current = Math.floor(now / MINUTE_MS);
    if (current !== minute) answer = judge(now);
    minute = current;
    return answer;
  };
}
