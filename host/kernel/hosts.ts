/** The port to the list of the hosts that share one database. */
export interface HostView {
  /** Of a host with several workers, each stands as `<id>-<number>`, as its chain in the audit log does. */
  readonly id: string;
  readonly version: string;
  /** Where it listens, as it sees it. */
  readonly url: string;
  /** Away: not seen for a minute. */
  readonly state: 'present' | 'away';
  /** ISO 8601. */
  readonly startedAt: string;
  readonly seenAt: string;
}

export interface Hosts {
  /** By id. Rejects with UNAVAILABLE when the database is away. */
  list(): Promise<readonly HostView[]>;
}
