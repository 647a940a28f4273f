;; The memory that host and guest exchange blocks through: the storage half of `extism:host/env`.
;; One instance serves one guest instance. It is WebAssembly and not JavaScript because a guest copies
;; eight bytes a call: between two modules that costs a nanosecond, through a JavaScript number sixteen.
;;
;; Blocks grow upwards from BASE and never move. A header of 16 bytes stands before each block:
;;   +0 mark (MARK xor address while the block is live, else 0)  +4 capacity  +8 length  +12 next free
;; Freed blocks wait in lists by the power of two below their capacity (heads at 64 + 4 * class).
;; `reset` wipes everything that was handed out, so no call reads what an earlier one left.
;; A guest can scribble over headers: it harms its own call only, for every access is bounds-checked by
;; the engine and the host trusts no address it reads here.
(module
  (import "host" "memory" (memory 1))
  (global $BASE i32 (i32.const 256))
  (global $MARK i32 (i32.const 0x4e4f4121))
  (global $top (mut i32) (i32.const 256))
  (global $input (mut i32) (i32.const 0))
  (global $input_length (mut i32) (i32.const 0))
  ;; What the guest declared. Length -1: it named bytes that cannot be here.
  (global $output (export "output") (mut i32) (i32.const 0))
  (global $output_length (export "outputLength") (mut i32) (i32.const 0))
  (global $error (export "error") (mut i32) (i32.const 0))

  (func (export "reset")
    (memory.fill (i32.const 64) (i32.const 0) (i32.sub (global.get $top) (i32.const 64)))
    (global.set $top (global.get $BASE))
    (global.set $input (i32.const 0))
    (global.set $input_length (i32.const 0))
    (global.set $output (i32.const 0))
    (global.set $output_length (i32.const 0))
    (global.set $error (i32.const 0)))

  (func $head (param $capacity i32) (result i32)
    (i32.add (i32.const 64)
      (i32.shl (i32.sub (i32.const 31) (i32.clz (local.get $capacity))) (i32.const 2))))

  ;; Takes the first block of one list when it is large enough; 0 otherwise.
  (func $pop (param $head i32) (param $capacity i32) (result i32)
    (local $block i32)
    (local.set $block (i32.load (local.get $head)))
    (if (i32.eqz (local.get $block)) (then (return (i32.const 0))))
    (if (i32.lt_u (i32.load (i32.sub (local.get $block) (i32.const 12))) (local.get $capacity))
      (then (return (i32.const 0))))
    (i32.store (local.get $head) (i32.load (i32.sub (local.get $block) (i32.const 4))))
    (local.get $block))

  ;; Grows the memory so that $end is inside it: by doubling when the cap allows, else just enough.
  (func $reserve (param $end i32) (result i32)
    (local $missing i32)
    (local.set $missing (i32.sub
      (i32.shr_u (i32.add (local.get $end) (i32.const 65535)) (i32.const 16))
      (memory.size)))
    (if (i32.le_s (local.get $missing) (i32.const 0)) (then (return (i32.const 1))))
    (if (i32.lt_u (local.get $missing) (memory.size))
      (then (if (i32.ne (memory.grow (memory.size)) (i32.const -1)) (then (return (i32.const 1))))))
    (i32.ne (memory.grow (local.get $missing)) (i32.const -1)))

  ;; A block of $length bytes, or 0 when the length is 0 or the cap is reached.
  (func $take (export "take") (param $length i32) (result i32)
    (local $capacity i32) (local $head i32) (local $block i32)
    (if (i32.gt_u (i32.sub (local.get $length) (i32.const 1)) (i32.const 0x3fffffff))
      (then (return (i32.const 0))))
    (local.set $capacity (i32.and (i32.add (local.get $length) (i32.const 7)) (i32.const -8)))
    (local.set $head (call $head (local.get $capacity)))
    (local.set $block (call $pop (local.get $head) (local.get $capacity)))
    (if (i32.eqz (local.get $block)) (then
      (local.set $block
        (call $pop (i32.add (local.get $head) (i32.const 4)) (local.get $capacity)))))
    (if (i32.eqz (local.get $block)) (then
      (local.set $block (i32.add (global.get $top) (i32.const 16)))
      (if (i32.eqz (call $reserve (i32.add (local.get $block) (local.get $capacity))))
        (then (return (i32.const 0))))
      (global.set $top (i32.add (local.get $block) (local.get $capacity)))
      (i32.store (i32.sub (local.get $block) (i32.const 12)) (local.get $capacity))))
    (i32.store (i32.sub (local.get $block) (i32.const 16))
      (i32.xor (global.get $MARK) (local.get $block)))
    (i32.store (i32.sub (local.get $block) (i32.const 8)) (local.get $length))
    (local.get $block))

  ;; Whether a live block starts at this address.
  (func $live (param $block i32) (result i32)
    (if (i32.lt_u (local.get $block) (i32.add (global.get $BASE) (i32.const 16)))
      (then (return (i32.const 0))))
    (if (i32.ge_u (local.get $block) (global.get $top)) (then (return (i32.const 0))))
    (i32.eq (i32.load (i32.sub (local.get $block) (i32.const 16)))
      (i32.xor (global.get $MARK) (local.get $block))))

  ;; Bytes of the live block at this address; 0 when there is none.
  (func $size (export "size") (param $block i32) (result i32)
    (if (i32.eqz (call $live (local.get $block))) (then (return (i32.const 0))))
    (i32.load (i32.sub (local.get $block) (i32.const 8))))

  (func $drop (export "drop") (param $block i32)
    (local $head i32)
    (if (i32.eqz (call $live (local.get $block))) (then (return)))
    (local.set $head (call $head (i32.load (i32.sub (local.get $block) (i32.const 12)))))
    (i32.store (i32.sub (local.get $block) (i32.const 16)) (i32.const 0))
    (i32.store (i32.sub (local.get $block) (i32.const 4)) (i32.load (local.get $head)))
    (i32.store (local.get $head) (local.get $block)))

  ;; The address as 32 bits; 0, which is never a block, when it does not fit.
  (func $narrow (param $address i64) (result i32)
    (select (i32.wrap_i64 (local.get $address)) (i32.const 0)
      (i64.le_u (local.get $address) (i64.const 0x7fffffff))))

  ;; Whether the bytes named lie in the block that begins at the address or, where none begins, among all
  ;; that were handed out in this call; no bytes lie anywhere. The input is a block as any other.
  (func (export "holds") (param $address i64) (param $length i32) (result i32)
    (local $at i32)
    (if (i32.eqz (local.get $length)) (then (return (i32.const 1))))
    (local.set $at (call $narrow (local.get $address)))
    (if (call $live (local.get $at))
      (then (return (i32.le_u (local.get $length) (call $size (local.get $at))))))
    (if (i32.lt_u (local.get $at) (global.get $BASE)) (then (return (i32.const 0))))
    (if (i32.gt_u (local.get $at) (global.get $top)) (then (return (i32.const 0))))
    (i32.le_u (local.get $length) (i32.sub (global.get $top) (local.get $at))))

  (func (export "setInput") (param $block i32) (param $length i32)
    (global.set $input (local.get $block))
    (global.set $input_length (local.get $length)))

  ;; From here on: imports of the guest, by the names and types of the Extism ABI.
  (func (export "alloc") (param $length i64) (result i64)
    (i64.extend_i32_u (call $take (call $narrow (local.get $length)))))
  (func (export "free") (param $block i64)
    (call $drop (call $narrow (local.get $block))))
  (func $length (export "length") (param $block i64) (result i64)
    (i64.extend_i32_u (call $size (call $narrow (local.get $block)))))
  (export "length_unsafe" (func $length))
  (func (export "load_u8") (param $address i64) (result i32)
    (i32.load8_u (i32.wrap_i64 (local.get $address))))
  (func (export "load_u64") (param $address i64) (result i64)
    (i64.load align=1 (i32.wrap_i64 (local.get $address))))
  (func (export "store_u8") (param $address i64) (param $value i32)
    (i32.store8 (i32.wrap_i64 (local.get $address)) (local.get $value)))
  (func (export "store_u64") (param $address i64) (param $value i64)
    (i64.store align=1 (i32.wrap_i64 (local.get $address)) (local.get $value)))
  (func (export "input_offset") (result i64)
    (i64.extend_i32_u (global.get $input)))
  (func (export "input_length") (result i64)
    (i64.extend_i32_u (global.get $input_length)))
  (func (export "input_load_u8") (param $at i64) (result i32)
    (if (i64.ge_u (local.get $at) (i64.extend_i32_u (global.get $input_length)))
      (then (return (i32.const 0))))
    (i32.load8_u (i32.add (global.get $input) (i32.wrap_i64 (local.get $at)))))
  (func (export "input_load_u64") (param $at i64) (result i64)
    (if (i32.or
          (i64.gt_u (local.get $at) (i64.const 0x7fffffff))
          (i64.gt_u (i64.add (local.get $at) (i64.const 8))
            (i64.extend_i32_u (global.get $input_length))))
      (then (return (i64.const 0))))
    (i64.load align=1 (i32.add (global.get $input) (i32.wrap_i64 (local.get $at)))))
  (func (export "output_set") (param $at i64) (param $length i64)
    (global.set $output (call $narrow (local.get $at)))
    (global.set $output_length (select
      (i32.wrap_i64 (local.get $length)) (i32.const -1)
      (i32.and
        (i64.le_u (local.get $at) (i64.extend_i32_u (global.get $top)))
        (i64.le_u (local.get $length)
          (i64.sub (i64.extend_i32_u (global.get $top)) (local.get $at)))))))
  (func (export "error_set") (param $block i64)
    (global.set $error (call $narrow (local.get $block)))))
