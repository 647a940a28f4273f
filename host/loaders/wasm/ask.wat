;; Makes a function of the host's one that fits into a module's table: an export of a module is, a plain
;; JavaScript function is not.
(module
  (import "host" "ask" (func $ask (result i32)))
  (export "ask" (func $ask)))
