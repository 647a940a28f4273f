/** The keys of the section `observability`: what a host tells of itself, and to whom. */
import { choice, fraction, hostname, integer, label, secretText, url } from './kinds.ts';

/** One header as name=value, without a comma in it. */
const HEADER = /^[\w!#$%&'*+.^`|~-]{1,256}=[ -+\--~]{1,4096}$/;

export const observability = {
  log_level: choice(['trace', 'debug', 'info', 'warn', 'error', 'fatal'], 'info', {
    flag: 'log-level',
    reloadable: true,
    description: 'Least level that is logged.',
  }),
  log_format: choice(['json', 'pretty'], undefined, {
    flag: 'log-format',
    description:
      'json for machines, one object a line; pretty for a person. Unset, it is pretty on a terminal and json elsewhere.',
  }),
  metrics_bind: hostname('127.0.0.1', {
    flag: 'metrics-bind',
    description: 'Address of the metrics listener.',
  }),
  metrics_port: integer(0, 65_535, 9100, {
    flag: 'metrics-port',
    description: 'Port of the metrics listener; 0 takes a free one and prints it.',
  }),
  otlp_endpoint: url(['http', 'https'], {
    flag: 'otlp-endpoint',
    description:
      'OpenTelemetry collector that takes traces by OTLP over HTTP: its base URL, to which `/v1/traces` is added. Unset, nothing is traced.',
  }),
  otlp_headers: secretText(
    'headers as name=value with commas between them',
    (text) => text.split(',').every((header) => HEADER.test(header)),
    { description: 'Headers that the collector asks for, such as `authorization=Bearer …`.' },
  ),
  service_name: label('noa', { description: 'What traces call this service.' }),
  trace_ratio: fraction(0.01, {
    description: 'Part of the requests, deliveries and scheduled calls that is traced.',
  }),
  trace_parent: choice(['honour', 'ignore'], 'honour', {
    description:
      'What a caller’s `traceparent` decides. honour: what it records is traced here too, up to `observability.trace_max_per_second`, and what it does not record is not; ignore: `observability.trace_ratio` alone decides. Either way the trace goes on.',
  }),
  trace_max_per_second: integer(0, 100_000, 100, {
    description:
      'Traces a second that callers may ask for by a `traceparent` in each process; beyond, `observability.trace_ratio` decides.',
  }),
};
