;; Joins QuickJS-NG with NOA's ABI (sdk/abi.md): what the guest library calls and what the host calls.
;;
;; The engine's stack is the first MiB of memory and grows down from its end; it is limited to 192 KiB
;; (see $limit_stack), so the low half is never touched by it and serves here:
;;   8        length written by JS_ToCStringLen2 and JS_GetUint8Array
;;   16..31   arguments of `run`
;;   32..55   arguments of `unhandled`
;;   256..511 static texts
;;   1024     bytes of one block on their way in, up to $low_end; longer ones are malloc'd
;; But for the texts nothing in it outlives an export, and the build leaves it out of the snapshot.
;;
;; A JavaScript value is an i64 whose high half is the tag: 0 integer, 3 undefined, 6 exception.
(module
  (import "qjs" "memory" (memory 0))
  (import "qjs" "__stack_pointer" (global $sp (mut i32)))
  (import "qjs" "qjs_set_max_stack_size" (func $set_stack (param i32)))
  (import "qjs" "qjs_get_context_ptr" (func $ctx (result i32)))
  (import "qjs" "qjs_is_job_pending" (func $is_job_pending (result i32)))
  (import "qjs" "qjs_execute_pending_job" (func $execute_job (result i32)))
  (import "qjs" "wasm_malloc" (func $malloc (param i32) (result i32)))
  (import "qjs" "wasm_free" (func $mfree (param i32)))
  (import "qjs" "JS_Call" (func $js_call (param i32 i64 i64 i32 i32) (result i64)))
  (import "qjs" "JS_DupValue" (func $js_dup (param i32 i64) (result i64)))
  (import "qjs" "JS_FreeValue" (func $js_free (param i32 i64)))
  (import "qjs" "JS_GetException" (func $js_exception (param i32) (result i64)))
  (import "qjs" "JS_ThrowOutOfMemory" (func $js_throw_oom (param i32) (result i64)))
  (import "qjs" "JS_ThrowRangeError" (func $js_throw_range (param i32 i32 i32) (result i64)))
  (import "qjs" "JS_NewNumber" (func $js_number (param i32 f64) (result i64)))
  (import "qjs" "JS_NewStringLen" (func $js_string (param i32 i32 i32) (result i64)))
  (import "qjs" "JS_ToCStringLen2" (func $js_cstring (param i32 i32 i64 i32) (result i32)))
  (import "qjs" "JS_FreeCString" (func $js_free_cstring (param i32 i32)))
  (import "qjs" "JS_ParseJSON" (func $js_parse (param i32 i32 i32 i32) (result i64)))
  (import "qjs" "JS_GetUint8Array" (func $js_bytes (param i32 i32 i64) (result i32)))
  (import "qjs" "JS_NewUint8ArrayCopy" (func $js_new_bytes (param i32 i32 i32) (result i64)))

  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))

  (import "extism:host/env" "input_offset" (func $x_input_offset (result i64)))
  (import "extism:host/env" "input_length" (func $x_input_length (result i64)))
  (import "extism:host/env" "alloc" (func $x_alloc (param i64) (result i64)))
  (import "extism:host/env" "free" (func $x_free (param i64)))
  (import "extism:host/env" "length" (func $x_length (param i64) (result i64)))
  (import "extism:host/env" "output_set" (func $x_output_set (param i64 i64)))
  (import "extism:host/env" "error_set" (func $x_error_set (param i64)))
  (import "extism:host/env" "config_get" (func $x_config_get (param i64) (result i64)))
  (import "extism:host/env" "log_debug" (func $x_log_debug (param i64)))
  (import "extism:host/env" "log_info" (func $x_log_info (param i64)))
  (import "extism:host/env" "log_warn" (func $x_log_warn (param i64)))
  (import "extism:host/env" "log_error" (func $x_log_error (param i64)))
  (import "extism:host/user" "noa_call" (func $noa_call (param i64) (result i64)))
  (import "extism:host/user" "noa_call_bytes" (func $noa_call_bytes (param i64 i64) (result i64)))
  (import "extism:host/user" "noa_reply_bytes" (func $noa_reply_bytes (result i64)))
  (import "extism:host/user" "noa_read" (func $noa_read (param i64 i32 i32)))
  (import "extism:host/user" "noa_write" (func $noa_write (param i64 i32 i32)))
  (import "extism:host/user" "noa_clock" (func $noa_clock (result i64)))
  (import "extism:host/user" "noa_random" (func $noa_random (result i64)))

  ;; The guest library's three functions, bound once at build time and part of the snapshot.
  (global $run (export "noa_run") (mut i64) (i64.const 0))
  (global $step (export "noa_step") (mut i64) (i64.const 0))
  (global $unhandled (export "noa_unhandled") (mut i64) (i64.const 0))

  (global $undefined i64 (i64.const 0x300000000))
  (global $exception i64 (i64.const 0x600000000))
  (global $low i32 (i32.const 1024))
  (global $low_end i32 (i32.const 0x40000))

  ;; Static texts, below the buffer.
  (data (i32.const 256) "out of memory")                              ;; 13 bytes
  (data (i32.const 288) "{\22code\22:\22INVALID_ARGUMENT\22,\22message\22:\22the input is not JSON\22}") ;; 61
  (data (i32.const 384) "the host refused a block of this size\00")
  (data (i32.const 448) "noa")                                        ;; 3
  (data (i32.const 464) "json\00")

  (func $is_exception (param $v i64) (result i32)
    (i64.eq (i64.shr_u (local.get $v) (i64.const 32)) (i64.const 6)))

  ;; ---- blocks of the host <-> linear memory

  ;; A host block of the $n bytes at $p; 0 when the host refuses it.
  (func $store (param $p i32) (param $n i32) (result i64)
    (local $block i64)
    (local.set $block (call $x_alloc (i64.extend_i32_u (local.get $n))))
    (if (i64.ne (local.get $block) (i64.const 0)) (then
      (call $noa_write (local.get $block) (local.get $p) (local.get $n))))
    (local.get $block))

  ;; A copy of $n bytes of a block, ended by a zero byte; 0 when memory is out. Give it to $release.
  (func $load (param $block i64) (param $n i32) (result i32)
    (local $p i32)
    (local.set $p (global.get $low))
    (if (i32.ge_u (local.get $n) (i32.sub (global.get $low_end) (global.get $low))) (then
      (local.set $p (call $malloc (i32.add (local.get $n) (i32.const 1))))
      (if (i32.eqz (local.get $p)) (then (return (i32.const 0))))))
    (call $noa_read (local.get $block) (local.get $p) (local.get $n))
    (i32.store8 (i32.add (local.get $p) (local.get $n)) (i32.const 0))
    (local.get $p))

  (func $release (param $p i32)
    (if (i32.ge_u (local.get $p) (global.get $low_end)) (then (call $mfree (local.get $p)))))

  ;; The engine counts its own stack, and V8 ends a guest whose machine frames need more than about
  ;; 980 KiB. Calls of JavaScript functions need 650 KiB for the 192 that they are given, but the JSON
  ;; parser's frames need eleven bytes of V8's stack for each of the engine's, so it gets 48 more than
  ;; are in use: some 2,900 levels. Both then end in a RangeError that a handler can catch.
  (func $limit_stack (export "noa_limit_stack")
    (call $set_stack (i32.const 0x30000)))

  (func $parse_text (param $p i32) (param $n i32) (result i64)
    (local $v i64) (local $limit i32)
    (local.set $limit (i32.sub (i32.const 0x10C000) (global.get $sp)))
    (if (i32.lt_u (local.get $limit) (i32.const 0x30000)) (then
      (call $set_stack (local.get $limit))))
    (local.set $v (call $js_parse (call $ctx) (local.get $p) (local.get $n) (i32.const 464)))
    (call $limit_stack)
    (local.get $v))

  ;; The JSON text in a block as a value; an exception when it is not JSON or memory is out.
  (func $parse (param $block i64) (param $n i32) (result i64)
    (local $p i32) (local $v i64)
    (local.set $p (call $load (local.get $block) (local.get $n)))
    (if (i32.eqz (local.get $p)) (then (return (call $js_throw_oom (call $ctx)))))
    (local.set $v (call $parse_text (local.get $p) (local.get $n)))
    (call $release (local.get $p))
    (local.get $v))

  ;; A block with the text of a value; 0 with an exception pending when that fails.
  (func $text (param $v i64) (result i64)
    (local $p i32) (local $block i64)
    (local.set $p (call $js_cstring (call $ctx) (i32.const 8) (local.get $v) (i32.const 0)))
    (if (i32.eqz (local.get $p)) (then (return (i64.const 0))))
    (local.set $block (call $store (local.get $p) (i32.load (i32.const 8))))
    (call $js_free_cstring (call $ctx) (local.get $p))
    (if (i64.eqz (local.get $block)) (then
      (drop (call $js_throw_range (call $ctx) (i32.const 384) (i32.const 0)))))
    (local.get $block))

  ;; ---- the guest library's way out: __noa_host(operation, argument…)

  ;; A value as QuickJS's host functions return it, on the heap; 0 is an exception.
  (func $box (param $v i64) (result i32)
    (local $p i32)
    (if (call $is_exception (local.get $v)) (then (return (i32.const 0))))
    (local.set $p (call $malloc (i32.const 8)))
    (if (i32.eqz (local.get $p)) (then
      (call $js_free (call $ctx) (local.get $v))
      (drop (call $js_throw_oom (call $ctx)))
      (return (i32.const 0))))
    (i64.store (local.get $p) (local.get $v))
    (local.get $p))

  (func $argument (param $argv i32) (param $i i32) (result i64)
    (i64.load (i32.load (i32.add (local.get $argv) (i32.shl (local.get $i) (i32.const 2))))))

  (func (export "host_call")
    (param $name i32) (param $name_length i32) (param $this i32) (param $argc i32) (param $argv i32)
    (result i32)
    (call $box (call $operation
      (i32.wrap_i64 (call $argument (local.get $argv) (i32.const 0)))
      (local.get $argc) (local.get $argv))))

  ;; The numbers are those of guest/engine.ts. Operations up to 6 take a text.
  (func $operation (param $op i32) (param $argc i32) (param $argv i32) (result i64)
    (local $argument i64) (local $block i64)
    (local.set $argument (global.get $undefined))
    (if (i32.gt_s (local.get $argc) (i32.const 1)) (then
      (local.set $argument (call $argument (local.get $argv) (i32.const 1)))))
    (if (i32.le_u (local.get $op) (i32.const 6)) (then
      (local.set $block (call $text (local.get $argument)))
      (if (i64.eqz (local.get $block)) (then (return (global.get $exception))))))
    (block $reply_bytes (block $call_bytes (block $parse (block $bind (block $decode (block $encode (block $fill (block $number (block $clock
    (block $config (block $log_error (block $log_warn (block $log_info (block $log_debug
    (block $error (block $output (block $call
      (br_table $call $output $error $log_debug $log_info $log_warn $log_error
        $config $clock $number $fill $encode $decode $bind $parse $call_bytes $reply_bytes
        (local.get $op)))
      ;; 0 call(request) -> reply
      (return (call $take_reply (call $noa_call (local.get $block)) (local.get $block))))
      ;; 1 output(text)
      (call $x_output_set (local.get $block) (call $x_length (local.get $block)))
      (return (global.get $undefined)))
      ;; 2 error(text)
      (call $x_error_set (local.get $block))
      (return (global.get $undefined)))
      ;; 3 to 6 log(text); the block is the host's from here on, as the key of 7 is
      (call $x_log_debug (local.get $block))
      (return (global.get $undefined)))
      (call $x_log_info (local.get $block))
      (return (global.get $undefined)))
      (call $x_log_warn (local.get $block))
      (return (global.get $undefined)))
      (call $x_log_error (local.get $block))
      (return (global.get $undefined)))
      ;; 7 config() -> value, undefined when there is none
      (return (call $reply (call $x_config_get (call $store (i32.const 448) (i32.const 3))))))
      ;; 8 clock() -> milliseconds since the epoch, with their fraction
      (return (call $js_number (call $ctx)
        (f64.div (f64.convert_i64_s (call $noa_clock)) (f64.const 1e6)))))
      ;; 9 number() -> random in [0, 1), 53 bits
      (return (call $js_number (call $ctx)
        (f64.mul (f64.convert_i64_u (i64.shr_u (call $noa_random) (i64.const 11)))
          (f64.const 0x1p-53)))))
      ;; 10 fill(bytes) with random
      (drop (call $random (call $js_bytes (call $ctx) (i32.const 8) (local.get $argument))
        (i32.load (i32.const 8))))
      (return (global.get $undefined)))
      ;; 11 encode(text) -> bytes (UTF-8)
      (return (call $encode_text (local.get $argument))))
      ;; 12 decode(bytes) -> text
      (return (call $js_string (call $ctx)
        (call $js_bytes (call $ctx) (i32.const 8) (local.get $argument))
        (i32.load (i32.const 8)))))
    ;; 13 bind(run, step, unhandled)
    (global.set $run (call $js_dup (call $ctx) (local.get $argument)))
    (global.set $step (call $js_dup (call $ctx) (call $argument (local.get $argv) (i32.const 2))))
    (global.set $unhandled
      (call $js_dup (call $ctx) (call $argument (local.get $argv) (i32.const 3))))
    (return (global.get $undefined)))
    ;; 14 parse(text) -> value
    (return (call $parse_value (local.get $argument))))
    ;; 15 callBytes(request, bytes) -> reply
    (return (call $take_reply_beside (local.get $argument)
      (call $argument (local.get $argv) (i32.const 2)))))
    ;; 16 replyBytes() -> bytes, undefined when there are none
    (call $take_bytes (call $noa_reply_bytes)))

  (func $parse_value (param $text i64) (result i64)
    (local $p i32) (local $v i64)
    (local.set $p (call $js_cstring (call $ctx) (i32.const 8) (local.get $text) (i32.const 0)))
    (if (i32.eqz (local.get $p)) (then (return (global.get $exception))))
    (local.set $v (call $parse_text (local.get $p) (i32.load (i32.const 8))))
    (call $js_free_cstring (call $ctx) (local.get $p))
    (local.get $v))

  ;; The JSON in an answer of the host, undefined for none; frees the answer.
  (func $reply (param $block i64) (result i64)
    (local $v i64)
    (if (i64.eqz (local.get $block)) (then (return (global.get $undefined))))
    (local.set $v
      (call $parse (local.get $block) (i32.wrap_i64 (call $x_length (local.get $block)))))
    (call $x_free (local.get $block))
    (local.get $v))

  (func $take_reply (param $block i64) (param $request i64) (result i64)
    (call $x_free (local.get $request))
    (call $reply (local.get $block)))

  (func $take_reply_beside (param $text i64) (param $bytes i64) (result i64)
    (local $request i64) (local $beside i64) (local $p i32) (local $n i32) (local $reply i64)
    (local.set $request (call $text (local.get $text)))
    (if (i64.eqz (local.get $request)) (then (return (global.get $exception))))
    (local.set $p (call $js_bytes (call $ctx) (i32.const 8) (local.get $bytes)))
    (local.set $n (i32.load (i32.const 8)))
    (if (local.get $n) (then
      (local.set $beside (call $store (local.get $p) (local.get $n)))
      (if (i64.eqz (local.get $beside)) (then
        (call $x_free (local.get $request))
        (return (call $js_throw_range (call $ctx) (i32.const 384) (i32.const 0)))))))
    (local.set $reply (call $noa_call_bytes (local.get $request) (local.get $beside)))
    (if (local.get $n) (then (call $x_free (local.get $beside))))
    (call $take_reply (local.get $reply) (local.get $request)))

  ;; The bytes in an answer of the host, undefined for none; frees the answer.
  (func $take_bytes (param $block i64) (result i64)
    (local $p i32) (local $n i32) (local $bytes i64)
    (if (i64.eqz (local.get $block)) (then (return (global.get $undefined))))
    (local.set $n (i32.wrap_i64 (call $x_length (local.get $block))))
    (local.set $p (call $load (local.get $block) (local.get $n)))
    (call $x_free (local.get $block))
    (if (i32.eqz (local.get $p)) (then (return (call $js_throw_oom (call $ctx)))))
    (local.set $bytes (call $js_new_bytes (call $ctx) (local.get $p) (local.get $n)))
    (call $release (local.get $p))
    (local.get $bytes))

  (func $encode_text (param $v i64) (result i64)
    (local $p i32) (local $bytes i64)
    (local.set $p (call $js_cstring (call $ctx) (i32.const 8) (local.get $v) (i32.const 0)))
    (if (i32.eqz (local.get $p)) (then (return (global.get $exception))))
    (local.set $bytes (call $js_new_bytes (call $ctx) (local.get $p) (i32.load (i32.const 8))))
    (call $js_free_cstring (call $ctx) (local.get $p))
    (local.get $bytes))

  ;; ---- the host's way in

  ;; Every export of a plugin is a stub that calls this with the number of its handler.
  ;; Runs the handler, then pending jobs, until `step` says that the call has ended: its status.
  (func (export "noa_dispatch") (param $index i32) (result i32)
    (local $input i64) (local $n i32) (local $r i64)
    (local.set $input (global.get $undefined))
    (local.set $n (i32.wrap_i64 (call $x_input_length)))
    (if (local.get $n) (then
      (local.set $input (call $parse (call $x_input_offset) (local.get $n)))
      (if (call $is_exception (local.get $input)) (then
        (call $js_free (call $ctx) (call $js_exception (call $ctx)))
        (call $x_error_set (call $store (i32.const 288) (i32.const 61)))
        (return (i32.const 1))))))
    (i64.store (i32.const 16) (i64.extend_i32_u (local.get $index)))
    (i64.store (i32.const 24) (local.get $input))
    (local.set $r (call $js_call (call $ctx) (global.get $run) (global.get $undefined)
      (i32.const 2) (i32.const 16)))
    (call $js_free (call $ctx) (local.get $input))
    (if (call $is_exception (local.get $r)) (then (return (call $fail))))
    (call $js_free (call $ctx) (local.get $r))
    (loop $steps
      (call $drain)
      (local.set $r (call $js_call (call $ctx) (global.get $step) (global.get $undefined)
        (i32.const 0) (i32.const 16)))
      (if (call $is_exception (local.get $r)) (then (return (call $fail))))
      (br_if $steps (i32.lt_s (i32.wrap_i64 (local.get $r)) (i32.const 0))))
    (i32.wrap_i64 (local.get $r)))

  ;; Runs jobs until none is pending. One that throws (queueMicrotask) is reported as unhandled.
  (func $drain
    (loop $jobs
      (if (call $is_job_pending) (then
        (if (i32.lt_s (call $execute_job) (i32.const 0)) (then
          (call $report (global.get $undefined) (call $js_exception (call $ctx)) (i32.const 0))))
        (br $jobs)))))

  ;; unhandled(promise, reason, handledLater); takes both values over.
  (func $report (param $promise i64) (param $reason i64) (param $handled i32)
    (local $r i64)
    (i64.store (i32.const 32) (local.get $promise))
    (i64.store (i32.const 40) (local.get $reason))
    (i64.store (i32.const 48) (i64.extend_i32_u (local.get $handled)))
    (local.set $r (call $js_call (call $ctx) (global.get $unhandled) (global.get $undefined)
      (i32.const 3) (i32.const 32)))
    (call $js_free (call $ctx) (local.get $promise))
    (call $js_free (call $ctx) (local.get $reason))
    (if (call $is_exception (local.get $r)) (then (local.set $r (call $js_exception (call $ctx)))))
    (call $js_free (call $ctx) (local.get $r)))

  (func (export "host_promise_rejection") (param $promise i32) (param $reason i32) (param $handled i32)
    (call $report (i64.load (local.get $promise)) (i64.load (local.get $reason))
      (local.get $handled))
    (call $mfree (local.get $promise))
    (call $mfree (local.get $reason)))

  ;; The guest library itself threw, which only exhausted memory makes it do: say so and end the call.
  (func $fail (result i32)
    (local $exception i64) (local $block i64)
    (local.set $exception (call $js_exception (call $ctx)))
    (local.set $block (call $text (local.get $exception)))
    (if (i64.eqz (local.get $block)) (then
      (call $js_free (call $ctx) (call $js_exception (call $ctx)))
      (local.set $block (call $store (i32.const 256) (i32.const 13)))))
    (call $js_free (call $ctx) (local.get $exception))
    (call $x_error_set (local.get $block))
    (i32.const 1))

  ;; ---- what the engine asks of its surroundings

  (func (export "host_get_timezone_offset") (param i32 i32) (result i32) (i32.const 0)) ;; UTC
  (func (export "host_interrupt") (result i32) (i32.const 0)) ;; the host ends a runaway from outside
  (func (export "host_module_normalize") (param i32 i32) (result i32) (i32.const 0))
  (func (export "host_module_load") (param i32 i32) (result i32) (i32.const 0))
)
