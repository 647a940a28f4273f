/** The conformance plugin (../../README.md) in AssemblyScript, on the ports that every author uses. */
import {
  Value,
  array,
  blob,
  clock,
  config,
  fail as failure,
  log,
  object,
  random,
  run,
  tryCall,
} from '@noa/assemblyscript';

export function echo(): i32 {
  return run((input: Value): Value => input);
}

export function fail(): i32 {
  return run((input: Value): Value => {
    return failure(input.get('code').text(), input.get('message').text(), input.get('details'));
  });
}

export function crash(): i32 {
  return run((input: Value): Value => {
    throw new Error(input.get('message').text());
  });
}

export function call(): i32 {
  return run((input: Value): Value => {
    const args = object()
      .set('plugin', input.get('plugin'))
      .set('export', input.get('export'))
      .set('input', input.get('input'));
    const reply = tryCall('plugin', 'call', args);
    if (reply.error.isNull() || !input.get('catch').isTrue()) return reply.orFail();
    return object().set('error', reply.error);
  });
}

export function bytes(): i32 {
  return run((input: Value): Value => {
    const made = new Uint8Array(<i32>input.get('length').float());
    for (let i = 0; i < made.length; i += 1) made[i] = <u8>(31 * i + 7);
    const written = blob.write('conformance', made.buffer);
    const read = Uint8Array.wrap(blob.read('conformance'));
    return object()
      .set('size', written.get('size'))
      .set('length', Value.number(read.length))
      .set('hash', Value.number(hash(read)));
  });
}

export function environment(): i32 {
  return run((input: Value): Value => {
    const level = input.get('level').text();
    const message = input.get('message').text();
    if (level == 'debug') log.debug(message);
    else if (level == 'info') log.info(message);
    else if (level == 'warn') log.warn(message);
    else log.error(message);
    const drawn = random.bytes(16);
    const numbers = array();
    for (let i = 0; i < drawn.length; i += 1) numbers.push(Value.number(drawn[i]));
    return object()
      .set('config', config())
      .set('epochMs', Value.number(<f64>clock.now()))
      .set('random', numbers);
  });
}

/** FNV-1a, 32 bits. */
function hash(bytes: Uint8Array): u32 {
  let sum: u32 = 2_166_136_261;
  for (let i = 0; i < bytes.length; i += 1) sum = (sum ^ bytes[i]) * 16_777_619;
  return sum;
}
