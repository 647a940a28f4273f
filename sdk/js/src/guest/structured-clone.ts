/** structuredClone (HTML, section 2.7) for what a plugin can hold: no transfer but of ArrayBuffers. */

type View = new (buffer: ArrayBufferLike, offset: number, length: number) => ArrayBufferView;

const ERRORS: { readonly [name: string]: ErrorConstructor | undefined } = {
  EvalError,
  RangeError,
  ReferenceError,
  SyntaxError,
  TypeError,
  URIError,
};

export function structuredClone<Value>(
  value: Value,
  options: { transfer?: readonly ArrayBuffer[] } = {},
): Value {
  const copy = clone(value, new Map()) as Value;
  for (const buffer of options.transfer ?? []) buffer.transfer();
  return copy;
}

function clone(value: unknown, seen: Map<object, unknown>): unknown {
  if (typeof value === 'symbol' || typeof value === 'function') throw refuse(value);
  if (typeof value !== 'object' || value === null) return value;
  const known = seen.get(value);
  if (known !== undefined) return known;
  const keep = <Copy extends object>(copy: Copy): Copy => {
    seen.set(value, copy);
    return copy;
  };
  if (Array.isArray(value)) return fill(keep(Array.from({ length: value.length })), value, seen);
  if (value instanceof Date) return keep(new Date(value));
  if (value instanceof RegExp) return keep(new RegExp(value.source, value.flags));
  if (value instanceof ArrayBuffer) return keep(value.slice(0));
  if (ArrayBuffer.isView(value)) {
    const buffer = clone(value.buffer, seen) as ArrayBufferLike;
    const length =
      value instanceof DataView ? value.byteLength : Number(Reflect.get(value, 'length'));
    return keep(new (value.constructor as View)(buffer, value.byteOffset, length));
  }
  if (value instanceof Map) {
    const copy = keep(new Map<unknown, unknown>());
    for (const [key, inner] of Array.from(value)) copy.set(clone(key, seen), clone(inner, seen));
    return copy;
  }
  if (value instanceof Set) {
    const copy = keep(new Set<unknown>());
    for (const inner of Array.from(value)) copy.add(clone(inner, seen));
    return copy;
  }
  if (value instanceof Error) {
    const copy = keep(new (ERRORS[value.name] ?? Error)(value.message));
    for (const key of ['stack', 'cause'] as const) {
      if (Object.hasOwn(value, key)) hide(copy, key, clone(value[key], seen));
    }
    return copy;
  }
  const tag = Object.prototype.toString.call(value).slice(8, -1);
  if (['Boolean', 'Number', 'String', 'BigInt'].includes(tag)) return keep(Object(value.valueOf()));
  if (['Promise', 'WeakMap', 'WeakSet', 'WeakRef', 'Generator', 'AsyncGenerator'].includes(tag)) {
    throw refuse(value);
  }
  return fill(keep({}), value, seen);
}

/** Own enumerable properties; a key `__proto__` stays a property. */
function fill<Target extends object>(
  target: Target,
  source: object,
  seen: Map<object, unknown>,
): Target {
  for (const [key, inner] of Object.entries(source)) {
    const value = clone(inner, seen);
    Object.defineProperty(target, key, {
      value,
      writable: true,
      enumerable: true,
      configurable: true,
    });
  }
  return target;
}

function hide(target: object, key: string, value: unknown): void {
  Object.defineProperty(target, key, { value, writable: true, configurable: true });
}

function refuse(value: unknown): DOMException {
  return new DOMException(`${String(value)} could not be cloned`, 'DataCloneError');
}
