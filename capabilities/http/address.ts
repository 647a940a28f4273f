/**
 * Which network addresses plugins may be connected to. Invariant: the address that was judged is the one
 * that is connected to, for the judgement is made inside the lookup of the connection itself.
 *
 * Public addresses are open to whoever has the grant. Private ones (loopback, private use, shared, unique
 * local) only under host names that the operator listed, so that no name of somebody else's can be pointed
 * at them. All others, link-local with its metadata services among them, never. Sources: the IANA
 * registries of special-purpose addresses; RFC 4291 and RFC 6052 for IPv4 inside IPv6.
 */
import { lookup as lookupName, type LookupAddress } from 'node:dns';
import { BlockList, isIP, type LookupFunction } from 'node:net';
import { NoaError } from '@noa/sdk/host';

/** All addresses of a host name; rejects when there are none. */
export type Resolve = (host: string) => Promise<readonly LookupAddress[]>;

const PRIVATE_4 = ['10.0.0.0/8', '100.64.0.0/10', '127.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16'];
const NEVER_4 = [
  '0.0.0.0/8',
  '100.100.100.200/32', // metadata of a cloud, as are the next and the one in NEVER_6
  '168.63.129.16/32',
  '169.254.0.0/16',
  '192.0.0.0/24',
  '192.0.2.0/24',
  '192.88.99.0/24',
  '198.18.0.0/15',
  '198.51.100.0/24',
  '203.0.113.0/24',
  '224.0.0.0/3',
];
const PRIVATE_6 = ['::1/128', 'fc00::/7'];
const NEVER_6 = ['2001::/23', '2001:db8::/32', '2002::/16', '3fff::/20', 'fd00:ec2::254/128'];
/** What carries an IPv4 address in its last 32 bits: IPv4-mapped, and NAT64 by its well-known prefix. */
const CARRIERS = ['::ffff:', '64:ff9b::'];

const privates = listOf([...PRIVATE_4, ...carried(PRIVATE_4), ...PRIVATE_6]);
const nevers = listOf([...NEVER_4, ...carried(NEVER_4), ...NEVER_6]);
const others = listOf(['0.0.0.0/0', ...carried(['0.0.0.0/0']), '2000::/3']);

/** What an address is to plugins; whatever is not known to be public or private is `never`. */
export function reachOf(address: string): 'public' | 'private' | 'never' {
  const version = isIP(address);
  if (version === 0 || address.includes('%')) return 'never';
  const family = version === 4 ? 'ipv4' : 'ipv6';
  if (nevers.check(address, family)) return 'never';
  if (privates.check(address, family)) return 'private';
  return others.check(address, family) ? 'public' : 'never';
}

export class Gatekeeper {
  readonly #privateHosts: ReadonlySet<string>;
  readonly #resolve: Resolve;
  /** Look-ups hold threads of the process: one at a time for each name. */
  readonly #pending = new Map<string, Promise<readonly LookupAddress[]>>();

  constructor(privateHosts: readonly string[], resolve: Resolve = resolveName) {
    this.#privateHosts = new Set(privateHosts.map(canonicalHost));
    this.#resolve = resolve;
  }

  /** Refuses a URL whose host is a forbidden address; names are judged when they are looked up. */
  admit(url: URL): void {
    const host = bare(url.hostname);
    if (isIP(host) !== 0) this.#judge(url.hostname, [host]);
  }

  /** The lookup of a connection to this URL: answers judged addresses or fails. */
  lookupFor(url: URL): LookupFunction {
    return (host, { all }, answer) => void this.#look(url, host, all === true, answer);
  }

  async #look(
    url: URL,
    host: string,
    all: boolean,
    answer: Parameters<LookupFunction>[2],
  ): Promise<void> {
    let found: readonly LookupAddress[];
    try {
      found = await this.#addresses(host);
      this.#judge(
        url.hostname,
        found.map(({ address }) => address),
      );
    } catch (error) {
      return answer(error instanceof Error ? error : new Error(String(error)), '');
    }
    const [first = { address: '', family: 0 }] = found;
    return all ? answer(null, [...found]) : answer(null, first.address, first.family);
  }

  #addresses(host: string): Promise<readonly LookupAddress[]> {
    const pending = this.#pending.get(host);
    if (pending !== undefined) return pending;
    const started = this.#resolve(host).finally(() => this.#pending.delete(host));
    this.#pending.set(host, started);
    return started;
  }

  /** One forbidden address among them is enough: nobody mixes these without intent. */
  #judge(host: string, addresses: readonly string[]): void {
    if (addresses.length === 0) throw new TypeError('a resolver answered no address');
    for (const address of addresses) {
      const reach = reachOf(address);
      if (reach === 'public' || (reach === 'private' && this.#privateHosts.has(host))) continue;
      throw new NoaError(
        'CAPABILITY_DENIED',
        `http: this host does not connect plugins to ${host}: it is not at public addresses alone; the ` +
          'operator can list a host of a private network in plugins.http_private_hosts',
      );
    }
  }
}

/** `Example.com` → `example.com`, `::1` → `[::1]`. Throws NoaError INVALID_ARGUMENT. */
function canonicalHost(host: string): string {
  const url = URL.parse(`http://${isIP(host) === 6 ? `[${host}]` : host}/`);
  if (url !== null && url.host !== '' && url.href === `http://${url.hostname}/`)
    return url.hostname;
  throw new NoaError(
    'INVALID_ARGUMENT',
    `plugins.http_private_hosts: ${JSON.stringify(host.slice(0, 200))} must be a host name or an address`,
  );
}

/** A host of a URL without the brackets of IPv6. */
export function bare(hostname: string): string {
  return hostname.startsWith('[') ? hostname.slice(1, -1) : hostname;
}

function resolveName(host: string): Promise<readonly LookupAddress[]> {
  return new Promise((resolve, reject) => {
    lookupName(host, { all: true }, (error, found) => (error ? reject(error) : resolve(found)));
  });
}

function carried(ranges: readonly string[]): string[] {
  return CARRIERS.flatMap((carrier) =>
    ranges.map((range) => {
      const [address = '', bits = ''] = range.split('/');
      return `${carrier}${address}/${96 + Number(bits)}`;
    }),
  );
}

function listOf(ranges: readonly string[]): BlockList {
  const list = new BlockList();
  for (const range of ranges) {
    const [address = '', bits = ''] = range.split('/');
    list.addSubnet(address, Number(bits), address.includes(':') ? 'ipv6' : 'ipv4');
  }
  return list;
}
