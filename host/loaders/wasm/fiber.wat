;; A stack that outlives its calls. Each `fiber(i)` waits in `next(i)` for work, runs the function that
;; the host put into slot i of the table, reports its result by `done`, and waits again.
;; The engine (V8 13.6) keeps 4 MiB of retired stacks and gives the others back only in part: a stack a
;; call would leak about 0.9 MiB of address space and 2 KiB of page tables for each call of a burst.
(module
  (type $entry (func (result i32)))
  (import "host" "table" (table 1 funcref))
  (import "host" "next" (func $next (param i32)))
  (import "host" "done" (func $done (param i32 i32)))
  (func (export "fiber") (param $slot i32)
    (loop $again
      (call $next (local.get $slot))
      (call $done (local.get $slot) (call_indirect (type $entry) (local.get $slot)))
      (br $again))))
