;; WASI as far as QuickJS's C library asks for it: the clock and randomness of the host, and no files
;; (8 is EBADF).
(module
  (import "qjs" "memory" (memory 0))
  (import "extism:host/user" "noa_clock" (func $noa_clock (result i64)))
  (import "extism:host/user" "noa_random" (func $noa_random (result i64)))

  (func (export "clock_time_get") (param $id i32) (param $precision i64) (param $p i32) (result i32)
    (i64.store align=1 (local.get $p) (call $noa_clock))
    (i32.const 0))

  ;; Eight bytes a call of the host; the rest comes out of one last word.
  (func (export "random_get") (param $p i32) (param $n i32) (result i32)
    (local $word i64)
    (block $rest
      (loop $words
        (br_if $rest (i32.lt_u (local.get $n) (i32.const 8)))
        (i64.store align=1 (local.get $p) (call $noa_random))
        (local.set $p (i32.add (local.get $p) (i32.const 8)))
        (local.set $n (i32.sub (local.get $n) (i32.const 8)))
        (br $words)))
    (if (local.get $n) (then
      (local.set $word (call $noa_random))
      (loop $bytes
        (i64.store8 (local.get $p) (local.get $word))
        (local.set $word (i64.shr_u (local.get $word) (i64.const 8)))
        (local.set $p (i32.add (local.get $p) (i32.const 1)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (br_if $bytes (local.get $n)))))
    (i32.const 0))

  (func (export "fd_close") (param i32) (result i32) (i32.const 8))
  (func (export "fd_fdstat_get") (param i32 i32) (result i32) (i32.const 8))
  (func (export "fd_seek") (param i32 i64 i32 i32) (result i32) (i32.const 8))
  (func (export "fd_write") (param i32 i32 i32 i32) (result i32) (i32.const 8))
)
