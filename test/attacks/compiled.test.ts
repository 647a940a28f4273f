/**
 * Compute and memory again, from compilers: what C leaves undefined and what Rust panics at stays inside
 * the module's own memory. A language whose compiler is missing here is skipped, with the reason.
 */
import t from 'tap';
import { cToolchain } from '../../host/cli/author/c.ts';
import { RUST_SDK, rustToolchain } from '../../host/cli/author/rust.ts';
import { missing } from '../sdk/compilers.ts';
import { built, Target } from './target.ts';

const HERE = import.meta.dirname;

const limits = { memoryMiB: 16, timeoutMs: 2000 };

t.test('C', { skip: await missing(() => cToolchain(HERE)) }, async (t) => {
  const vandal = await built(
    {
      name: 'vandal',
      exports: {
        echo: {},
        overflow: {},
        null: {},
        far: {},
        jump: {},
        divide: {},
        deep: {},
        spin: {},
        bomb: {},
        free: {},
      },
      limits,
    },
    {
      'src/vandal.c': `#include <noa.h>
        static volatile int zero = 0;
        NOA_EXPORT(echo, input) { return input; }
        /* Writes over its own stack, data and heap, as far as its memory goes, and beyond. */
        NOA_EXPORT(overflow, input) {
          char small[16];
          volatile char *at = small;
          for (size_t i = 0; i < 64u << 20; i += 1) at[i] = (char)0xff;
          return input;
        }
        NOA_EXPORT(null, input) { *(volatile int *)0 = 1; return input; }
        NOA_EXPORT(far, input) { *(volatile int *)0xfffffff0u = 1; return input; }
        NOA_EXPORT(jump, input) {
          void (*volatile where)(void) = (void (*)(void))(uintptr_t)0x41414141u;
          where();
          return input;
        }
        NOA_EXPORT(divide, input) { return noa_from_number(1000 / zero); }
        static int down(volatile int n) { char page[4096]; page[n & 4095] = (char)n; return down(n + 1) + page[0]; }
        NOA_EXPORT(deep, input) { return noa_from_number(down(0)); }
        NOA_EXPORT(spin, input) { for (;;) zero += 0; return input; }
        NOA_EXPORT(bomb, input) { for (;;) *(volatile char *)noa_alloc(1u << 20) = 1; return input; }
        NOA_EXPORT(free, input) {
          extern void host_free(uint64_t) __attribute__((import_module("extism:host/env"), import_name("free")));
          for (uint64_t at = 0; at < 100000; at += 8) host_free(at);
          return input;
        }`,
    },
  );
  const target = await Target.start(t, [vandal]);
  for (const [name, what] of [
    ['overflow', 'a buffer overflow over all of its memory'],
    ['far', 'a write at the end of the address space'],
    ['jump', 'a jump to an address of its choice'],
    ['divide', 'a division by zero'],
    ['deep', 'a stack that runs into the data'],
    ['spin', 'a loop without end'],
    ['bomb', 'memory without end'],
  ] as const) {
    target.attack(what, { audit: { kind: 'plugin.failure', plugin: 'vandal' } }, async (t) => {
      const { status, body } = await target.call('vandal', name, { n: 1 });
      t.ok([429, 500, 504].includes(status), JSON.stringify(body));
      t.match(await target.call('vandal', 'echo', { n: 2 }), { status: 200, body: { n: 2 } });
    });
  }
  target.attack(
    'a write through null and blocks freed that are not its own',
    { audit: { kind: 'plugin.failure', plugin: 'vandal' } },
    async (t) => {
      // Address 0 is its own memory; what the host holds for the call may not be freed from within.
      t.ok([200, 500].includes((await target.call('vandal', 'null', { n: 1 })).status));
      t.ok([200, 500].includes((await target.call('vandal', 'free', { n: 1 })).status));
      t.match(await target.call('vandal', 'echo', { n: 3 }), { status: 200, body: { n: 3 } });
      await target.call('vandal', 'divide', {});
    },
  );
  target.aftermath();
});

t.test('Rust', { skip: await missing(() => rustToolchain(HERE)) }, async (t) => {
  const ruffian = await built(
    {
      name: 'ruffian',
      exports: {
        echo: {},
        panic: {},
        index: {},
        unsound: {},
        huge: {},
        deep: {},
        thread: {},
        file: {},
      },
      limits,
    },
    {
      'Cargo.toml': `[package]
name = "ruffian"
version = "1.0.0"
edition = "2021"
[lib]
crate-type = ["cdylib"]
[dependencies]
noa-sdk = { path = ${JSON.stringify(RUST_SDK)} }
[profile.release]
panic = "abort"
`,
      'src/lib.rs': `use noa_sdk::{Error, Value};
        noa_sdk::export!(echo, panic, index, unsound, huge, deep, thread, file);
        /// What the compiler must not see through.
        fn opaque<T: Copy>(value: T) -> T { unsafe { std::ptr::read_volatile(&value) } }
        fn echo(input: Value) -> Result<Value, Error> { Ok(input) }
        fn panic(_: Value) -> Result<Value, Error> { panic!("out of spite\\r\\n\\x1b[2Jforged") }
        fn index(_: Value) -> Result<Value, Error> {
            let nothing: Vec<u8> = Vec::new();
            Ok(Value::from(f64::from(nothing[opaque(7)])))
        }
        fn unsound(_: Value) -> Result<Value, Error> {
            let wild = opaque(0xffff_0000usize) as *mut u64;
            unsafe { for i in 0..8192 { wild.add(i).write_volatile(!0) } }
            Ok(Value::Null)
        }
        fn huge(_: Value) -> Result<Value, Error> {
            let mut kept = Vec::new();
            loop { kept.push(vec![opaque(1u8); 1 << 20]) }
        }
        fn deep(_: Value) -> Result<Value, Error> {
            fn down(n: u64) -> u64 { opaque([n; 64])[0] + down(n + 1) }
            Ok(Value::from(down(0) as f64))
        }
        fn thread(_: Value) -> Result<Value, Error> {
            std::thread::spawn(|| loop {}).join().map_err(|_| Error::new("INTERNAL", "no thread"))?;
            Ok(Value::Null)
        }
        fn file(_: Value) -> Result<Value, Error> {
            let text = std::fs::read_to_string("/etc/passwd").unwrap();
            Err(Error::new("NOT_FOUND", &text))
        }`,
    },
  );
  const target = await Target.start(t, [ruffian]);
  for (const [name, what] of [
    ['panic', 'a panic whose message forges'],
    ['index', 'an index beyond the end'],
    ['unsound', 'unsafe writes across the address space'],
    ['huge', 'memory without end'],
    ['deep', 'recursion without end'],
    ['thread', 'a thread of its own'],
    ['file', 'the files of the machine'],
  ] as const) {
    target.attack(what, { audit: { kind: 'plugin.failure', plugin: 'ruffian' } }, async (t) => {
      const { status, body } = await target.call('ruffian', name);
      t.ok([429, 500, 504].includes(status), JSON.stringify(body));
      t.notMatch(JSON.stringify(body), /root:/);
      t.match(await target.call('ruffian', 'echo', { n: 2 }), { status: 200, body: { n: 2 } });
    });
  }
  target.aftermath();
});
