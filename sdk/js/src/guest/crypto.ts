/** Web Crypto's random part, from the host's source at every call: nothing of it is in the snapshot. */
import * as engine from './engine.ts';

export function getRandomValues<View extends ArrayBufferView>(view: View): View {
  if (
    !ArrayBuffer.isView(view) ||
    view instanceof DataView ||
    view.constructor.name.startsWith('Float')
  ) {
    throw new TypeError('crypto.getRandomValues takes an integer typed array');
  }
  if (view.byteLength > 65_536) {
    throw new DOMException(
      'crypto.getRandomValues fills 65536 bytes at most',
      'QuotaExceededError',
    );
  }
  engine.fill(new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
  return view;
}

/** RFC 9562, version 4. */
export function randomUUID(): `${string}-${string}-${string}-${string}-${string}` {
  const bytes = getRandomValues(new Uint8Array(16));
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  const part = (from: number, to: number): string => hex.slice(from, to);
  return `${part(0, 8)}-${part(8, 12)}-${part(12, 16)}-${part(16, 20)}-${part(20, 32)}`;
}
